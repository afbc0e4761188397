//! How many instances the kernel has room for in this process: memory maps, address space, and descriptors.
//!
//! Checked when a worker starts, because an instance beyond the room fails to open, and so does anything else then that maps memory.
//! Linux only; elsewhere there is nothing to read, and nothing is said.

use super::host::MAX_DESCRIPTORS;
use rustix::process::{Resource, getrlimit};

/// What the kernel allows this process, and what the process has of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    maps: Use,
    address: Use,
    descriptors: Use,
}

/// A resource of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    max: u64,
    used: u64,
}

impl Use {
    /// How often `each` fits into what is left when `reserve` is kept free.
    fn fits(self, each: u64, reserve: u64) -> u64 {
        self.max.saturating_sub(self.used).saturating_sub(reserve) / each
    }

    /// What the limit must be for `count` times `each`, with the reserve.
    fn needed(self, count: u64, each: u64, reserve: u64) -> u64 {
        self.used.saturating_add(reserve).saturating_add(count.saturating_mul(each))
    }
}

impl Room {
    /// Maps of one instance of a small component: memory, its image and guards, tables, and the stack that its calls run on. Measured
    /// with wasmtime 48 on Linux (a test holds it); a component of many core modules (Python) takes several times as many.
    const MAPS: u64 = 7;

    /// Maps kept free for threads, compiled code and the allocator.
    const MAPS_RESERVE: u64 = 2_000;

    /// Address space of one instance with one memory: wasmtime reserves all of the 4 GiB that the memory could ever have, with guards
    /// around them, so that it need not check bounds. Nothing of it is used until the guest does.
    const ADDRESS: u64 = (4 << 30) + (256 << 20);

    /// Descriptors kept free for connections, requests and files of the host.
    const DESCRIPTORS_RESERVE: u64 = 256;

    /// Address space kept free for threads, compiled code and the allocator.
    const ADDRESS_RESERVE: u64 = 8 << 30;

    /// What the processor can address: 47 bits on x86-64, and no less on ARM.
    const ADDRESS_MAX: u64 = 1 << 47;

    /// What the kernel says of this process; `None` where it does not.
    #[must_use]
    pub fn read() -> Option<Self> {
        let max = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
        let used = std::fs::read("/proc/self/maps").ok()?.iter().filter(|byte| **byte == b'\n').count();
        let maps = Use { max, used: used.try_into().ok()? };
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
        let kibibytes: u64 = size.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let limit = getrlimit(Resource::As).current.unwrap_or(Self::ADDRESS_MAX).min(Self::ADDRESS_MAX);
        let address = Use { max: limit, used: kibibytes.saturating_mul(1 << 10) };
        let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
        let descriptors =
            Use { max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), used: open.try_into().ok()? };
        Some(Self { maps, address, descriptors })
    }

    /// Further instances of a small component that fit.
    #[must_use]
    pub fn instances(&self) -> u64 {
        let address = self.address.fits(Self::ADDRESS, Self::ADDRESS_RESERVE);
        self.maps.fits(Self::MAPS, Self::MAPS_RESERVE).min(address)
    }

    /// What to tell the operator if `wanted` further instances do not fit, which may be ones with a granted directory.
    #[must_use]
    pub fn warnings(&self, wanted: u64, with_files: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let fit = self.maps.fits(Self::MAPS, Self::MAPS_RESERVE);
        if wanted > fit {
            let needed = self.maps.needed(wanted, Self::MAPS, Self::MAPS_RESERVE);
            warnings.push(format!(
                "vm.max_map_count is {}, which leaves room for about {fit} handler instances, but {wanted} may be needed. \
                 Set it to {needed} or more (`sysctl -w vm.max_map_count={needed}`), or spread the partitions over more workers",
                self.maps.max
            ));
        }
        let fit = self.address.fits(Self::ADDRESS, Self::ADDRESS_RESERVE);
        if wanted > fit {
            let needed = self.address.needed(wanted, Self::ADDRESS, Self::ADDRESS_RESERVE);
            let advice = if needed > Self::ADDRESS_MAX {
                "Spread the partitions over more workers".to_owned()
            } else {
                format!("Set it to {} KiB or more (`ulimit -v`, or LimitAS of systemd), or to unlimited", needed >> 10)
            };
            warnings.push(format!(
                "The address space of this process is {} GiB, which leaves room for about {fit} handler instances, but {wanted} may \
                 be needed: each reserves 4 GiB of addresses, whatever it uses. {advice}",
                self.address.max >> 30
            ));
        }
        let fit = self.descriptors.fits(MAX_DESCRIPTORS, Self::DESCRIPTORS_RESERVE);
        if with_files && wanted > fit {
            let needed = self.descriptors.needed(wanted, MAX_DESCRIPTORS, Self::DESCRIPTORS_RESERVE);
            warnings.push(format!(
                "This process may have {} open files, which leaves room for about {fit} handler instances with a granted directory, but \
                 {wanted} may be needed: each can open {MAX_DESCRIPTORS}. Set the limit to {needed} or more (`ulimit -n`, or LimitNOFILE of \
                 systemd), or spread the partitions over more workers",
                self.descriptors.max
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: Use = Use { max: 1 << 47, used: 1 << 30 };

    fn room(maps: Use, address: Use) -> Room {
        Room { maps, address, descriptors: ENOUGH }
    }

    #[test]
    fn too_few_descriptors_are_noticed_before_guests_use_them_up() {
        let room = Room { maps: ENOUGH, address: ENOUGH, descriptors: Use { max: 1_024, used: 108 } };
        assert_eq!(room.warnings(20, true), [""; 0]);
        let [warning] = room.warnings(21, true).try_into().unwrap();
        assert!(warning.contains("1024 open files") && warning.contains("1057 or more"), "{warning}");
        assert_eq!(room.warnings(21, false), [""; 0]);
    }

    #[test]
    fn too_few_memory_maps_are_noticed_before_instances_fail() {
        let few = room(Use { max: 65_530, used: 530 }, ENOUGH);
        assert_eq!(few.instances(), 9_000);
        assert_eq!(few.warnings(9_000, false), [""; 0]);
        let [warning] = few.warnings(9_001, false).try_into().unwrap();
        assert!(warning.contains("vm.max_map_count=65537"), "{warning}");
        assert_eq!(room(Use { max: 100, used: 500 }, ENOUGH).instances(), 0);
    }

    #[test]
    fn too_little_address_space_is_noticed_before_instances_fail() {
        let maps = Use { max: 1 << 30, used: 0 };
        let narrow = room(maps, Use { max: 64 << 30, used: 1 << 30 });
        assert_eq!(narrow.instances(), 12);
        assert_eq!(narrow.warnings(12, false), [""; 0]);
        let [warning] = narrow.warnings(13, false).try_into().unwrap();
        assert!(warning.contains("64 GiB") && warning.contains("67371008 KiB"), "{warning}");
        let [warning] = room(maps, ENOUGH).warnings(40_000, false).try_into().unwrap();
        assert!(warning.contains("Spread the partitions"), "{warning}");
    }
}
