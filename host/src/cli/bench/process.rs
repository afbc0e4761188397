//! What processes cost, from `/proc`. Where there is none, nothing is told.

use std::fs;
use std::time::Duration;

/// Ticks of a second in `/proc/PID/stat`: 100 on every Linux (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

/// Processor time that a process has used.
pub(super) fn computed(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What stands before may contain anything; the numbers begin after the name of the program.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(Duration::from_secs_f64(ticks / TICKS))
}

/// The most memory that a process has had resident, in bytes.
pub(super) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_computed_and_holds_memory() {
        let me = std::process::id();
        let before = computed(me).unwrap();
        let begun = std::time::Instant::now();
        while computed(me).unwrap() <= before {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        assert!(peak_memory(me).unwrap() > 1 << 20);
        assert_eq!((computed(u32::MAX), peak_memory(u32::MAX)), (None, None));
    }
}
