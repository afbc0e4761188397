//! Whether a handler is fed at all. One that keeps failing, on many different messages or for every partition, is broken as a whole: to go
//! on would give up message after message for what is not their fault. So it is fed no more, and what waits stays in the stream. From time
//! to time one partition tries; where that succeeds, and when another version is in force, all go on.
//!
//! A message that fails again and again counts once: whether it is to blame is for its partition to find out.

use parti_coordination::{PartitionId, Sequence};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// When a handler is fed no more, and how it is tried then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuarantineRules {
    /// Different messages on which calls must have failed; 0 for never.
    pub messages: usize,
    /// The share of failed calls meanwhile, from 0 to 1, that must be exceeded.
    pub max_error_rate: f64,
    /// Pause before the first probe; it doubles with each that fails, up to the second.
    pub probe: (Duration, Duration),
}

/// How long a probe may take until its call fails or is answered. Longer than most calls, and than the pauses between two tries of a
/// message; a partition of which nothing is heard for so long has no messages.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It is fed no more, because of this.
    Begin(String),
    /// This partition may try, and no other.
    Probe(PartitionId),
    /// The partition that has tried has failed.
    ProbeFailed,
    /// It is fed again.
    End,
}

/// The partitions that this worker has for a handler.
#[derive(Default)]
pub(super) struct Sight {
    /// It is not open for these, or they are not even taken yet.
    pub(super) closed: BTreeSet<PartitionId>,
    /// It is open for these.
    pub(super) open: BTreeSet<PartitionId>,
    /// Of those, the ones that the operator has not paused.
    pub(super) free: BTreeSet<PartitionId>,
}

/// How a handler fares on this worker.
pub(super) struct Quarantine {
    rules: QuarantineRules,
    /// The last different messages on which calls have failed, with the calls that had failed and that were answered before each.
    failures: VecDeque<(PartitionId, Sequence, u64, u64)>,
    failed: u64,
    /// Partitions that have messages on which calls have failed, as far as is known.
    failing: BTreeSet<PartitionId>,
    /// Partitions for which it did not open when that was last tried, and why it did not.
    unopened: BTreeSet<PartitionId>,
    unopened_because: String,
    held: Option<Held>,
}

struct Held {
    /// It opens for no partition: as soon as it does for one, this is over.
    by_opening: bool,
    probes: u32,
    next: Instant,
    probing: Option<PartitionId>,
    /// Who has tried last: the next one tries next.
    last: Option<PartitionId>,
    /// Calls that were answered before the probe.
    answered: u64,
}

impl Quarantine {
    pub(super) fn new(rules: QuarantineRules) -> Self {
        let (failures, failing, unopened) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        Self { rules, failures, failed: 0, failing, unopened, unopened_because: String::new(), held: None }
    }

    /// Whether this partition gets nothing.
    pub(super) fn holds(&self, partition: &PartitionId) -> bool {
        let holds = |held: &Held| !held.by_opening && held.probing.as_ref() != Some(partition);
        self.held.as_ref().is_some_and(holds)
    }

    /// A call has failed that began with this message. So many have been answered.
    pub(super) fn failed(
        &mut self,
        partition: &PartitionId,
        message: Sequence,
        why: &str,
        answered: u64,
        now: Instant,
    ) -> Change {
        self.failed += 1;
        self.failing.insert(partition.clone());
        if let Some(held) = &mut self.held {
            if held.probing.as_ref() != Some(partition) {
                return Change::Nothing;
            }
            held.probe_failed(self.rules.probe, now);
            return Change::ProbeFailed;
        }
        let is_known = self.failures.iter().any(|(of, sequence, ..)| of == partition && *sequence == message);
        if self.rules.messages == 0 || is_known {
            return Change::Nothing;
        }
        self.failures.push_back((partition.clone(), message, self.failed - 1, answered));
        if self.failures.len() > self.rules.messages {
            self.failures.pop_front();
        }
        let Some((_, _, failed_before, answered_before)) = self.failures.front() else { return Change::Nothing };
        let (failed, answered) = (self.failed - failed_before, answered.saturating_sub(*answered_before));
        let exceeds = failed as f64 > self.rules.max_error_rate * (failed + answered) as f64;
        if self.failures.len() < self.rules.messages || !exceeds {
            return Change::Nothing;
        }
        let (messages, calls) = (self.failures.len(), failed + answered);
        self.hold(
            format!("{failed} of {calls} calls failed, on {messages} different messages; the last: {why}"),
            false,
            now,
        )
    }

    /// It did not open for this partition.
    pub(super) fn not_opened(&mut self, partition: &PartitionId, why: String) {
        self.unopened.insert(partition.clone());
        self.unopened_because = why;
    }

    /// Whether there is anything to look at.
    pub(super) fn is_worth_a_look(&self) -> bool {
        self.held.is_some() || !self.unopened.is_empty()
    }

    /// Looks whether something is to be done. So many calls have been answered.
    pub(super) fn look(&mut self, Sight { closed, open, free }: &Sight, answered: u64, now: Instant) -> Change {
        self.unopened.retain(|id| closed.contains(id));
        let Some(held) = &mut self.held else {
            // One alone may have a state that cannot be read.
            let nowhere = self.rules.messages > 0 && open.is_empty() && self.unopened.len() > 1;
            if !nowhere || self.unopened.len() < closed.len() {
                return Change::Nothing;
            }
            let why = format!("it opens for none of {} partitions; the last: {}", closed.len(), self.unopened_because);
            return self.hold(why, true, now);
        };
        let succeeded =
            if held.by_opening { !open.is_empty() } else { held.probing.is_some() && answered > held.answered };
        if succeeded {
            self.reset();
            return Change::End;
        }
        if held.by_opening {
            return Change::Nothing;
        }
        // Who tries may have been given to another worker, or have nothing left.
        let is_late = now >= held.next + PATIENCE;
        if let Some(probing) = held.probing.take_if(|probing| is_late || !free.contains(probing)) {
            self.failing.remove(&probing);
        }
        if held.probing.is_some() || now < held.next {
            return Change::Nothing;
        }
        let mut candidates: Vec<&PartitionId> = free.intersection(&self.failing).collect();
        if candidates.is_empty() {
            candidates.extend(free);
        }
        let after = held.last.as_ref().and_then(|last| candidates.iter().find(|id| **id > last));
        let Some(next) = after.or(candidates.first()).map(|id| (*id).clone()) else { return Change::Nothing };
        (held.probing, held.last, held.answered, held.next) = (Some(next.clone()), Some(next.clone()), answered, now);
        Change::Probe(next)
    }

    /// What was tried meanwhile was another version: a probe that was under way says nothing.
    pub(super) fn begin_again(&mut self, answered: u64) {
        if let Some(held) = &mut self.held {
            (held.probing, held.answered) = (None, answered);
        }
    }

    /// Forgets everything: another version is in force. Whether it is fed again by that.
    pub(super) fn reset(&mut self) -> bool {
        self.failures.clear();
        self.failing.clear();
        self.unopened.clear();
        self.held.take().is_some()
    }

    fn hold(&mut self, why: String, by_opening: bool, now: Instant) -> Change {
        let next = now + self.rules.probe.0;
        self.held = Some(Held { by_opening, probes: 0, next, probing: None, last: None, answered: 0 });
        Change::Begin(why)
    }
}

impl Held {
    fn probe_failed(&mut self, (first, most): (Duration, Duration), now: Instant) {
        self.probing = None;
        self.probes = self.probes.saturating_add(1);
        self.next = now + first.saturating_mul(2u32.saturating_pow(self.probes)).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: QuarantineRules =
        QuarantineRules { messages: 3, max_error_rate: 0.5, probe: (Duration::from_secs(1), Duration::from_secs(3)) };

    fn id(name: &str) -> PartitionId {
        PartitionId::from_keys(&[name]).unwrap()
    }

    fn ids(names: &[&str]) -> BTreeSet<PartitionId> {
        names.iter().map(|name| id(name)).collect()
    }

    /// A handler that is fed no more since then, with these partitions.
    fn held(now: Instant) -> Quarantine {
        let mut quarantine = Quarantine::new(RULES);
        let changes = [("a", 1), ("c", 2), ("a", 3)];
        let changes = changes.map(|(name, n)| quarantine.failed(&id(name), Sequence(n), "boom", 0, now));
        let why = "3 of 3 calls failed, on 3 different messages; the last: boom";
        assert_eq!(changes, [Change::Nothing, Change::Nothing, Change::Begin(why.into())]);
        quarantine
    }

    fn sight(closed: &[&str], open: &[&str], free: &[&str]) -> Sight {
        Sight { closed: ids(closed), open: ids(open), free: ids(free) }
    }

    #[test]
    fn one_message_that_always_fails_and_few_among_many_say_nothing_of_the_handler() {
        let now = Instant::now();
        let mut quarantine = Quarantine::new(RULES);
        for _ in 0..100 {
            assert_eq!(quarantine.failed(&id("a"), Sequence(1), "boom", 0, now), Change::Nothing);
        }
        // Each call that fails is followed by two that are answered.
        let mut quarantine = Quarantine::new(RULES);
        for n in 0..100 {
            assert_eq!(quarantine.failed(&id("a"), Sequence(n), "boom", 2 * n, now), Change::Nothing);
        }
        let mut never = Quarantine::new(QuarantineRules { messages: 0, ..RULES });
        for n in 0..100 {
            assert_eq!(never.failed(&id("a"), Sequence(n), "boom", 0, now), Change::Nothing);
        }
    }

    #[test]
    fn a_handler_that_fails_on_many_messages_is_held_and_one_partition_after_the_other_tries() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quarantine = held(start);
        let sight = sight(&[], &["a", "b", "c"], &["a", "b", "c"]);
        let look = |quarantine: &mut Quarantine, answered, seconds| quarantine.look(&sight, answered, at(seconds));
        assert_eq!(look(&mut quarantine, 0, 0), Change::Nothing);
        assert_eq!(look(&mut quarantine, 0, 1), Change::Probe(id("a")));
        assert!(!quarantine.holds(&id("a")) && quarantine.holds(&id("c")));
        assert_eq!(quarantine.failed(&id("c"), Sequence(9), "late", 0, at(1)), Change::Nothing, "it was under way");
        assert_eq!(quarantine.failed(&id("a"), Sequence(3), "boom", 0, at(1)), Change::ProbeFailed);
        assert!(quarantine.holds(&id("a")));
        assert_eq!(look(&mut quarantine, 0, 2), Change::Nothing, "the pause doubles");
        assert_eq!(look(&mut quarantine, 0, 3), Change::Probe(id("c")));
        assert_eq!(quarantine.failed(&id("c"), Sequence(9), "boom", 0, at(3)), Change::ProbeFailed);
        assert_eq!(look(&mut quarantine, 7, 6), Change::Probe(id("a")), "and is bounded");
        assert_eq!(look(&mut quarantine, 8, 6), Change::End);
        assert!(!quarantine.holds(&id("c")));
    }

    #[test]
    fn a_probe_that_can_come_to_nothing_is_given_to_another_and_a_new_version_ends_it_all() {
        let start = Instant::now();
        let mut quarantine = held(start);
        let (later, all) = (start + Duration::from_secs(1), ["a", "b", "c"]);
        assert_eq!(quarantine.look(&sight(&[], &all, &all), 0, later), Change::Probe(id("a")));
        assert_eq!(quarantine.look(&sight(&[], &all, &["b", "c"]), 0, later), Change::Probe(id("c")), "a has gone");
        assert_eq!(quarantine.look(&sight(&[], &all, &["b", "c"]), 0, later), Change::Nothing, "it takes its time");
        let much_later = later + PATIENCE;
        assert_eq!(quarantine.look(&sight(&[], &all, &["b", "c"]), 0, much_later), Change::Probe(id("b")), "anybody");
        assert_eq!(quarantine.look(&sight(&[], &all, &[]), 0, much_later), Change::Nothing);
        assert!(quarantine.reset() && !quarantine.reset());
    }

    #[test]
    fn a_handler_that_opens_for_no_partition_is_held_until_it_opens_for_one() {
        let now = Instant::now();
        let mut quarantine = Quarantine::new(RULES);
        quarantine.not_opened(&id("a"), "no prefix".into());
        assert_eq!(quarantine.look(&sight(&["a"], &[], &[]), 0, now), Change::Nothing, "its state may be to blame");
        quarantine.not_opened(&id("b"), "no prefix".into());
        assert_eq!(quarantine.look(&sight(&["c"], &[], &[]), 0, now), Change::Nothing, "they have gone elsewhere");
        assert!(!quarantine.is_worth_a_look());
        ["a", "b"].iter().for_each(|name| quarantine.not_opened(&id(name), "no prefix".into()));
        let two = sight(&["a", "b"], &[], &[]);
        assert_eq!(quarantine.look(&sight(&["a", "b", "c"], &[], &[]), 0, now), Change::Nothing, "one has not tried");
        let begun = quarantine.look(&two, 0, now);
        assert_eq!(begun, Change::Begin("it opens for none of 2 partitions; the last: no prefix".into()));
        assert!(!quarantine.holds(&id("a")), "it goes on trying to open");
        assert_eq!(quarantine.look(&sight(&["a"], &["b"], &[]), 0, now), Change::End);
    }
}
