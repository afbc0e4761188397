//! Versions of plugins that an operator gives to a whole fleet, through NATS: which one is wanted, its component, and how each worker
//! has fared with it. Operators' commands write what is wanted; workers obey it and write how it went.
//!
//! In the control bucket, `plugin.<plugin>` says what is wanted, and `history.<plugin>.<worker>` how the last attempts of a worker have
//! ended. Components are in an object store, named by their digests, and whoever fetches one verifies it.

use crate::nats::{ApiError, Filters, ObjectError, Objects, Store, Watch};
use crate::plugin::{Attempt, AttemptResult, Digest};
use jiff::Timestamp;
use parti_coordination::record::{self, FORMAT};
use parti_coordination::{Expect, StoredEntry, WriteOutcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Versions before the wanted one whose components are kept, for `parti plugin rollback`.
const BEFORE: usize = 8;

/// Attempts that are kept of a worker.
const REMEMBERED: usize = 20;

/// Characters of a reason that are kept: a record must stay small.
const REASON: usize = 1_000;

/// How often a worker's history is read again when another process was faster, or NATS has not answered.
const TRIES: usize = 20;

/// How long after no answer it is read again.
const UNANSWERED: Duration = Duration::from_secs(3);

/// What is wanted of a plugin: key `plugin.<plugin>` of the control bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    v: u32,
    group: String,
    /// The component that every worker is to run; without one, what lies in its plugin directory.
    #[serde(default)]
    pub wanted: Option<Digest>,
    /// It begins without the states that the version before has written.
    #[serde(default)]
    pub discard_state: bool,
    /// It is tried even where it has failed its trial before.
    #[serde(default)]
    pub retry: bool,
    /// Who has ordered it, for people.
    pub by: String,
    /// When. A component in a plugin directory that is newer than this goes before it.
    pub at: Timestamp,
    /// What was pushed before, the latest first.
    #[serde(default)]
    pub before: Vec<Digest>,
}

impl Order {
    /// What is wanted from now on, after `before`.
    #[must_use]
    pub fn new(group: &str, before: Option<&Self>, wanted: Option<Digest>, by: &str) -> Self {
        let pushed = before.into_iter().flat_map(Self::components);
        let mut list: Vec<Digest> = Vec::new();
        for digest in pushed {
            if Some(digest) != wanted.as_ref() && !list.contains(digest) {
                list.push(digest.clone());
            }
        }
        list.truncate(BEFORE);
        Self {
            v: FORMAT,
            group: group.to_owned(),
            wanted,
            discard_state: false,
            retry: false,
            by: by.to_owned(),
            at: Timestamp::now(),
            before: list,
        }
    }
}

impl Order {
    /// What is wanted after going back from this order to one of those before; without one, to what lies in the plugin directories.
    #[must_use]
    pub fn back(&self, to: Option<Digest>, by: &str) -> Self {
        let after = to.as_ref().and_then(|to| self.before.iter().position(|digest| digest == to));
        let before = after.and_then(|at| self.before.get(at + 1..)).unwrap_or_default().to_vec();
        Self { before, ..Self::new(&self.group, None, to, by) }
    }

    /// The same, to be tried even where it has failed before, with or without the states of the version before.
    #[must_use]
    pub fn again(self, discard_state: bool) -> Self {
        Self { retry: true, discard_state, ..self }
    }

    /// Every component that it names.
    pub fn components(&self) -> impl Iterator<Item = &Digest> {
        self.wanted.iter().chain(&self.before)
    }
}

/// An order with the revision by which it is told from others; without one, nothing was ever ordered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// What is wanted.
    pub order: Option<Order>,
    /// Its revision; 0 if there is none.
    pub revision: u64,
}

/// An attempt as its worker tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The revision of the order that it obeyed; 0 for what was found in the plugin directory.
    #[serde(default)]
    pub order: u64,
    /// The attempt.
    #[serde(flatten)]
    pub attempt: Attempt,
}

/// A worker's last attempts, the latest first: key `history.<plugin>.<worker>` of the control bucket.
#[derive(Serialize, Deserialize)]
struct HistoryRecord {
    v: u32,
    group: String,
    attempts: Vec<Reported>,
}

/// What a fleet is told of its plugins, and tells. Cheap to clone.
#[derive(Clone)]
pub struct Pushes {
    group: String,
    control: Store,
    components: Objects,
}

impl Pushes {
    /// What the group has in these buckets.
    #[must_use]
    pub fn new(group: &str, control: Store, components: Objects) -> Self {
        Self { group: group.to_owned(), control, components }
    }

    /// Whether orders for a plugin of this name can be written: a key has no empty parts.
    #[must_use]
    pub fn can_name(plugin: &str) -> bool {
        plugin.split('.').all(|part| !part.is_empty())
    }

    /// What is wanted of a plugin now.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn standing(&self, plugin: &str) -> Result<Standing, ApiError> {
        if !Self::can_name(plugin) {
            return Ok(Standing::default());
        }
        let found = self.control.read(&order_key(plugin)).await?;
        Ok(found.map(|entry| self.understand(plugin, &entry)).unwrap_or_default())
    }

    /// Tells what is wanted of a plugin, and every change, as entries for [`Self::understand`].
    #[must_use]
    pub fn watch(&self, plugin: &str) -> Option<Watch> {
        Self::can_name(plugin).then(|| self.control.watch(Filters::new(vec![order_key(plugin)])))
    }

    /// What an entry of the watch says. What is not of the protocol, or of another group, orders nothing.
    #[must_use]
    pub fn understand(&self, plugin: &str, entry: &StoredEntry) -> Standing {
        let nothing = Standing { order: None, revision: entry.revision };
        let Some(value) = &entry.value else { return nothing };
        match record::decode::<Order>(value) {
            Ok(order) if order.group == self.group => Standing { order: Some(order), revision: entry.revision },
            Ok(order) => {
                tracing::error!(
                    plugin,
                    group = order.group,
                    "Another group orders versions in this bucket; it is ignored"
                );
                nothing
            }
            Err(error) => {
                tracing::error!(plugin, %error, "What is wanted of a plugin cannot be read; it is ignored. Push it again");
                nothing
            }
        }
    }

    /// Orders a version, if nobody else has ordered one since `revision`.
    pub async fn order(&self, plugin: &str, order: &Order, revision: u64) -> WriteOutcome {
        let expect = if revision == 0 { Expect::Nothing } else { Expect::Revision(revision) };
        // Values of texts and numbers always encode.
        let value = record::encode(order).unwrap_or_default();
        self.control.write(&order_key(plugin), value.into(), expect, None).await
    }

    /// Puts a component.
    ///
    /// # Errors
    /// It is not known to be there.
    pub async fn put(&self, plugin: &str, digest: &Digest, bytes: &[u8]) -> Result<(), ObjectError> {
        self.components.put(&object(plugin, digest), bytes).await
    }

    /// Fetches a component, which is what its digest says.
    ///
    /// # Errors
    /// It is not there, it is another, or there was no answer within the operation timeout.
    pub async fn fetch(&self, plugin: &str, digest: &Digest) -> Result<Vec<u8>, String> {
        let unusable = |why: String| format!("{why}; push it again: parti plugin push {plugin} FILE");
        match self.components.get(&object(plugin, digest)).await {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes),
            Ok(bytes) => {
                Err(unusable(format!("component {digest} was pushed with other bytes ({})", Digest::of(&bytes))))
            }
            Err(ObjectError::Missing { bucket, .. }) => {
                Err(unusable(format!("component {digest} is not in bucket {bucket:?}")))
            }
            Err(ObjectError::Damaged { why, .. }) => Err(unusable(format!("component {digest} is damaged: {why}"))),
            Err(error @ (ObjectError::Failed { .. } | ObjectError::Crowded { .. })) => {
                Err(format!("component {digest} cannot be fetched: {error}"))
            }
        }
    }

    /// Deletes components that no order names any more.
    ///
    /// # Errors
    /// It is not known that they are gone.
    pub async fn delete(&self, plugin: &str, digests: &[Digest]) -> Result<(), ObjectError> {
        let names: Vec<String> = digests.iter().map(|digest| object(plugin, digest)).collect();
        self.components.delete(plugin, &names, None).await
    }

    /// How each worker has fared with a plugin, the latest attempt first.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn history(&self, plugin: &str) -> Result<BTreeMap<String, Vec<Reported>>, ApiError> {
        if !Self::can_name(plugin) {
            return Ok(BTreeMap::new());
        }
        let listed = self.control.list(Filters::new(vec![history_key(plugin, "*")]).as_ref()).await?;
        let of = |(key, entry): (String, StoredEntry)| {
            let worker = key.strip_prefix(&history_key(plugin, ""))?.to_owned();
            Some((worker, self.attempts(&entry)?))
        };
        Ok(listed.into_iter().filter_map(of).collect())
    }

    fn attempts(&self, entry: &StoredEntry) -> Option<Vec<Reported>> {
        let history: HistoryRecord = record::decode(entry.value.as_ref()?).ok()?;
        (history.group == self.group).then_some(history.attempts)
    }

    /// Adds an attempt to a worker's history.
    ///
    /// # Errors
    /// It is not known to be there.
    pub async fn report(&self, plugin: &str, worker: &str, mut reported: Reported) -> Result<(), String> {
        let reason = &mut reported.attempt.reason;
        *reason = reason.take().map(|reason| reason.chars().take(REASON).collect());
        let key = history_key(plugin, worker);
        for _ in 0..TRIES {
            let Ok(found) = self.control.read(&key).await else {
                tokio::time::sleep(UNANSWERED).await;
                continue;
            };
            let expect = found.as_ref().map_or(Expect::Nothing, |entry| Expect::Revision(entry.revision));
            let mut attempts = found.and_then(|entry| self.attempts(&entry)).unwrap_or_default();
            // A write that had no known outcome.
            if attempts.first() == Some(&reported) {
                return Ok(());
            }
            attempts.insert(0, reported.clone());
            attempts.truncate(REMEMBERED);
            let history = HistoryRecord { v: FORMAT, group: self.group.clone(), attempts };
            let value = record::encode(&history).map_err(|error| error.to_string())?;
            if let WriteOutcome::Written(_) = self.control.write(&key, value.into(), expect, None).await {
                return Ok(());
            }
        }
        Err(format!("it changed under each of {TRIES} tries, or NATS refuses to write it"))
    }
}

fn order_key(plugin: &str) -> String {
    format!("plugin.{plugin}")
}

fn history_key(plugin: &str, worker: &str) -> String {
    format!("history.{plugin}.{worker}")
}

/// The name of a component in the object store: the number is that of the first, and only, layout.
fn object(plugin: &str, digest: &Digest) -> String {
    format!("{plugin}/1/{digest}")
}

/// Why a version has failed in the fleet: some worker's last attempt at it failed, and no worker's has succeeded since.
#[must_use]
pub fn failed<'a>(history: &'a BTreeMap<String, Vec<Reported>>, version: &str) -> Option<(&'a str, &'a Attempt)> {
    let failed = last_attempts(history, version)
        .filter(|(_, attempt)| matches!(attempt.result, AttemptResult::TakenBack | AttemptResult::Refused));
    let failed = failed.max_by_key(|(_, attempt)| attempt.at)?;
    let succeeded = last_attempts(history, version).any(|(_, proof)| proof.proves() && proof.at >= failed.1.at);
    (!succeeded).then_some(failed)
}

/// Each worker's last attempt at a version.
fn last_attempts<'a>(
    history: &'a BTreeMap<String, Vec<Reported>>,
    version: &str,
) -> impl Iterator<Item = (&'a str, &'a Attempt)> {
    history.iter().filter_map(move |(worker, attempts)| {
        let last = attempts.iter().find(|reported| reported.attempt.to == version)?;
        Some((worker.as_str(), &last.attempt))
    })
}

/// The worker that has shown that a version does, if its last attempt at it or anybody else's did.
#[must_use]
pub fn proven<'a>(history: &'a BTreeMap<String, Vec<Reported>>, version: &str) -> Option<&'a str> {
    last_attempts(history, version).find_map(|(worker, attempt)| attempt.proves().then_some(worker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::testing::{Release, TestServer};
    use crate::nats::{BucketSpec, KeyLifetime};

    fn digest(n: usize) -> Digest {
        Digest::of(n.to_string().as_bytes())
    }

    fn reported(to: &str, result: AttemptResult) -> Reported {
        let attempt = Attempt {
            at: Timestamp::UNIX_EPOCH,
            by: "ann@host".into(),
            from: "a".into(),
            to: to.into(),
            result,
            reason: None,
            partitions: 3,
            handled: 10,
            failed: 0,
            pause_p50_us: 0,
            pause_p99_us: 0,
            adopted: false,
        };
        Reported { order: 7, attempt }
    }

    #[test]
    fn an_order_remembers_what_was_pushed_before_once_each_and_not_for_ever() {
        let mut order = Order::new("g", None, Some(digest(0)), "ann");
        for n in [1, 2, 1, 1] {
            order = Order::new("g", Some(&order), Some(digest(n)), "ann");
        }
        assert_eq!((order.wanted.clone(), order.before.clone()), (Some(digest(1)), vec![digest(2), digest(0)]));
        let back = order.back(Some(digest(2)), "ann");
        assert_eq!((back.wanted.clone(), back.before.clone()), (Some(digest(2)), vec![digest(0)]));
        let back = order.back(None, "ann");
        assert_eq!((back.wanted.clone(), back.before.len()), (None, 0), "what lies in the directories");
        for n in 3..40 {
            order = Order::new("g", Some(&order), Some(digest(n)), "ann");
        }
        assert_eq!((order.before.len(), order.before[0].clone()), (BEFORE, digest(38)));
    }

    #[test]
    fn a_version_has_failed_in_the_fleet_unless_a_worker_has_kept_it_since() {
        use AttemptResult::{Kept, Refused, TakenBack};
        let fleet = |of: &[(&str, &[AttemptResult])]| -> BTreeMap<String, Vec<Reported>> {
            let attempts = |results: &[AttemptResult]| results.iter().map(|result| reported("x", *result)).collect();
            of.iter().map(|(worker, results)| ((*worker).to_owned(), attempts(results))).collect()
        };
        assert!(failed(&fleet(&[]), "x").is_none());
        assert!(failed(&fleet(&[("a", &[TakenBack]), ("b", &[])]), "x").is_some());
        assert!(failed(&fleet(&[("a", &[Refused])]), "x").is_some());
        assert!(failed(&fleet(&[("a", &[TakenBack])]), "y").is_none());
        assert!(failed(&fleet(&[("a", &[TakenBack]), ("b", &[Kept])]), "x").is_none());
        assert!(failed(&fleet(&[("a", &[Kept, TakenBack])]), "x").is_none());
        // Who has no partitions has kept it without having tried it, as has who had no message or took it over.
        let spoils: [fn(&mut Attempt); 3] =
            [|attempt| attempt.partitions = 0, |attempt| attempt.handled = 0, |attempt| attempt.adopted = true];
        for spoil in spoils {
            let mut untried = fleet(&[("a", &[TakenBack]), ("b", &[Kept])]);
            spoil(&mut untried.get_mut("b").unwrap()[0].attempt);
            assert!(failed(&untried, "x").is_some() && proven(&untried, "x").is_none());
        }
        assert_eq!(proven(&fleet(&[("a", &[Kept])]), "x"), Some("a"));
        // What was seen last counts.
        let mut later = fleet(&[("a", &[TakenBack]), ("b", &[Kept])]);
        later.get_mut("a").unwrap()[0].attempt.at += jiff::SignedDuration::from_secs(1);
        assert!(failed(&later, "x").is_some());
    }

    #[test]
    fn what_is_reported_is_read_back_and_later_fields_are_ignored() {
        let text = serde_json::to_value(reported("x", AttemptResult::TakenBack)).unwrap();
        assert_eq!((&text["order"], &text["result"]), (&7.into(), &"taken-back".into()));
        let mut later = text.clone();
        later["newer"] = 1.into();
        assert_eq!(serde_json::from_value::<Reported>(later).unwrap(), reported("x", AttemptResult::TakenBack));
    }

    #[tokio::test]
    async fn orders_are_written_in_turn_components_are_what_they_should_be_and_another_group_orders_nothing() {
        for release in Release::ALL {
            let server = TestServer::start(release).await;
            let nats = server.connect().await;
            let spec = BucketSpec { name: "control".into(), lifetime: KeyLifetime::Forever, replicas: 1 };
            let (control, _) = Store::open(&nats, spec).await.unwrap();
            let (components, _) = Objects::open(&nats, "plugins", 1).await.unwrap();
            let pushes = Pushes::new("g", control.clone(), components.clone());
            assert_eq!(pushes.standing("a.b").await.unwrap(), Standing::default());

            let bytes = vec![7; 300_000];
            let (wanted, spoilt) = (Digest::of(&bytes), digest(1));
            pushes.put("a.b", &wanted, &bytes).await.unwrap();
            components.put(&object("a.b", &spoilt), b"others").await.unwrap();
            assert_eq!(pushes.fetch("a.b", &wanted).await.as_ref(), Ok(&bytes));
            assert!(pushes.fetch("a.b", &spoilt).await.unwrap_err().contains("with other bytes"));
            assert!(pushes.fetch("a", &wanted).await.unwrap_err().contains("is not in bucket"));
            pushes.delete("a.b", std::slice::from_ref(&wanted)).await.unwrap();
            assert!(pushes.fetch("a.b", &wanted).await.is_err());

            let order = Order::new("g", None, Some(wanted), "ann");
            let WriteOutcome::Written(revision) = pushes.order("a.b", &order, 0).await else { panic!("not written") };
            assert_eq!(pushes.order("a.b", &order, 0).await, WriteOutcome::Lost, "somebody else was faster");
            let standing = pushes.standing("a.b").await.unwrap();
            assert_eq!(standing, Standing { order: Some(order.clone()), revision });
            let others = Pushes::new("h", control.clone(), components.clone());
            assert_eq!(others.standing("a.b").await.unwrap().order, None);
            control.write("plugin.a.b", "{".into(), Expect::Anything, None).await;
            assert_eq!(pushes.standing("a.b").await.unwrap().order, None, "garbage orders nothing");

            for n in 0..REMEMBERED + 5 {
                let result = if n % 2 == 0 { AttemptResult::Kept } else { AttemptResult::TakenBack };
                let mut reported = reported("x", result);
                reported.attempt.reason = Some("ä".repeat(5 * REASON));
                pushes.report("a.b", "worker-1", reported).await.unwrap();
            }
            pushes.report("a", "worker-1", reported("y", AttemptResult::Kept)).await.unwrap();
            let history = pushes.history("a.b").await.unwrap();
            assert_eq!(history.keys().collect::<Vec<_>>(), ["worker-1"], "plugin `a` is another");
            assert_eq!(history["worker-1"].len(), REMEMBERED);
        }
    }
}
