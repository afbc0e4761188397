//! `commit.maxPerSecond`: how many commits the partitions of this worker make in a second, and whose is next.
//!
//! Who has waited longest comes first, by the oldest message that is not committed; who stands still until the commit is made counts
//! as if it had waited [`HEAD_START`] longer, so that neither kind can keep the other from its turn for good. The last commits of a
//! hand-over do not ask: they are made, and the others wait the longer for it.

use super::feed::PartitionInput;
use crate::telemetry::Gauge;
use crate::token_bucket::TokenBucket;
use parti_coordination::{Input, Now, PartitionId};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// By so much a partition that handles nothing before its commit is ahead of one that goes on: ten times the usual interval.
const HEAD_START: Duration = Duration::from_secs(10);

/// Of a second, the part whose commits may be made at once: they are spread over the second, and timers of a millisecond suffice.
const BURST: f64 = 20.0;

/// Where the partitions of this worker ask for their commits. Ends its task when it is dropped.
#[derive(Debug)]
pub(super) struct Ration {
    words: mpsc::UnboundedSender<Word>,
}

#[derive(Debug)]
enum Word {
    Asked { partition: PartitionId, since: Now, stands: bool, inbox: Inbox },
    Made,
}

type Inbox = mpsc::UnboundedSender<PartitionInput>;

impl Ration {
    /// So many commits a second, from now on. `waiting` shows how many partitions wait for one.
    pub(super) fn start(per_second: u32, waiting: Gauge) -> Self {
        let (words, inbox) = mpsc::unbounded_channel();
        let rate = f64::from(per_second);
        let bucket = TokenBucket::new(rate, (rate / BURST).max(1.0), Instant::now());
        tokio::spawn(give(bucket, waiting, inbox));
        Self { words }
    }

    /// A partition asks for a commit, and is told once it may make it. What it asks again counts instead.
    pub(super) fn ask(&self, partition: PartitionId, since: Now, stands: bool, inbox: Inbox) {
        let _ = self.words.send(Word::Asked { partition, since, stands, inbox });
    }

    /// A commit was made that did not ask.
    pub(super) fn made(&self) {
        let _ = self.words.send(Word::Made);
    }
}

/// Gives commits to those who ask. Ends with the [`Ration`].
async fn give(mut bucket: TokenBucket, waiting: Gauge, mut words: mpsc::UnboundedReceiver<Word>) {
    let mut line: Line<Inbox> = Line::default();
    loop {
        while !line.is_empty() && bucket.take(Instant::now()) {
            // A partition that is gone makes none.
            if line.first().is_none_or(|inbox| inbox.send(Input::MayCommit).is_err()) {
                bucket.put_back();
            }
        }
        waiting.set(line.len() as u64);
        tokio::select! {
            word = words.recv() => match word {
                Some(Word::Asked { partition, since, stands, inbox }) => line.ask(partition, since, stands, inbox),
                Some(Word::Made) => bucket.take_anyway(Instant::now()),
                None => return,
            },
            () = sleep(bucket.wait()), if !line.is_empty() => {}
        }
    }
}

/// Who waits, in the order of their turns.
#[derive(Debug)]
struct Line<T> {
    places: HashMap<PartitionId, Place>,
    waiting: BTreeMap<Place, (PartitionId, T)>,
    count: u64,
}

/// Since when one counts as waiting, and how many have asked before.
type Place = (Duration, u64);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { places: HashMap::new(), waiting: BTreeMap::new(), count: 0 }
    }
}

impl<T> Line<T> {
    fn ask(&mut self, partition: PartitionId, Now(since): Now, stands: bool, who: T) {
        self.count += 1;
        let since = if stands { since } else { since + HEAD_START };
        let place = (since, self.count);
        if let Some(before) = self.places.insert(partition.clone(), place) {
            self.waiting.remove(&before);
        }
        self.waiting.insert(place, (partition, who));
    }

    /// Whose turn it is. He leaves the line.
    fn first(&mut self) -> Option<T> {
        let (_, (partition, who)) = self.waiting.pop_first()?;
        self.places.remove(&partition);
        Some(who)
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PartitionId {
        PartitionId::from_keys(&[name]).unwrap()
    }

    fn at(seconds: u64) -> Now {
        Now(Duration::from_secs(seconds))
    }

    #[test]
    fn the_oldest_is_next_and_who_stands_still_is_ahead_without_keeping_others_for_ever() {
        let mut line = Line::default();
        line.ask(id("late"), at(103), false, "late");
        line.ask(id("early"), at(101), false, "early");
        line.ask(id("stands"), at(110), true, "stands");
        line.ask(id("stands later"), at(112), true, "stands later");
        let order: Vec<_> = std::iter::from_fn(|| line.first()).collect();
        assert_eq!(order, ["stands", "early", "stands later", "late"]);
    }

    #[test]
    fn who_asks_again_has_one_place_and_the_later_word_counts() {
        let mut line = Line::default();
        line.ask(id("a"), at(1), false, 1);
        line.ask(id("b"), at(2), false, 2);
        line.ask(id("b"), at(2), true, 3);
        assert_eq!((line.len(), line.first(), line.first(), line.first()), (2, Some(3), Some(1), None));
        line.ask(id("b"), at(5), false, 4);
        assert_eq!(line.first(), Some(4));
        assert!(line.is_empty() && line.places.is_empty());
    }

    #[tokio::test]
    async fn everybody_gets_his_commit_and_who_is_gone_costs_none() {
        let waiting = Gauge::new("waiting", "test").unwrap();
        let begun = Instant::now();
        let ration = Ration::start(200, waiting.clone());
        let mut inboxes = Vec::new();
        for n in 0..60 {
            let (inbox, told) = mpsc::unbounded_channel();
            ration.ask(id(&format!("p{n}")), at(1), false, inbox);
            if n % 2 == 0 {
                inboxes.push(told);
            }
        }
        for told in &mut inboxes {
            assert!(matches!(told.recv().await, Some(Input::MayCommit)));
        }
        // Ten at once, and twenty more at two hundred a second.
        assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
        (0..400).for_each(|_| ration.made());
        let (inbox, mut told) = mpsc::unbounded_channel();
        ration.ask(id("after"), at(1), true, inbox);
        told.recv().await;
        assert!(begun.elapsed() >= Duration::from_millis(1000), "{:?}", begun.elapsed());
    }
}
