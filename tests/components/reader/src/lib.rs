//! A handler that publishes to `out.reader` what it finds: each environment variable, and the content of the file in its directory
//! that the message names. It also tries to write the file, and says if it can. With `hold N` it opens its directory N times.

use parti_guest::{Error, Handler, Message, OpenReason, OrFail, Partition, Snapshot, Verdict};
use wasip2::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip2::{cli, filesystem};

struct Reader;

impl Handler for Reader {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        for (name, value) in cli::environment::get_environment() {
            message.publish("out.reader", format!("{name}={value}"))?;
        }
        for (directory, path) in filesystem::preopens::get_directories() {
            if let Some(count) = message.text()?.strip_prefix("hold ") {
                let count: usize = count.parse().or_reject()?;
                let again = |_| directory.open_at(PathFlags::empty(), ".", OpenFlags::DIRECTORY, DescriptorFlags::READ);
                let held = (0..count).map(again).collect::<Result<Vec<_>, _>>().or_reject()?;
                message.publish("out.reader", held.len().to_string())?;
                continue;
            }
            let open =
                |flags, how| directory.open_at(PathFlags::SYMLINK_FOLLOW, message.text().unwrap_or("/"), flags, how);
            if open(OpenFlags::CREATE, DescriptorFlags::WRITE).is_ok() {
                message.publish("out.reader", "written")?;
            }
            let file = open(OpenFlags::empty(), DescriptorFlags::READ).or_reject()?;
            let (content, _) = file.read(1 << 10, 0).or_reject()?;
            message.publish("out.reader", format!("{path}: {}", String::from_utf8_lossy(&content)))?;
        }
        Ok(())
    }
}

parti_guest::export!(Reader);
