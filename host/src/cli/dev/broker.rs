//! What `parti dev` does on its NATS server: makes the streams, and reads what the fleet has left there.

use super::producer::IN_FLIGHT;
use crate::cli::child::failed;
use crate::error::OperatorError;
use crate::nats::{
    BucketSpec, ConnectOptions, KeyLifetime, Login, Nats, NewStream, Publisher, Reader, ReaderOptions, Retention,
    Start, Storage, Store, StreamInfo,
};
use parti_coordination::Sequence;
use parti_coordination::record::{OwnershipRecord, decode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

/// The stream that the fleet works on.
pub(super) const WORK: &str = "work";

/// The stream that keeps the control chart's alarms.
const ALARMS: &str = "alarms";

/// The stream that keeps what other handlers publish, such as `relay`.
const OUT: &str = "out";

/// How long the work stream keeps messages, so that a fleet that runs for days does not fill the disk.
const WORK_AGE: Duration = Duration::from_secs(15 * 60);

/// For how long streams recognize message ids: the server's default.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Longest wait for one answer of the server.
const OPERATION: Duration = Duration::from_secs(10);

/// A connection to the development server.
pub(super) struct Broker {
    nats: Nats,
}

/// An alarm as the control chart publishes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct RaisedAlarm {
    /// Id of the partition.
    pub(super) partition: String,
    /// The message that raised it.
    pub(super) sequence: u64,
}

impl Broker {
    /// Connects and creates the streams.
    ///
    /// # Errors
    /// The server is too old, or gives no answer.
    pub(super) async fn connect(url: &str) -> Result<Self, OperatorError> {
        let options = ConnectOptions {
            servers: vec![url.to_owned()],
            login: Login::Anonymous,
            tls: None,
            name: "parti dev".to_owned(),
            operation_timeout: OPERATION,
        };
        let nats = Nats::connect(options).await.map_err(|error| broken("the nats-server cannot be used", &error))?;
        for (name, max_age) in [(WORK, Some(WORK_AGE)), (ALARMS, None), (OUT, Some(WORK_AGE))] {
            let stream = NewStream {
                name: name.to_owned(),
                subjects: vec![format!("{name}.>")],
                retention: Retention::Limits,
                storage: Storage::File,
                replicas: 1,
                max_age,
                duplicate_window: DUPLICATE_WINDOW,
            };
            StreamInfo::create(&nats, &stream).await.map_err(|error| broken("a stream cannot be created", &error))?;
        }
        Ok(Self { nats })
    }

    /// A publisher for the producer.
    pub(super) fn publisher(&self) -> Publisher {
        Publisher::new(&self.nats, IN_FLIGHT)
    }

    /// The ownership records in this bucket, by record key; those of another format as what is wrong with them.
    ///
    /// # Errors
    /// No answer in time.
    pub(super) async fn records(&self, bucket: &str) -> Result<Records, OperatorError> {
        let spec = BucketSpec { name: bucket.to_owned(), lifetime: KeyLifetime::Forever, replicas: 1 };
        let unread = |error: &dyn Display| broken("the ownership records cannot be read", error);
        let (store, _) = Store::open(&self.nats, spec).await.map_err(|error| unread(&error))?;
        let listed = store.list(None).await.map_err(|error| unread(&error))?;
        let written = listed.into_iter().filter_map(|(key, entry)| Some((key, entry.value?)));
        Ok(written.map(|(key, value)| (key, decode(&value).map_err(|error| error.to_string()))).collect())
    }

    /// Every alarm in the alarms stream, in its order.
    ///
    /// # Errors
    /// No answer in time, or something else than alarms is there.
    pub(super) async fn alarms(&self) -> Result<Vec<RaisedAlarm>, OperatorError> {
        let unread = |error: &dyn Display| broken("the alarms cannot be read", error);
        let last = StreamInfo::of(&self.nats, ALARMS).await.map_err(|error| unread(&error))?.last;
        if last == Sequence(0) {
            return Ok(Vec::new());
        }
        let options = ReaderOptions { stream: ALARMS.to_owned(), start: Start::At(Sequence(1)), filters: None };
        let mut reader = Reader::open(&self.nats, &options).await.map_err(|error| unread(&error))?;
        let (mut messages, mut alarms) = (Vec::new(), Vec::new());
        loop {
            reader.read(&mut messages).await.map_err(|end| unread(&end))?;
            let mut read = Sequence(0);
            for message in messages.drain(..) {
                read = message.sequence;
                alarms.push(serde_json::from_slice(&message.payload).map_err(|error| unread(&error))?);
            }
            if read >= last {
                return Ok(alarms);
            }
        }
    }

    /// Ends the connection.
    pub(super) async fn close(self) {
        self.nats.close().await;
    }
}

/// Ownership records by record key.
pub(super) type Records = BTreeMap<String, Result<OwnershipRecord, String>>;

fn broken(what: &str, error: &dyn Display) -> OperatorError {
    failed(what, error.to_string(), "read nats-server.log in the directory of this run")
}
