//! What an author of an assignment strategy implements.

use crate::bindings::strategy::exports::parti::plugin::strategy as generated;
use crate::{Error, Partition, Reason, Worker};

/// Decides which worker gets which partition.
///
/// The leader of a group asks when a plan is due: the group starts, workers come, leave or die, partitions come or go. Each time it
/// asks a new instance, so a strategy has no memory: what it has to know is in the [`Request`]. An answer may take 5 s
/// (`strategy.plugin.callTimeout`), and partitions that nobody serves wait for one second of it. With an error, another number of
/// indices or an index that no worker has, every partition stays where it is, the host places those that nobody has, and asks again
/// later.
///
/// A partition that changes its worker is paused while it moves: keep the previous owner wherever it will do.
///
/// ```
/// use parti_guest::{Error, Request, Strategy};
///
/// /// Each partition stays where it is, or goes to whoever has least.
/// struct Steady;
///
/// impl Strategy for Steady {
///     fn assign(request: &Request) -> Result<Vec<u32>, Error> {
///         let mut held = request.held();
///         let mut place = |before: Option<u32>| match before {
///             Some(owner) => Ok(owner),
///             None => {
///                 let (least, count) = held.iter_mut().enumerate().min_by_key(|(_, held)| **held).ok_or("no worker")?;
///                 *count += 1;
///                 Ok(u32::try_from(least)?)
///             }
///         };
///         request.previous.iter().map(|before| place(*before)).collect()
///     }
/// }
///
/// parti_guest::export!(Steady as strategy);
///
/// use parti_guest::testing;
/// let fleet = testing::strategy().worker("worker-0", []).worker("worker-1", []).partitions(["a", "b", "c"]);
/// assert_eq!(fleet.assign::<Steady>()?, ["worker-0", "worker-1", "worker-0"]);
/// # Ok::<(), Error>(())
/// ```
pub trait Strategy: 'static {
    /// For each partition of the request the index of the worker that is to have it.
    fn assign(request: &Request) -> Result<Vec<u32>, Error>;
}

/// What a strategy is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Why there is a plan to be made.
    pub reason: Reason,
    /// Only partitions without a previous owner are placed now: what the answer says of the others is not followed.
    pub orphans_only: bool,
    /// At least one, by id.
    pub workers: Vec<Worker>,
    /// At least one, by id.
    pub partitions: Vec<Partition>,
    /// For each partition the index of the worker that has it now; none if nobody among `workers` has.
    pub previous: Vec<Option<u32>>,
}

impl From<generated::Request> for Request {
    fn from(asked: generated::Request) -> Self {
        let generated::Request { reason, orphans_only, workers, partitions, previous } = asked;
        Self { reason: reason.into(), orphans_only, workers, partitions, previous }
    }
}

impl Request {
    /// How many partitions each worker has now, in the order of the workers.
    pub fn held(&self) -> Vec<usize> {
        let mut held = vec![0; self.workers.len()];
        for before in self.previous.iter().flatten() {
            if let Some(count) = usize::try_from(*before).ok().and_then(|at| held.get_mut(at)) {
                *count += 1;
            }
        }
        held
    }

    /// The partitions with the index of the worker that has each of them now.
    pub fn with_owners(&self) -> impl Iterator<Item = (&Partition, Option<u32>)> {
        self.partitions.iter().zip(self.previous.iter().copied())
    }
}

impl Worker {
    /// The value of a label that the operator has given this worker.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|label| label.name == name).map(|label| label.value.as_str())
    }
}
