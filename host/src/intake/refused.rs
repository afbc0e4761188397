//! Which states the handler has refused to open, and whether their partitions are in them still.
//!
//! The leader gives a refused partition to another worker, so that nobody here looks at its record any more. But what was refused
//! is one state: as soon as the record holds another, the partition may come back, and the leader is to know.

use super::shared::{Shared, TaskEvent};
use parti_coordination::record::{self, ByWriter, OwnershipRecord, Refusals, StateIdentity};
use parti_coordination::{PartitionId, PartitionView, Phase, StoredEntry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often records are looked at whose state was refused. Whoever releases one says so besides.
const LOOK: Duration = Duration::from_secs(60);

/// What this worker's handler has refused since it started, and has not opened since.
#[derive(Default)]
pub(super) struct Refused {
    states: BTreeMap<PartitionId, Refusal>,
    looked_at: Option<Instant>,
}

struct Refusal {
    state: StateIdentity,
    /// The partition is in this state, as far as is known.
    stands: bool,
}

impl Refused {
    /// A partition that is worked on, at a glance.
    pub(super) fn note(&mut self, id: &PartitionId, view: &PartitionView) {
        if let Some(state) = &view.cannot_open {
            self.states.insert(id.clone(), Refusal { state: state.clone(), stands: true });
        } else if view.phase == Phase::Running {
            self.states.remove(id);
        }
    }

    /// This is the state that the partition's record holds now.
    pub(super) fn found(&mut self, id: &PartitionId, state: Option<&StateIdentity>) {
        if let Some(refusal) = self.states.get_mut(id) {
            refusal.stands = state == Some(&refusal.state);
        }
    }

    /// This partition, if its record is to be looked at: somebody has released it.
    pub(super) fn waits_for(&self, id: &str) -> Vec<PartitionId> {
        self.standing().filter(|standing| standing.as_str() == id).cloned().collect()
    }

    /// Those whose records are to be looked at because it is time to.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PartitionId> {
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        self.standing().cloned().collect()
    }

    fn standing(&self) -> impl Iterator<Item = &PartitionId> {
        self.states.iter().filter(|(_, refusal)| refusal.stands).map(|(id, _)| id)
    }

    /// What the leader is told.
    pub(super) fn told(&self) -> Refusals {
        let of = |stands| {
            let mut all = ByWriter::new();
            for (id, refusal) in self.states.iter().filter(|(_, refusal)| refusal.stands == stands) {
                all.entry(refusal.state.handler.clone()).or_default().insert(id.to_string());
            }
            all
        };
        Refusals { cannot_open: of(true), could_not_open: of(false) }
    }
}

/// Looks which states the records of these partitions hold, one after the other, and tells the manager.
pub(super) async fn look(shared: Arc<Shared>, partitions: Vec<PartitionId>) {
    for id in partitions {
        let _permit = shared.requests.acquire().await;
        match shared.records.read(&id.record_key()).await {
            Ok(entry) => {
                if let Some(state) = state_in(entry.as_ref(), &shared.group) {
                    let _ = shared.events.send(TaskEvent::State(id, state));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "Records whose state was refused cannot be looked at");
                return;
            }
        }
    }
}

/// The state that a record holds, if it is known which record that is.
fn state_in(entry: Option<&StoredEntry>, group: &str) -> Option<Option<StateIdentity>> {
    let Some(value) = entry.and_then(|entry| entry.value.as_deref()) else { return Some(None) };
    let record = record::decode::<OwnershipRecord>(value).ok().filter(|record| record.group == group)?;
    Some(record.state())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parti_coordination::{Generation, Position};

    fn state(position: u64) -> StateIdentity {
        StateIdentity { handler: "old".into(), generation: Generation(1), position: Position(position) }
    }

    /// Of a partition that is waited for.
    fn view() -> PartitionView {
        PartitionView {
            phase: Phase::Waiting,
            epoch: None,
            generation: None,
            position: Position(0),
            handled: Position(0),
            queued: 0,
            attempts: 0,
            record: None,
            uncommitted_since: None,
            begun: true,
            paused: false,
            cannot_open: None,
            trouble: None,
            handler: "".into(),
            trial: None,
        }
    }

    fn said(refused: &Refused) -> [usize; 2] {
        let Refusals { cannot_open, could_not_open } = refused.told();
        [cannot_open, could_not_open].map(|all| all.get("old").map_or(0, |ids| ids.len()))
    }

    #[test]
    fn a_refusal_holds_for_the_state_that_was_refused_and_is_forgotten_once_the_partition_works() {
        let id = PartitionId::parse("p").unwrap();
        let mut refused = Refused::default();
        let mut view = view();
        refused.note(&id, &view);
        assert_eq!(refused.told(), Refusals::default());

        view.cannot_open = Some(state(4));
        refused.note(&id, &view);
        // Given to another worker, who may not have written yet, or only that it is his now.
        refused.found(&id, Some(&state(4)));
        assert_eq!((said(&refused), refused.waits_for("p")), ([1, 0], vec![id.clone()]));
        for now in [Some(state(5)), Some(StateIdentity { generation: Generation(2), ..state(4) }), None] {
            refused.note(&id, &view);
            refused.found(&id, now.as_ref());
            assert_eq!((said(&refused), refused.waits_for("p")), ([0, 1], vec![]), "{now:?}");
        }
        // It comes back, and what it is in now is refused as well; and then it is not.
        view.cannot_open = Some(state(5));
        refused.note(&id, &view);
        assert_eq!(said(&refused), [1, 0]);
        (view.cannot_open, view.phase) = (None, Phase::Opening);
        refused.note(&id, &view);
        assert_eq!(said(&refused), [1, 0], "that it is tried again says nothing yet");
        view.phase = Phase::Running;
        refused.note(&id, &view);
        assert_eq!(refused.told(), Refusals::default());
    }

    #[test]
    fn what_was_refused_is_looked_at_now_and_then_as_long_as_it_stands() {
        let id = PartitionId::parse("p").unwrap();
        let (mut refused, now) = (Refused::default(), Instant::now());
        refused.note(&id, &PartitionView { cannot_open: Some(state(4)), ..view() });
        assert_eq!(refused.due(now), std::slice::from_ref(&id));
        assert_eq!(refused.due(now + LOOK / 2), []);
        assert_eq!(refused.due(now + LOOK), std::slice::from_ref(&id));
        refused.found(&id, None);
        assert_eq!(refused.due(now + LOOK * 2), []);
    }

    #[test]
    fn a_record_that_is_not_ours_or_not_to_be_read_says_nothing() {
        let entry = |value: Option<&str>| StoredEntry { revision: 3, value: value.map(Into::into) };
        let ours = r#"{"v":1,"group":"g","stream":{"name":"s","created":"c"},"epoch":9,"generation":1,
            "owner":{"worker":"worker-1","claim":1,"uuid":"00000000-0000-0000-0000-000000000000"},"phase":"released",
            "position":4,"handler":"old","snapshot":{"format":"f","inline":""}}"#;
        assert_eq!(state_in(Some(&entry(Some(ours))), "g"), Some(Some(state(4))));
        assert_eq!(state_in(Some(&entry(Some(ours))), "another"), None);
        assert_eq!(state_in(Some(&entry(Some("{}"))), "g"), None);
        assert_eq!(state_in(Some(&entry(None)), "g"), Some(None));
        assert_eq!(state_in(None, "g"), Some(None));
    }
}
