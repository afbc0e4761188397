//! The adapters to NATS: everything a worker reads from or writes to a server goes through here, and no other folder
//! names the client library, so that its quirks (and its replacement) stay in one place.
//!
//! * [`Nats`] is one connection; its clones are handles to it. [`Nats::link`] tells when it is lost and found again.
//! * [`Store`] is one KV bucket: compare-and-set, reads from the stream leader, listings, watches that never end.
//! * [`Objects`] is the object store of the snapshots that are too large for a record.
//! * [`Reader`] reads a stream in order from a given sequence until something breaks, and says what broke.
//! * [`QueueConsumers`] are the durable consumers of a WorkQueue or Interest stream, [`QueueReader`] reads through one, and
//!   [`Acknowledger`] acknowledges.
//! * [`Publisher`] publishes with message ids, many in flight.
//! * [`Peers`] answers and asks the liveness probes and carries hints between workers.
//! * [`StreamInfo`] says what a stream is, or which streams there are when it is not; [`Backlogs`] how much of it lies after
//!   a position, [`each_subject`] of what it holds messages, and [`Stored`] gets at single messages.
//!
//! The adapters decide nothing: they carry out what the core asks for, bound every call by
//! [`ConnectOptions::operation_timeout`], and report what came of it. The worker's driver and the intake call them.

mod api;
mod backlog;
mod backoff;
mod bare;
mod buckets;
mod connect_error;
mod connection;
mod figures;
mod greeting;
mod headers;
mod kv;
#[cfg(test)]
mod kv_tests;
mod objects;
mod options;
mod probe;
mod publisher;
mod queue;
#[cfg(test)]
mod queue_tests;
mod reader;
mod rights;
mod stored;
mod stream;
mod subjects;
#[cfg(test)]
pub(crate) mod testing;
mod watch;
mod wire;

pub use api::ApiError;
pub use backlog::{Backlog, Backlogs};
pub use bare::{
    BareListener, BareWay, bare_ages, bare_fill, bare_listen, bare_pace, bare_publish, bare_rate, bare_relay,
};
pub use buckets::{BucketLook, BucketMismatch, BucketSpec, KeyLifetime, OpenBucketError};
pub use connect_error::ConnectError;
pub use connection::{Link, Nats};
pub use figures::PartitionFigures;
pub use greeting::ServerVersion;
pub use headers::{Headers, pairs as header_pairs};
pub use kv::{Loss, Store};
pub use objects::{ObjectError, Objects};
pub use options::{ClientCertificate, ConnectOptions, Login, Tls};
pub use probe::{Peers, ProbeSetupError, Releases, Responder};
pub use publisher::{OutgoingMessage, Published, Publisher, Receipt, sendable_headers};
pub use queue::{Acknowledger, CreateConsumerError, QueueConsumer, QueueConsumers, QueueMessage, QueueReader};
pub use reader::{Filters, OpenReaderError, Reader, ReaderEnd, ReaderOptions, Start, StreamMessage};
pub use rights::{AccountUsage, Usage};
pub use stored::Stored;
pub use stream::{NewStream, Retention, Storage, StreamError, StreamInfo};
pub use subjects::{each_subject, subject_matches};
pub use watch::{KvEvent, Watch};
