//! Run a plugin natively, with a stand-in for the host: unit tests without WebAssembly, without NATS.
//!
//! The stand-in keeps what the host promises about a call: configuration as the operator wrote it, publishes refused
//! for an unknown cause, a subject that NATS would not take or a message ID of one's own, and discarded when their message is not done. It does
//! not retry, limit or commit: a test plays that part itself, by calling again.
//!
//! ```
//! use parti_guest::{Error, Handler, Message, OpenReason, Outcome, Partition, Snapshot, Verdict, testing};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
//!         Ok(Self)
//!     }
//!
//!     fn handle(&mut self, message: &Message) -> Verdict {
//!         message.publish("loud", message.text()?.to_uppercase())?;
//!         Ok(())
//!     }
//! }
//!
//! let mut shout = testing::partition("room-1").open::<Shout>()?;
//! let outcome = shout.handle(&[testing::message(1, "room-1.said", "hello")]);
//! assert_eq!(outcome, Outcome::acked(1));
//! assert_eq!(shout.published()[0].subject, "loud");
//! assert_eq!(shout.published()[0].payload, b"HELLO");
//! # Ok::<(), Error>(())
//! ```
//!
//! The worker of the stand-in is `worker-0` of the group `default`, with the stream `work` and epoch 1; its time stands still.
//!
//! Outside a call of the stand-in the configuration is empty, log lines go to standard error, and publishing is refused.

use serde_json::Value;

pub use crate::log::Level;
use crate::{
    CloseReason, Error, Handler, Header, Hooks, Label, Listed, Message, OpenReason, Outcome, Partition, Reason,
    Request, Snapshot, Source, Strategy, Worker,
};

pub(crate) mod stand_in;

/// Stands in for every server that a plugin may send requests to.
#[cfg(feature = "wasi")]
pub type Server = fn(&crate::http::Request) -> Result<crate::http::Response, crate::http::HttpError>;

/// A partition to open a handler on: its ID, whose keys are the parts between the dots. Weight 100, no configuration,
/// no snapshot, assigned.
pub fn partition(id: &str) -> Setup {
    Setup {
        partition: Partition { id: id.into(), keys: id.split('.').map(Into::into).collect(), weight: 100 },
        world: World::default(),
        snapshot: None,
        why: OpenReason::Assigned,
    }
}

/// What a plugin of any kind finds around it.
#[derive(Debug, Clone)]
struct World {
    config: Value,
    #[cfg(feature = "wasi")]
    env: Vec<(String, String)>,
    #[cfg(feature = "wasi")]
    server: Option<Server>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            config: Value::Object(serde_json::Map::new()),
            #[cfg(feature = "wasi")]
            env: Vec::new(),
            #[cfg(feature = "wasi")]
            server: None,
        }
    }
}

impl World {
    fn host(self) -> stand_in::Host {
        #[cfg_attr(not(feature = "wasi"), expect(unused_mut))]
        let mut host = stand_in::Host::new(self.config);
        #[cfg(feature = "wasi")]
        {
            host.outside.env = self.env;
            host.outside.server = self.server;
        }
        host
    }
}

/// A message as the stream would deliver it for the first time, without headers, stored at time zero. Change what
/// matters: `Message { attempt: 2, ..message(1, "a", "b") }`.
pub fn message(sequence: u64, subject: &str, payload: impl AsRef<[u8]>) -> Message {
    Message {
        subject: subject.into(),
        sequence,
        timestamp_ns: 0,
        attempt: 1,
        headers: Vec::new(),
        payload: payload.as_ref().to_vec(),
    }
}

/// What a handler is opened with. Begin with [`partition`].
#[derive(Debug, Clone)]
pub struct Setup {
    partition: Partition,
    world: World,
    snapshot: Option<Snapshot>,
    why: OpenReason,
}

impl Setup {
    /// `handler.config`: an object, for example from `serde_json::json!`.
    pub fn config(mut self, config: Value) -> Self {
        self.world.config = config;
        self
    }

    /// One granted environment variable more.
    #[cfg(feature = "wasi")]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.world.env.push((name.into(), value.into()));
        self
    }

    /// What answers requests. Without it they are denied.
    #[cfg(feature = "wasi")]
    pub fn server(mut self, server: Server) -> Self {
        self.world.server = Some(server);
        self
    }

    /// The state of the partition's last commit, for example from [`Bench::snapshot`].
    pub fn snapshot(self, snapshot: Option<Snapshot>) -> Self {
        Self { snapshot, ..self }
    }

    /// Why the handler is opened.
    pub fn why(self, why: OpenReason) -> Self {
        Self { why, ..self }
    }

    /// Opens the handler, as the host would.
    pub fn open<H: Handler>(self) -> Result<Bench<H>, Error> {
        let mut host = self.world.host();
        let handler = host.call(&[], || H::open(&self.partition, self.why, self.snapshot))?;
        Ok(Bench { handler, host })
    }
}

/// An open handler together with everything it has told its host.
#[derive(Debug)]
pub struct Bench<H> {
    /// The handler, for a test to look into.
    pub handler: H,
    host: stand_in::Host,
}

impl<H: Handler> Bench<H> {
    /// Delivers a batch. What messages outside the completed prefix published is discarded.
    ///
    /// # Panics
    /// When the handler returns more verdicts than messages: the host refuses such an outcome.
    pub fn handle(&mut self, batch: &[Message]) -> Outcome {
        let outcome = self.host.call(batch, || self.handler.handle_batch(batch));
        assert!(
            outcome.done.len() <= batch.len(),
            "the handler returned {} verdicts for {} messages: the host refuses that",
            outcome.done.len(),
            batch.len()
        );
        self.host.settle(batch.get(outcome.done.len()..).unwrap_or_default());
        outcome
    }

    /// The handler's state, as the host would commit it.
    pub fn snapshot(&mut self) -> Result<Option<Snapshot>, Error> {
        self.host.call(&[], || self.handler.snapshot())
    }

    /// Ends the handler; its log and its publishes stay readable.
    pub fn close(&mut self, why: CloseReason) {
        self.host.call(&[], || self.handler.close(why));
    }

    /// What was published by messages that are done, in order.
    pub fn published(&self) -> &[Published] {
        &self.host.published
    }

    /// Every line that was logged, in order.
    pub fn logged(&self) -> &[(Level, String)] {
        &self.host.logged
    }

    /// Every value of a metric, in order.
    pub fn noted(&self) -> &[Noted] {
        &self.host.noted
    }

    /// Every request that was sent, in order, answered or not.
    #[cfg(feature = "wasi")]
    pub fn requested(&self) -> &[crate::http::Request] {
        &self.host.outside.requested
    }

    /// Lets [`clock::monotonic`](crate::clock::monotonic) go on; by itself it stands still.
    #[cfg(feature = "wasi")]
    pub fn advance(&mut self, time: std::time::Duration) {
        self.host.outside.elapsed += time;
    }
}

/// A fleet without workers and partitions, for a strategy to share out. Add [`worker`](StrategySetup::worker)s and
/// [`partitions`](StrategySetup::partitions), then call [`assign`](StrategySetup::assign).
pub fn strategy() -> StrategySetup {
    StrategySetup {
        config: Value::Object(serde_json::Map::new()),
        request: Request {
            reason: Reason::ColdStart,
            orphans_only: false,
            workers: Vec::new(),
            partitions: Vec::new(),
            previous: Vec::new(),
        },
    }
}

/// What a strategy is asked. Begin with [`strategy`].
#[derive(Debug, Clone)]
pub struct StrategySetup {
    config: Value,
    /// The question itself, for a test to change what the methods do not.
    pub request: Request,
}

impl StrategySetup {
    /// `strategy.plugin.config`: an object, for example from `serde_json::json!`.
    pub fn config(self, config: Value) -> Self {
        Self { config, ..self }
    }

    /// One worker more, of capacity 1, with these labels.
    pub fn worker<const N: usize>(mut self, id: &str, labels: [(&str, &str); N]) -> Self {
        let label = |(name, value): (&str, &str)| Label { name: name.into(), value: value.into() };
        self.request.workers.push(Worker { id: id.into(), capacity: 1, labels: labels.map(label).into() });
        self
    }

    /// More partitions, by id, as [`partition`] makes one. Nobody has them.
    pub fn partitions<I: AsRef<str>>(mut self, ids: impl IntoIterator<Item = I>) -> Self {
        self.request.partitions.extend(ids.into_iter().map(|id| partition(id.as_ref()).partition));
        self.request.previous.resize(self.request.partitions.len(), None);
        self
    }

    /// Why there is a plan to be made.
    pub fn why(mut self, reason: Reason) -> Self {
        self.request.reason = reason;
        self
    }

    /// Who has each partition, by worker ID, in the order of the partitions, as [`assign`](Self::assign) gives it. A worker that is
    /// not there any more leaves its partitions to nobody.
    pub fn owners<I: AsRef<str>>(mut self, owners: impl IntoIterator<Item = I>) -> Self {
        let index = |id: I| self.request.workers.iter().position(|worker| worker.id == id.as_ref());
        let previous = owners.into_iter().map(|id| index(id).and_then(|at| u32::try_from(at).ok()));
        self.request.previous = previous.collect();
        self.request.previous.resize(self.request.partitions.len(), None);
        self
    }

    /// Asks the strategy, as the host would. Gives the worker's ID for each partition.
    ///
    /// # Panics
    /// When the answer has another length than the question or an index that no worker has: the host refuses it.
    pub fn assign<S: Strategy>(self) -> Result<Vec<String>, Error> {
        let request = self.request;
        let answer = stand_in::Host::new(self.config).call(&[], || S::assign(&request))?;
        assert_eq!(answer.len(), request.partitions.len(), "one index per partition: the host refuses everything else");
        let id = |index: u32| {
            let worker = usize::try_from(index).ok().and_then(|at| request.workers.get(at));
            assert!(
                worker.is_some(),
                "index {index}, and there are {} workers: the host refuses it",
                request.workers.len()
            );
            worker.map_or_else(String::new, |worker| worker.id.clone())
        };
        Ok(answer.into_iter().map(id).collect())
    }
}

/// A source to ask, without configuration. Call [`list`](SourceSetup::list) on it.
pub fn source() -> SourceSetup {
    SourceSetup { world: World::default() }
}

/// What a source is asked with. Begin with [`source`].
#[derive(Debug, Clone)]
pub struct SourceSetup {
    world: World,
}

impl SourceSetup {
    /// `source.plugin.config`: an object, for example from `serde_json::json!`.
    pub fn config(mut self, config: Value) -> Self {
        self.world.config = config;
        self
    }

    /// One granted environment variable more.
    #[cfg(feature = "wasi")]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.world.env.push((name.into(), value.into()));
        self
    }

    /// What answers requests. Without it they are denied.
    #[cfg(feature = "wasi")]
    pub fn server(mut self, server: Server) -> Self {
        self.world.server = Some(server);
        self
    }

    /// Asks the source, as the host would. The host then checks the list; this does not.
    pub fn list<S: Source>(self) -> Result<Vec<Listed>, Error> {
        self.world.host().call(&[], S::list_partitions)
    }
}

/// Hooks to open, without configuration. Call [`open`](HooksSetup::open) on it.
pub fn hooks() -> HooksSetup {
    HooksSetup { world: World::default() }
}

/// What hooks are opened with. Begin with [`hooks`].
#[derive(Debug, Clone)]
pub struct HooksSetup {
    world: World,
}

impl HooksSetup {
    /// `hooks.config`: an object, for example from `serde_json::json!`.
    pub fn config(mut self, config: Value) -> Self {
        self.world.config = config;
        self
    }

    /// One granted environment variable more.
    #[cfg(feature = "wasi")]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.world.env.push((name.into(), value.into()));
        self
    }

    /// What answers requests. Without it they are denied.
    #[cfg(feature = "wasi")]
    pub fn server(mut self, server: Server) -> Self {
        self.world.server = Some(server);
        self
    }

    /// Opens the hooks, as the host would.
    pub fn open<H: Hooks>(self) -> Result<HooksBench<H>, Error> {
        let mut host = self.world.host();
        let hooks = host.call(&[], H::open)?;
        Ok(HooksBench { hooks, host })
    }
}

/// Open hooks together with everything they have told their host.
///
/// ```
/// use parti_guest::{Error, Hooks, WorkerState, log, testing};
///
/// struct Diary;
///
/// impl Hooks for Diary {
///     fn open() -> Result<Self, Error> {
///         Ok(Self)
///     }
///
///     fn on_state_changed(&mut self, _: WorkerState, to: WorkerState) -> Result<(), Error> {
///         log::info!("now {to}");
///         Ok(())
///     }
/// }
///
/// let mut diary = testing::hooks().open::<Diary>()?;
/// diary.call(|hooks| hooks.on_state_changed(WorkerState::Election, WorkerState::Stable))?;
/// assert_eq!(diary.logged()[0].1, "now Stable");
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct HooksBench<H> {
    /// The hooks, for a test to look into.
    pub hooks: H,
    host: stand_in::Host,
}

impl<H: Hooks> HooksBench<H> {
    /// Makes one call.
    pub fn call<T>(&mut self, call: impl FnOnce(&mut H) -> T) -> T {
        self.host.call(&[], || call(&mut self.hooks))
    }

    /// Every line that was logged, in order.
    pub fn logged(&self) -> &[(Level, String)] {
        &self.host.logged
    }

    /// Every value of a metric, in order.
    pub fn noted(&self) -> &[Noted] {
        &self.host.noted
    }

    /// Every request that was sent, in order, answered or not.
    #[cfg(feature = "wasi")]
    pub fn requested(&self) -> &[crate::http::Request] {
        &self.host.outside.requested
    }

    /// Lets [`clock::monotonic`](crate::clock::monotonic) go on; by itself it stands still.
    #[cfg(feature = "wasi")]
    pub fn advance(&mut self, time: std::time::Duration) {
        self.host.outside.elapsed += time;
    }
}

/// A value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Noted {
    /// The metric's name, as declared.
    pub metric: String,
    /// What was added, set or observed.
    pub value: f64,
    /// One value for each label.
    pub labels: Vec<String>,
}

/// A message that the handler published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The sequence of the message that led to it.
    pub cause: u64,
    /// Where it goes.
    pub subject: String,
    /// Its headers.
    pub headers: Vec<Header>,
    /// Its content.
    pub payload: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Failure, Verdict, config, log};

    /// Publishes each payload to the subject `out`, then does what the payload says.
    #[derive(Debug)]
    struct Obedient;

    impl Handler for Obedient {
        fn open(partition: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
            log::info!("{} with {}", partition.id, config::get("limits.depth").unwrap_or_default());
            Ok(Self)
        }

        fn handle(&mut self, message: &Message) -> Verdict {
            message.publish("out", &message.payload)?;
            match message.text()? {
                "reject" => Err(Failure::reject("as told")),
                "retry" => Err(Failure::Retry),
                subject => Ok(message.publish(subject, "")?),
            }
        }
    }

    #[test]
    fn only_messages_that_are_done_have_published() {
        let mut bench = partition("p").open::<Obedient>().unwrap();
        bench.handle(&[message(1, "a", "x"), message(2, "a", "reject"), message(3, "a", "retry")]);

        let published: Vec<_> = bench.published().iter().map(|sent| (sent.cause, sent.subject.as_str())).collect();
        assert_eq!(published, [(1, "out"), (1, "x"), (2, "out")]);
    }

    #[test]
    fn a_subject_that_nats_would_not_take_is_refused_and_the_reason_is_logged() {
        for subject in ["", "a..b", "a b", "a.*", ">", "$JS.API.INFO"] {
            let mut bench = partition("p").open::<Obedient>().unwrap();
            let outcome = bench.handle(&[message(1, "a", subject)]);
            assert_eq!(outcome.retry, Some(None), "{subject:?}");
            let (level, line) = bench.logged().last().unwrap();
            assert_eq!(*level, Level::Warn);
            assert!(line.contains(&format!("`{subject}`")), "{line}");
        }
    }

    #[test]
    fn a_message_of_another_batch_is_no_cause() {
        struct Hoarder(Option<Message>);
        impl Handler for Hoarder {
            fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
                Ok(Self(None))
            }
            fn handle(&mut self, message: &Message) -> Verdict {
                let earlier = self.0.get_or_insert_with(|| message.clone());
                Ok(earlier.publish("out", "")?)
            }
        }

        let mut bench = partition("p").open::<Hoarder>().unwrap();
        assert_eq!(bench.handle(&[message(1, "a", "")]), Outcome::acked(1));
        assert_eq!(bench.handle(&[message(2, "a", "")]).retry, Some(None));
    }

    #[test]
    fn configuration_is_read_as_the_host_gives_it() {
        let bench = partition("p").config(json!({"limits": {"depth": 3}})).open::<Obedient>().unwrap();
        assert_eq!(bench.logged(), [(Level::Info, "p with 3".into())]);
    }
}
