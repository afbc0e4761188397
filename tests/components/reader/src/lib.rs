//! A handler that publishes to `out.reader` what it finds: each environment variable, and the content of the file in its directory
//! that the message names. It also tries to write the file, and says if it can.

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
