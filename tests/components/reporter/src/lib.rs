//! A handler that does what the message says:
//!
//! - `where`: publishes to `out.reporter` where and for whom it runs;
//! - `count A B …`: counts, by these labels;
//! - `series N`: the same, with N labels that nobody has seen;
//! - `log N`: logs a line of N bytes, and prints another;
//! - `linger`: computes until nobody waits for it any more.

use parti_guest::metrics::{Counter, Gauge, Histogram};
use parti_guest::{Error, Failure, Handler, Message, OpenReason, OrFail, Partition, Snapshot, Verdict, context, log};

struct Reporter {
    done: Counter,
    bytes: Histogram,
    last: Gauge,
}

impl Handler for Reporter {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self {
            done: Counter::declare("done", "Messages by what they say.", &["word"])?,
            bytes: Histogram::declare("size_bytes", "Bytes of a message.", &[], &[10.0, 100.0])?,
            last: Gauge::declare("last_sequence", "Sequence of the last message.", &[])?,
        })
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        self.bytes.observe(message.payload.len() as f64, &[]);
        self.last.set(message.sequence as f64, &[]);
        let mut words = message.text()?.split(' ');
        let word = words.next().unwrap_or_default();
        let mut number = || words.next().unwrap_or_default().parse::<usize>().or_reject();
        match word {
            "where" => {
                let place = format!(
                    "{} {} {:?} {:?} {:?} {}",
                    context::worker(),
                    context::group(),
                    context::stream(),
                    context::epoch(),
                    message.trace_parent(),
                    !context::remaining().is_zero() && !context::cancelled(),
                );
                message.publish("out.reporter", place)?;
            }
            "count" => words.for_each(|word| self.done.inc(&[word])),
            "series" => (0..number()?).for_each(|n| self.done.inc(&[&format!("{}-{n}", message.sequence)])),
            "log" => {
                let line = "x".repeat(number()?);
                log::info!("{line}");
                println!("{line}");
            }
            "linger" => {
                while !context::cancelled() {
                    std::hint::black_box(());
                }
                return Err(Failure::Retry);
            }
            other => return Err(Failure::reject(format!("{other} means nothing"))),
        }
        Ok(())
    }
}

parti_guest::export!(Reporter);
