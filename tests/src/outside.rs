//! Everything that was published against everything that came out: the one check that all tests of the data path share.
//!
//! It knows of the fleet only what any client of NATS can see: the stream that is worked on, the streams that take outputs and
//! dead letters, and the ownership records with position and state.

use crate::fleet::{partition, subject};
use crate::handling::{Account, Effect, Handling, canonical};
use crate::records::Records;
use crate::stream::{Stored, create_replicated_stream, duplicate_window, messages, read_stream};
use crate::wait::{DEADLINE, eventually};
use async_nats::jetstream::Context;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

/// Keys of a fleet's configuration that let its dead letters go where they are looked for.
#[must_use]
pub fn dead_letters() -> Value {
    json!({ "handler": { "deadLetter": { "subject": "dead.letters" } } })
}

/// Findings that a verdict tells in words.
const EXAMPLES: usize = 12;

const PAUSE: Duration = Duration::from_millis(100);

/// The streams of a handler: `work`, whatever takes its outputs, and `dead`.
pub async fn create_streams(context: &Context, handling: Handling, replicas: usize) {
    for name in ["work", handling.output(), "dead"] {
        create_replicated_stream(context, name, &format!("{name}.>"), replicas).await;
    }
}

/// What must come of everything that stream `work` holds.
pub struct Expected {
    context: Context,
    handling: Handling,
    accounts: BTreeMap<String, Account>,
    messages: u64,
}

impl Expected {
    /// Reads the stream, which must not grow any more.
    pub async fn of(context: &Context, handling: Handling, partitions: usize) -> Self {
        let published = read_stream(context, "work").await;
        let mut by_subject: HashMap<&str, Vec<&Stored>> = HashMap::new();
        for message in &published {
            by_subject.entry(&message.subject).or_default().push(message);
        }
        let accounts = (0..partitions).map(|n| {
            let messages = by_subject.remove(subject(n).as_str()).unwrap_or_default();
            (partition(n), handling.account(&partition(n), &messages))
        });
        Self { context: context.clone(), handling, accounts: accounts.collect(), messages: published.len() as u64 }
    }

    /// Waits until everything seems to be handled and committed, and judges; judges also when the time is over. Tells how long
    /// it has waited.
    pub async fn handled_within(&self, limit: Duration) -> (Verdict, Duration) {
        let begun = Instant::now();
        let records = Records::open(&self.context).await;
        while begun.elapsed() < limit && !self.seems_handled(&records).await {
            tokio::time::sleep(PAUSE).await;
        }
        let took = begun.elapsed();
        (Box::pin(self.judge()).await, took)
    }

    /// Waits until everything is handled, committed and as it must be. Panics with what is wrong.
    pub async fn assert_handled(&self) -> Verdict {
        let (verdict, _) = Box::pin(self.handled_within(DEADLINE)).await;
        assert!(verdict.is_clean(), "{verdict}");
        verdict
    }

    async fn seems_handled(&self, records: &Records) -> bool {
        let outputs: usize = self.accounts.values().map(|account| account.outputs.len()).sum();
        let letters: usize = self.accounts.values().map(|account| account.dead_letters.len()).sum();
        for (stream, count) in [(self.handling.output(), outputs), ("dead", letters)] {
            if messages(&self.context, stream).await < count as u64 {
                return false;
            }
        }
        for (partition, account) in self.accounts.iter().filter(|(_, account)| account.last > 0) {
            let record = records.ownership(partition).await;
            if record.is_none_or(|record| record.position.0 < account.last) {
                return false;
            }
        }
        true
    }

    /// Compares with what is there now.
    pub async fn judge(&self) -> Verdict {
        let mut verdict = Verdict { messages: self.messages, ..Verdict::default() };
        let outputs = self.found(self.handling.output(), |message| {
            let partition = message.subject.strip_prefix(self.handling.output_prefix()).unwrap_or(&message.subject);
            (partition.to_owned(), self.handling.recognize(message))
        });
        let letters = self.found("dead", |message| {
            (message.header("Parti-Partition").to_owned(), message.header("Parti-Sequence").to_owned())
        });
        let (mut outputs, mut letters) = (outputs.await, letters.await);
        let window = duplicate_window(&self.context, self.handling.output()).await;
        let letter_window = duplicate_window(&self.context, "dead").await;
        for (partition, account) in &self.accounts {
            let found = outputs.remove(partition).unwrap_or_default();
            verdict.add(partition, "output", &account.outputs, &found, window);
            let found = letters.remove(partition).unwrap_or_default();
            if !account.dead_letters.is_empty() || !found.is_empty() {
                verdict.add(partition, "dead letter", &account.dead_letters, &found, letter_window);
            }
        }
        for (what, found) in [("outputs", outputs), ("dead letters", letters)] {
            for (partition, found) in found {
                verdict.strange += found.len() as u64;
                verdict.example(|| format!("{partition}: {} {what} of no partition", found.len()));
            }
        }
        verdict.stalls.sort_by_key(|stall| Reverse(stall.lasted));
        let records = Records::open(&self.context).await;
        for (partition, account) in self.accounts.iter().filter(|(_, account)| account.last > 0) {
            let wrong = match records.ownership(partition).await {
                None => Some("it has no record".to_owned()),
                Some(record) if record.position.0 < account.last => {
                    Some(format!("committed up to {} of {}", record.position, account.last))
                }
                Some(record) => account.state.as_ref().and_then(|expected| {
                    let data = record.snapshot.map(|snapshot| snapshot.load().expect("base64").data);
                    let found = data.map(|data| canonical(&data));
                    (found.as_ref() != Some(expected)).then(|| format!("its state is {found:?}, not {expected}"))
                }),
            };
            if let Some(wrong) = wrong {
                verdict.states += 1;
                verdict.example(|| format!("{partition}: {wrong}"));
            }
        }
        verdict
    }

    /// What a stream holds, by partition.
    async fn found(&self, stream: &str, read: impl Fn(&Stored) -> (String, String)) -> BTreeMap<String, Vec<Effect>> {
        let mut found: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
        for message in read_stream(&self.context, stream).await {
            let (partition, what) = read(&message);
            found.entry(partition).or_default().push(Effect { what, caused: message.at });
        }
        found
    }
}

/// What became of everything that was published.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Messages published.
    pub messages: u64,
    /// Outputs and dead letters that must be there and are not.
    pub lost: u64,
    /// Repeated within the duplicate window of their stream.
    pub repeated: u64,
    /// Repeated after it, where no server can recognize them.
    pub repeated_late: u64,
    /// There before something that must come before them.
    pub disordered: u64,
    /// There without a message that causes them.
    pub strange: u64,
    /// Partitions whose committed position or state is not what follows from their messages.
    pub states: u64,
    /// Of each partition that put out anything, the longest time in which it had something to put out and did not; the longest
    /// ones first.
    pub stalls: Vec<Stall>,
    /// Some findings in words.
    pub examples: Vec<String>,
}

/// A time in which nothing came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stall {
    /// How long.
    pub lasted: Duration,
    /// Since when, as time since 1970.
    pub since: Duration,
    /// Of which partition.
    pub partition: String,
}

impl Verdict {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.repeated_late + self.disordered + self.strange + self.states == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }

    /// Compares what must be there with what is. `caused` of what is found is when its stream stored it.
    fn add(&mut self, partition: &str, kind: &str, expected: &[Effect], found: &[Effect], window: Duration) {
        // Equal ones are told apart by their order.
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, effect) in expected.iter().enumerate().rev() {
            places.entry(&effect.what).or_default().push(place);
        }
        let mut seen: HashMap<&str, Duration> = HashMap::new();
        let mut stall = Stall { partition: partition.to_owned(), ..Stall::default() };
        let (mut next, mut latest) = (0, Duration::ZERO);
        for Effect { what, caused: at } in found {
            let Some(left) = places.get_mut(what.as_str()) else {
                self.strange += 1;
                self.example(|| format!("{partition}: nothing causes the {kind} {}", short(what)));
                continue;
            };
            let earlier = seen.insert(what, *at);
            let Some(place) = left.pop() else {
                let after = earlier.map_or(Duration::ZERO, |earlier| at.saturating_sub(earlier));
                *(if after <= window { &mut self.repeated } else { &mut self.repeated_late }) += 1;
                self.example(|| format!("{partition}: {kind} {} is there again after {after:?}", short(what)));
                continue;
            };
            if place < next {
                self.disordered += 1;
                self.example(|| format!("{partition}: {kind} {place} {} comes after {}", short(what), next - 1));
            }
            next = next.max(place + 1);
            let since = latest.max(expected[place].caused);
            let lasted = at.saturating_sub(since);
            if lasted > stall.lasted {
                (stall.lasted, stall.since) = (lasted, since);
            }
            latest = *at;
        }
        self.stalls.push(stall);
        let mut missing: Vec<_> = places.into_values().flatten().collect();
        missing.sort_unstable();
        self.lost += missing.len() as u64;
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let (count, total, what) = (missing.len(), expected.len(), short(&expected[*first].what));
            self.example(|| {
                format!("{partition}: {count} of {total} {kind}s are missing, from {first} {what} to {last}")
            });
        }
    }
}

/// The beginning of a long text.
fn short(text: &str) -> &str {
    text.char_indices().nth(60).map_or(text, |(end, _)| &text[..end]).trim_end()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} messages: {} lost, {} repeated within the duplicate window and {} after it, {} out of order, {} strange, \
             {} wrong states",
            self.messages, self.lost, self.repeated, self.repeated_late, self.disordered, self.strange, self.states
        )?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

/// Waits until stream `out` has a message for each one of stream `work` whose subject is among `subjects`, and panics
/// unless they are the same ones in the same order on each subject. What is in `out` was put there by the relay plugin.
pub async fn assert_relayed(context: &Context, work: &str, out: &str, subjects: &[String]) {
    let published = by_subject(read_stream(context, work).await, "");
    let published: BTreeMap<_, _> = published.into_iter().filter(|(subject, _)| subjects.contains(subject)).collect();
    let total: usize = published.values().map(Vec::len).sum();
    let arrived = format!("all {total} messages arrive in {out}");
    eventually(&arrived, async || match messages(context, out).await {
        found if found >= total as u64 => Ok(()),
        found => Err(format!("{found} have arrived")),
    })
    .await;
    let mut relayed = by_subject(read_stream(context, out).await, &format!("{out}."));
    let window = duplicate_window(context, out).await;
    let mut verdict = Verdict { messages: total as u64, ..Verdict::default() };
    for (subject, expected) in &published {
        let found = relayed.remove(subject).unwrap_or_default();
        verdict.add(subject, "message", expected, &found, window);
    }
    assert!(verdict.is_clean(), "{verdict}");
    assert!(relayed.is_empty(), "{out} has messages of {:?}", relayed.keys());
}

fn by_subject(messages: Vec<Stored>, prefix: &str) -> BTreeMap<String, Vec<Effect>> {
    let mut found: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
    for message in messages {
        let subject = message.subject.strip_prefix(prefix).unwrap_or(&message.subject);
        // Any bytes, told apart: what is not text is none of two equal texts.
        let what = message.payload.escape_ascii().to_string();
        found.entry(subject.to_owned()).or_default().push(Effect { what, caused: message.at });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);

    fn effects(list: &[(&str, u64)]) -> Vec<Effect> {
        list.iter().map(|(what, at)| Effect { what: (*what).to_owned(), caused: Duration::from_secs(*at) }).collect()
    }

    fn verdict(found: &[(&str, u64)]) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.add("p", "output", &effects(&[("a", 1), ("b", 2), ("c", 3)]), &effects(found), WINDOW);
        verdict
    }

    #[test]
    fn what_came_out_once_and_in_order_is_clean_and_its_longest_stall_is_told() {
        let verdict = verdict(&[("a", 1), ("b", 9), ("c", 10)]);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.stalls[0].lasted.as_secs(), verdict.stalls[0].since.as_secs()), (7, 2));
    }

    #[test]
    fn what_is_lost_repeated_disordered_or_strange_is_found() {
        let count = |v: Verdict| (v.lost, v.repeated, v.repeated_late, v.disordered, v.strange);
        assert_eq!(count(verdict(&[("a", 1), ("c", 3)])), (1, 0, 0, 0, 0));
        assert_eq!(count(verdict(&[])), (3, 0, 0, 0, 0));
        assert_eq!(count(verdict(&[("a", 1), ("b", 2), ("a", 3), ("c", 3)])), (0, 1, 0, 0, 0));
        assert_eq!(count(verdict(&[("a", 1), ("b", 2), ("c", 3), ("a", 122)])), (0, 0, 1, 0, 0));
        assert_eq!(count(verdict(&[("b", 2), ("a", 3), ("c", 3)])), (0, 0, 0, 1, 0));
        assert_eq!(count(verdict(&[("a", 1), ("b", 2), ("x", 3), ("c", 3)])), (0, 0, 0, 0, 1));
        // As many as expected, yet wrong.
        assert_eq!(count(verdict(&[("a", 1), ("a", 2), ("c", 3)])), (1, 1, 0, 0, 0));
    }

    #[test]
    fn equal_ones_are_expected_as_often_as_they_were_published() {
        let mut verdict = Verdict::default();
        let twice = effects(&[("a", 1), ("b", 2), ("a", 3)]);
        verdict.add("p", "output", &twice, &twice, WINDOW);
        assert!(verdict.is_clean(), "{verdict}");
        verdict.add("p", "output", &twice, &effects(&[("a", 1), ("b", 2), ("a", 3), ("a", 4)]), WINDOW);
        assert_eq!((verdict.lost, verdict.repeated), (0, 1));
    }
}
