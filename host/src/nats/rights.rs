//! What the NATS user may do, found out without doing it: for `parti check --online`.
//!
//! A server does not answer what it does not permit, it only reports an error on the connection. So everything here is asked in a way
//! that is answered at once where it is permitted, and that changes nothing: no stream takes a message that expects what is not there.

use super::api::ApiError;
use super::connection::Nats;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Silence for so long is a no.
const WAIT: Duration = Duration::from_secs(2);

/// A sequence that no subject has come to.
const IMPOSSIBLE: u64 = 1 << 60;

/// How much of JetStream an account uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// The most there may be.
    pub limit: Option<u64>,
}

/// What an account has of JetStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AccountUsage {
    /// Bytes in memory.
    pub memory: Usage,
    /// Bytes on disk.
    pub storage: Usage,
    /// Streams, buckets among them.
    pub streams: Usage,
    /// Consumers.
    pub consumers: Usage,
}

#[derive(Deserialize)]
struct Account {
    memory: u64,
    storage: u64,
    streams: u64,
    consumers: u64,
    limits: Limits,
    /// An account may have limits for each number of replicas instead.
    #[serde(default)]
    tiers: HashMap<String, Value>,
}

/// Below zero for no limit.
#[derive(Deserialize)]
struct Limits {
    max_memory: i64,
    max_storage: i64,
    max_streams: i64,
    max_consumers: i64,
}

impl Nats {
    /// How much of JetStream the account uses, and may use.
    ///
    /// # Errors
    /// No answer within the operation timeout.
    pub async fn account(&self) -> Result<AccountUsage, ApiError> {
        let Account { memory, storage, streams, consumers, limits, tiers } = self.api("INFO", &json!({})).await?;
        let usage = |used, limit: i64| Usage { used, limit: u64::try_from(limit).ok().filter(|_| tiers.is_empty()) };
        Ok(AccountUsage {
            memory: usage(memory, limits.max_memory),
            storage: usage(storage, limits.max_storage),
            streams: usage(streams, limits.max_streams),
            consumers: usage(consumers, limits.max_consumers),
        })
    }

    /// Whether this user may publish to a subject to which nobody listens.
    pub async fn may_publish(&self, subject: &str) -> bool {
        let asked = self.request(subject, Bytes::new(), WAIT.min(self.operation_timeout())).await;
        matches!(asked, Ok(_) | Err(ApiError::NoResponders))
    }

    /// Whether this user may publish to a subject that a stream captures. The stream refuses the message, which expects to follow one
    /// that is not there.
    pub async fn may_store(&self, subject: &str) -> bool {
        let message = PublishMessage::build().expected_last_subject_sequence(IMPOSSIBLE);
        let published = tokio::time::timeout(WAIT, self.publish_and_confirm(subject, message)).await;
        matches!(published, Ok(Ok(_) | Err(ApiError::Refused { .. })))
    }

    /// Whether this user may create a stream of this name. The server refuses the request, which names two.
    pub async fn may_create(&self, stream: &str) -> bool {
        let config = json!({ "name": format!("{stream}-"), "subjects": [], "num_replicas": 1 });
        let subject = format!("STREAM.CREATE.{stream}");
        let asked = tokio::time::timeout(WAIT, self.api::<_, Value>(&subject, &config)).await;
        matches!(asked, Ok(Err(ApiError::Refused { .. })))
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{ConnectOptions, Login};
    use super::super::stream::StreamInfo;
    use super::super::testing::{Release, TestServer, ask, options};
    use super::*;

    #[tokio::test]
    async fn what_is_permitted_is_told_from_what_is_not_and_nothing_changes() {
        for release in Release::ALL {
            let server = TestServer::with_config(
                release,
                "jetstream: {}\nauthorization { users: [\n\
                 { user: all, password: p },\n\
                 { user: some, password: p, permissions: { publish: [\"$JS.API.INFO\", \"$JS.API.STREAM.CREATE.may\", \"good.>\", \"kept.may\"], subscribe: [\"_INBOX.>\"] } }\n\
                 ] }",
            )
            .await;
            let login = |user: &str| Login::Password { user: user.to_owned(), password: "p".to_owned() };
            let connect =
                async |user| Nats::connect(ConnectOptions { login: login(user), ..options(&server.url()) }).await;
            let (all, some) = (connect("all").await.unwrap(), connect("some").await.unwrap());
            ask(&all, "STREAM.CREATE.kept", json!({ "name": "kept", "subjects": ["kept.>"], "num_replicas": 1 })).await;

            assert!(all.may_publish("bad.x").await && some.may_publish("good.x").await);
            assert!(!some.may_publish("bad.x").await);
            assert!(all.may_store("kept.not").await && some.may_store("kept.may").await);
            assert!(!some.may_store("kept.not").await, "not permitted");
            assert!(!all.may_store("lost").await, "captured by no stream");
            assert!(all.may_create("not").await && some.may_create("may").await);
            assert!(!some.may_create("not").await);

            assert_eq!(StreamInfo::of(&all, "kept").await.unwrap().messages, 0);
            let usage = some.account().await.unwrap();
            assert_eq!((usage.streams.used, usage.streams.limit, usage.consumers.used), (1, None, 0));
        }
    }

    #[tokio::test]
    async fn the_limits_of_an_account_are_told() {
        let limits = "jetstream: {}\naccounts { A { jetstream: { max_streams: 3, max_file: 1M }, users: [{ user: u, password: p }] } }";
        let server = TestServer::with_config(Release::Newest, limits).await;
        let login = Login::Password { user: "u".to_owned(), password: "p".to_owned() };
        let nats = Nats::connect(ConnectOptions { login, ..options(&server.url()) }).await.unwrap();
        let usage = nats.account().await.unwrap();
        assert_eq!((usage.streams, usage.storage.limit), (Usage { used: 0, limit: Some(3) }, Some(1_000_000)));
    }
}
