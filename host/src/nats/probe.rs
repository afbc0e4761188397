//! What workers say to each other without JetStream: "are you there?", and "this partition is free now".
//!
//! Both go over core NATS, so that they work, and prove something, while no stream has a leader.

use super::api::ApiError;
use super::backoff::Backoff;
use super::connection::Nats;
use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt as _;
use parti_coordination::{Incarnation, PartitionId, ProbeAnswer};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Waits between tries to reach ourselves.
const SELF_PROBE: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(1) };

/// How long one probe of ourselves may take.
const SELF_PROBE_WAIT: Duration = Duration::from_secs(1);

/// The workers of a group.
#[derive(Clone)]
pub struct Peers {
    pub(super) nats: Nats,
    group: String,
}

/// Why this worker cannot be reached by others.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing sent to {subject} comes back to this worker ({why}). Check that its NATS user may subscribe and publish to it"
)]
pub struct ProbeSetupError {
    /// The subject that was tried.
    pub subject: String,
    /// What came of it.
    pub why: ApiError,
}

/// Answers probes for as long as it is kept.
pub struct Responder {
    asked: mpsc::UnboundedReceiver<Incarnation>,
    _task: AbortOnDropHandle<()>,
}

/// What members of the group announce to have released.
pub struct Releases {
    receiver: mpsc::UnboundedReceiver<String>,
    _task: AbortOnDropHandle<()>,
}

impl Peers {
    /// The workers of the group with this name.
    #[must_use]
    pub fn new(nats: &Nats, group: &str) -> Self {
        Self { nats: nats.clone(), group: group.to_owned() }
    }

    pub(super) fn subject(&self, incarnation: &Incarnation, verb: &str) -> String {
        format!("parti.{}.{}-{}.{verb}", self.group, incarnation.claim, incarnation.uuid)
    }

    /// Answers probes of this incarnation from now on. Returns once a probe by ourselves has been answered: only then do we
    /// know that others reach us, and that silence would mean something.
    ///
    /// # Errors
    /// Our own probes are not answered within the operation timeout.
    pub async fn answer(&self, incarnation: &Incarnation) -> Result<Responder, ProbeSetupError> {
        let subject = self.subject(incarnation, "ping");
        let unreachable = |why| ProbeSetupError { subject: subject.clone(), why };
        let mut probes = self.subscribe(&subject).await.map_err(unreachable)?;
        let client = self.nats.inner.client.clone();
        let (sender, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Some(probe) = probes.next().await {
                if let Some(by) = parse_incarnation(&probe.payload) {
                    // Whoever keeps the responder without listening is answered for all the same.
                    let _ = sender.send(by);
                }
                if let Some(reply) = probe.reply
                    && let Err(error) = client.publish(reply, Bytes::new()).await
                {
                    tracing::debug!(%error, "a probe was not answered");
                }
            }
        });
        let responder = Responder { asked, _task: AbortOnDropHandle::new(task) };

        let mut last = ApiError::TimedOut;
        let reached = timeout(self.nats.operation_timeout(), async {
            for attempt in 1.. {
                sleep(SELF_PROBE.before(attempt)).await;
                match self.nats.request(&subject, Bytes::new(), SELF_PROBE_WAIT).await {
                    Ok(_) => return,
                    Err(error) => last = error,
                }
            }
        });
        match reached.await {
            Ok(()) => Ok(responder),
            Err(_) => Err(unreachable(last)),
        }
    }

    /// Asks whether the process of this incarnation is there, and tells it who asks.
    pub async fn probe(&self, incarnation: &Incarnation, me: Option<&Incarnation>, wait: Duration) -> ProbeAnswer {
        // While we are cut off ourselves, nothing is learned about others; a probe would only queue up.
        if !self.nats.link().borrow().connected {
            sleep(wait).await;
            return ProbeAnswer::TimedOut;
        }
        let payload = me.map(|me| format!("{}-{}", me.claim, me.uuid)).unwrap_or_default();
        match self.nats.request(&self.subject(incarnation, "ping"), payload.into(), wait).await {
            Ok(_) => ProbeAnswer::Answered,
            Err(ApiError::NoResponders) => ProbeAnswer::NoResponders,
            Err(_) => ProbeAnswer::TimedOut,
        }
    }

    /// Receives from now on what members of the group announce to have released.
    #[must_use]
    pub fn releases(&self) -> Releases {
        let (peers, subject) = (self.clone(), self.release_subject());
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut subscription = peers.subscribe_in_the_end(&subject).await;
            while let Some(hint) = subscription.next().await {
                match String::from_utf8(hint.payload.to_vec()) {
                    Ok(partition) => {
                        if sender.send(partition).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "a hint that is no text"),
                }
            }
        });
        Releases { receiver, _task: AbortOnDropHandle::new(task) }
    }

    /// Tells the group that the record of a partition was released, or moved. Nobody relies on its arrival.
    pub async fn announce_release(&self, partition: &PartitionId) {
        let published = async {
            let payload = Bytes::copy_from_slice(partition.as_str().as_bytes());
            let published = self.nats.inner.client.publish(self.release_subject(), payload).await;
            published.map_err(|error| ApiError::Failed(error.to_string()))
        };
        if let Err(error) = self.nats.while_connected(self.nats.operation_timeout(), published).await {
            tracing::debug!(%partition, %error, "a hint was not sent");
        }
    }

    fn release_subject(&self) -> String {
        format!("parti.{}.released", self.group)
    }

    /// Tries until it has succeeded.
    pub(super) async fn subscribe_in_the_end(&self, subject: &str) -> Subscriber {
        let mut attempt = 0;
        loop {
            attempt += 1;
            sleep(SELF_PROBE.before(attempt)).await;
            match self.subscribe(subject).await {
                Ok(subscription) => return subscription,
                Err(error) => tracing::debug!(subject, %error, "nothing can be heard yet"),
            }
        }
    }

    async fn subscribe(&self, subject: &str) -> Result<Subscriber, ApiError> {
        let subscribed = async {
            let subscription = self.nats.inner.client.subscribe(subject.to_owned()).await;
            subscription.map_err(|error| ApiError::Failed(error.to_string()))
        };
        self.nats.while_connected(self.nats.operation_timeout(), subscribed).await
    }
}

/// Who sent a probe, if it says so.
fn parse_incarnation(payload: &[u8]) -> Option<Incarnation> {
    let (claim, uuid) = std::str::from_utf8(payload).ok()?.split_once('-')?;
    Some(Incarnation { claim: claim.parse().ok()?, uuid: uuid.parse().ok()? })
}

impl Responder {
    /// Waits for the next probe by another worker: who asks. May be cancelled without loss.
    pub async fn asked(&mut self) -> Incarnation {
        match self.asked.recv().await {
            Some(by) => by,
            // The connection was closed for good.
            None => std::future::pending().await,
        }
    }
}

impl Releases {
    /// Waits for the next hint: the id of a partition, as its sender wrote it. May be cancelled without loss.
    pub async fn next(&mut self) -> String {
        match self.receiver.recv().await {
            Some(partition) => partition,
            // The connection was closed for good.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{ConnectOptions, Login};
    use super::super::testing::{Release, TestServer, in_time, options};
    use super::*;
    use uuid::Uuid;

    fn incarnation(claim: u64) -> Incarnation {
        Incarnation { claim, uuid: Uuid::from_u128(u128::from(claim)) }
    }

    #[tokio::test]
    async fn a_probe_tells_a_process_that_is_there_from_one_that_is_gone_and_one_that_stands_still() {
        let mut server = TestServer::start(Release::Oldest).await;
        let (asked, asking) = (server.connect().await, server.connect().await);
        let peers = Peers::new(&asking, "default");
        let wait = Duration::from_secs(5);
        let (there, still) = (incarnation(1), incarnation(2));
        assert_eq!(peers.probe(&there, None, wait).await, ProbeAnswer::NoResponders);

        let responder = Peers::new(&asked, "default").answer(&there).await.unwrap();
        assert_eq!(peers.probe(&there, None, wait).await, ProbeAnswer::Answered);
        assert_eq!(Peers::new(&asking, "other").probe(&there, None, wait).await, ProbeAnswer::NoResponders);

        // A stopped process keeps its subscription and says nothing.
        let _silent = asked.inner.client.subscribe(peers.subject(&still, "ping")).await.unwrap();
        asked.round_trip().await.unwrap();
        assert_eq!(peers.probe(&still, None, Duration::from_millis(100)).await, ProbeAnswer::TimedOut);

        server.kill();
        server.run().await;
        in_time(async { while peers.probe(&there, None, Duration::from_millis(50)).await != ProbeAnswer::Answered {} })
            .await;
        drop(responder);
        in_time(async { while peers.probe(&there, None, wait).await != ProbeAnswer::NoResponders {} }).await;
    }

    #[tokio::test]
    async fn a_worker_that_may_not_subscribe_is_told_so_instead_of_being_taken_for_dead() {
        let users = "jetstream: {}\nauthorization { users: [{ user: u, password: p, permissions: { subscribe: \"_INBOX.>\" } }] }";
        let server = TestServer::with_config(Release::Newest, users).await;
        let login = Login::Password { user: "u".to_owned(), password: "p".to_owned() };
        let options = ConnectOptions { login, operation_timeout: Duration::from_secs(2), ..options(&server.url()) };
        let nats = Nats::connect(options).await.unwrap();
        let refused = Peers::new(&nats, "default").answer(&incarnation(1)).await;
        let error = refused.err().unwrap();
        assert_eq!(error.why, ApiError::NoResponders);
        assert!(error.to_string().contains("parti.default.1-"), "{error}");
    }

    #[tokio::test]
    async fn a_release_is_heard_by_every_member_of_the_group_and_by_no_other() {
        let server = TestServer::start(Release::Newest).await;
        let (from, to) = (server.connect().await, server.connect().await);
        let partition = |key: &str| PartitionId::from_keys(&[key]).unwrap();
        let (peers, mut heard) = (Peers::new(&from, "default"), Peers::new(&to, "default").releases());
        // Heard from some moment on.
        in_time(async {
            let mut announced = tokio::time::interval(Duration::from_millis(20));
            loop {
                tokio::select! {
                    _ = announced.tick() => peers.announce_release(&partition("first")).await,
                    first = heard.next() => break assert_eq!(first, "first"),
                }
            }
        })
        .await;
        Peers::new(&from, "other").announce_release(&partition("not for us")).await;
        from.inner.client.publish(peers.release_subject(), vec![0xff, 0xfe].into()).await.unwrap();
        peers.announce_release(&partition("größe")).await;
        let next = in_time(async {
            loop {
                match heard.next().await {
                    again if again == "first" => {}
                    other => break other,
                }
            }
        });
        assert_eq!(next.await, partition("größe").as_str());
    }

    #[tokio::test]
    async fn who_is_probed_hears_by_whom_and_whatever_else_arrives_is_answered_too() {
        let server = TestServer::start(Release::Oldest).await;
        let (asked, asking) = (server.connect().await, server.connect().await);
        let (there, by) = (incarnation(1), incarnation(7));
        let mut responder = Peers::new(&asked, "default").answer(&there).await.unwrap();
        let peers = Peers::new(&asking, "default");
        for payload in ["", "7", "7-", "x-y", "\u{fffd}", "99999999999999999999-0"] {
            let subject = peers.subject(&there, "ping");
            peers.nats.request(&subject, payload.into(), Duration::from_secs(5)).await.unwrap();
        }
        assert_eq!(peers.probe(&there, Some(&by), Duration::from_secs(5)).await, ProbeAnswer::Answered);
        assert_eq!(in_time(responder.asked()).await, by);
    }
}
