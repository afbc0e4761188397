//! The stream that is read: how a reader of it is opened, and whether it still is what the partitions' positions mean.

use crate::nats::{
    ApiError, Filters, Nats, NewStream, OpenReaderError, Reader, ReaderOptions, Start, Stored, StreamError, StreamInfo,
};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use parti_coordination::Sequence;
use parti_coordination::record::Seen;
use std::collections::BTreeMap;
use std::time::Duration;

/// Messages that are looked at at once.
const CHECKS: usize = 64;

/// A stream on several servers that seems to end too early is believed to have been set back after this time: longer than a
/// server that has lost its peers goes on answering as the leader it was.
pub(super) const BELIEVE_REWIND: Duration = Duration::from_secs(12);

/// The stream that is read.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) nats: Nats,
    pub(super) stream: String,
    /// How to make it where the configuration says that the host does.
    pub(super) create: Option<NewStream>,
}

/// What the positions of partitions presume of the stream.
#[derive(Debug, Clone)]
pub(super) struct Presumed {
    /// When it was created.
    pub(super) created: String,
    /// It ends here or later.
    pub(super) last: Sequence,
    /// Messages that it has delivered, each to another worker or at another time.
    pub(super) seen: Vec<Seen>,
}

/// The stream as it was at a look.
pub(super) struct Look {
    pub(super) stream: StreamInfo,
    pub(super) finding: Finding,
}

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It can be what is presumed.
    AsPresumed,
    /// It was deleted and made again.
    MadeAnew,
    /// It was put back to what it was before, as from a backup.
    SetBack {
        /// Up to here it is as it was read.
        to: Sequence,
        /// No message that was stored later than this was stored before it was set back; nanoseconds since 1970.
        time: Option<u64>,
        /// A server that has lost its peers could not have answered this.
        is_certain: bool,
    },
}

/// Readers that were just opened, in the order of what was asked for, and the stream as it was then.
pub(super) struct Opened {
    pub(super) readers: Vec<Reader>,
    pub(super) look: Look,
}

/// Why there is no reader.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReader {
    #[error(transparent)]
    Reader(#[from] OpenReaderError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(
        "a server before 2.15.1, or one of which that is not known, may leave out messages for a reader with filters when others \
         are purged; before 2.10.26 even if not"
    )]
    Inexact,
}

impl Origin {
    /// Opens a reader that begins at `from`. A stream that is gone is made anew if that is the host's to do.
    pub(super) async fn open(&self, from: Sequence, presumed: &Presumed) -> Result<Opened, NoReader> {
        let options = ReaderOptions { stream: self.stream.clone(), start: Start::At(from), filters: None };
        let reader = match (Reader::open(&self.nats, &options).await, &self.create) {
            (Err(OpenReaderError::NoStream(_)), Some(_)) => {
                self.restore().await?;
                Reader::open(&self.nats, &options).await?
            }
            (reader, _) => reader?,
        };
        // Asked after it was opened: if this is the stream that we know, it was then, too.
        let look = self.compare(presumed).await?;
        Ok(Opened { readers: vec![reader], look })
    }

    /// Opens readers that begin at `from`, one for each of these filters.
    pub(super) async fn open_filtered(
        &self,
        from: Sequence,
        filters: Vec<Filters>,
        presumed: &Presumed,
    ) -> Result<Opened, NoReader> {
        let opened = filters.into_iter().map(async |filters| {
            let options = ReaderOptions { stream: self.stream.clone(), start: Start::At(from), filters: Some(filters) };
            Reader::open(&self.nats, &options).await
        });
        let readers = try_join_all(opened).await?;
        let look = self.compare(presumed).await?;
        if !readers.iter().all(|reader| reader.filters_exactly(&look.stream)) {
            return Err(NoReader::Inexact);
        }
        Ok(Opened { readers, look })
    }

    /// Makes a stream that is gone anew, if that is the host's to do. Whether it was.
    pub(super) async fn restore(&self) -> Result<bool, StreamError> {
        let Some(new) = &self.create else { return Ok(false) };
        match self.look().await {
            Err(StreamError::NotFound { .. }) => {}
            other => return other.map(|_| false),
        }
        tracing::warn!(stream = self.stream, "The stream is gone; making it anew, as stream.create says");
        StreamInfo::create(&self.nats, new).await.map(|_| true)
    }

    /// The stream as it is now.
    pub(super) async fn look(&self) -> Result<StreamInfo, StreamError> {
        StreamInfo::of(&self.nats, &self.stream).await
    }

    /// The stream as it is now, beside what it should be.
    ///
    /// A stream that was set back and written to since does not end where it was set back to; nor need it be shorter than it was.
    /// What tells the two histories apart is time: every message of the one before was stored no later than the last one that was
    /// read of it, and everything since was stored after the stream was set back. A message of the very same nanosecond counts
    /// to the later ones, so that it is rather handled twice than never. The clocks of two servers may differ; a restore, and
    /// an election, take longer than that.
    pub(super) async fn compare(&self, presumed: &Presumed) -> Result<Look, StreamError> {
        let stream = self.look().await?;
        if stream.created != presumed.created {
            return Ok(Look { stream, finding: Finding::MadeAnew });
        }
        let stored = Stored::new(&self.nats, &self.stream);
        let (there, beyond): (Vec<Seen>, Vec<Seen>) =
            presumed.seen.iter().partition(|seen| seen.sequence <= stream.last);
        // Of what lies before the stream's first message nothing is left that could tell.
        let there = there.into_iter().filter(|seen| seen.sequence >= stream.first).collect();
        let others = self.others(&stored, there).await.map_err(|why| self.failed(why))?;
        let is_certain = !others.is_empty();
        if !is_certain && beyond.is_empty() && presumed.last <= stream.last {
            return Ok(Look { stream, finding: Finding::AsPresumed });
        }
        let gone = others.iter().chain(&beyond).map(|seen| seen.time).max();
        let time = gone.or_else(|| presumed.seen.iter().map(|seen| seen.time).max());
        let to = match time.and_then(|time| Timestamp::from_nanosecond(i128::from(time)).ok()) {
            Some(time) => Sequence(stored.position_at(time).await.map_err(|why| self.failed(why))?.0),
            // Nothing was read since the partition's first position, and nothing is known of what came before that.
            None => stream.last,
        };
        Ok(Look { finding: Finding::SetBack { to, time, is_certain }, stream })
    }

    /// Of the messages that were seen, those in whose place the stream now has another, or never had one. Where it has none any
    /// more, the message before tells: one that was stored later than what was seen, at an earlier place, is of another history.
    ///
    /// Each is judged by itself. The earliest and the latest would not do: some may have been seen before the stream was set back and
    /// some since, by another worker. The earliest can be of what both histories have in common and the latest of the new one,
    /// while the one in between is of what is gone; and of all that are, the latest says from when on messages are to be read again.
    async fn others(&self, stored: &Stored, seen: Vec<Seen>) -> Result<Vec<Seen>, ApiError> {
        let found =
            stream::iter(seen).map(async |seen| Ok::<_, ApiError>((seen, stored.message(seen.sequence).await?)));
        let found: Vec<_> = found.buffer_unordered(CHECKS).try_collect().await?;
        let (mut others, mut missing) = (Vec::new(), Vec::new());
        for (seen, found) in found {
            match found {
                Some(found) if found.timestamp_ns == seen.time => {}
                Some(_) => others.push(seen),
                None => missing.push(seen),
            }
        }
        // Many may be missing, from a stream that keeps the last message of each subject, but not from as many holes.
        let followed = stream::iter(missing).map(async |seen| {
            let next = stored.next(seen.sequence).await?;
            Ok::<_, ApiError>((next.map(|next| next.sequence), seen))
        });
        let mut holes: BTreeMap<Option<Sequence>, Vec<Seen>> = BTreeMap::new();
        for (hole, seen) in followed.buffer_unordered(CHECKS).try_collect::<Vec<_>>().await? {
            holes.entry(hole).or_default().push(seen);
        }
        let judged = stream::iter(holes.into_values()).map(async |seen| {
            let place = seen.iter().map(|seen| seen.sequence).min().unwrap_or_default();
            let before = stored.last_up_to(place).await?.map_or(0, |message| message.timestamp_ns);
            Ok::<_, ApiError>(seen.into_iter().filter(|seen| before > seen.time).collect::<Vec<_>>())
        });
        let judged: Vec<_> = judged.buffer_unordered(CHECKS).try_collect().await?;
        others.extend(judged.into_iter().flatten());
        Ok(others)
    }

    fn failed(&self, why: ApiError) -> StreamError {
        StreamError::Failed { name: self.stream.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::testing::{Release, TestServer, ask, in_time};
    use crate::nats::{OutgoingMessage, Publisher};
    use serde_json::json;

    /// A stream with forty messages, of four subjects in turn, and what was seen of it.
    struct Read {
        origin: Origin,
        created: String,
        seen: Vec<Seen>,
        _server: TestServer,
    }

    impl Read {
        async fn of(release: Release) -> Self {
            let server = TestServer::start(release).await;
            let nats = server.connect().await;
            make(&nats).await;
            let origin = Origin { nats, stream: "work".into(), create: None };
            let (stream, stored) = (origin.look().await.unwrap(), Stored::new(&origin.nats, "work"));
            let mut seen = Vec::new();
            for n in 1..=40 {
                let message = stored.message(Sequence(n)).await.unwrap().unwrap();
                seen.push(Seen { sequence: message.sequence, time: message.timestamp_ns });
            }
            Self { origin, created: stream.created, seen, _server: server }
        }

        fn seen(&self, n: usize) -> Seen {
            self.seen[n - 1]
        }

        /// What a look shows to who has seen these messages.
        async fn find(&self, seen: Vec<Seen>) -> Finding {
            let presumed = Presumed { created: self.created.clone(), last: Sequence(0), seen };
            self.origin.compare(&presumed).await.unwrap().finding
        }
    }

    async fn make(nats: &Nats) {
        let config = json!({ "name": "work", "subjects": ["work.>"], "storage": "file", "allow_rollup_hdrs": true });
        ask(nats, "STREAM.CREATE.work", config).await;
        publish(nats, 0..40, &[]).await;
    }

    async fn publish(nats: &Nats, messages: std::ops::Range<usize>, headers: &[(String, String)]) {
        let publisher = Publisher::new(nats, 1);
        for n in messages {
            let (subject, headers) = (format!("work.{}", n % 4), headers.to_vec());
            let message = OutgoingMessage { subject, id: String::new(), headers, payload: "x".into() };
            publisher.send(message).await.published().await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_has_removed_messages_is_still_the_one_that_was_read() {
        for release in Release::ALL {
            let read = Read::of(release).await;
            let nats = &read.origin.nats;
            // In the middle, one by one and a whole stretch; of one subject; all but the last one of another; by age.
            for n in [20, 22, 23, 24, 25, 31] {
                ask(nats, "STREAM.MSG.DELETE.work", json!({ "seq": n, "no_erase": true })).await;
            }
            assert_eq!(read.find(read.seen.clone()).await, Finding::AsPresumed, "deleted, on {release:?}");
            ask(nats, "STREAM.PURGE.work", json!({ "filter": "work.1" })).await;
            assert_eq!(read.find(read.seen.clone()).await, Finding::AsPresumed, "purged, on {release:?}");
            publish(nats, 2..3, &[("Nats-Rollup".into(), "sub".into())]).await;
            assert_eq!(read.find(read.seen.clone()).await, Finding::AsPresumed, "rolled up, on {release:?}");
            ask(nats, "STREAM.PURGE.work", json!({ "seq": 16 })).await;
            assert_eq!(read.find(read.seen.clone()).await, Finding::AsPresumed, "purged up to one, on {release:?}");
            let aging = json!({
                "name": "work", "subjects": ["work.>"], "storage": "file", "allow_rollup_hdrs": true,
                "max_age": 100_000_000, "duplicate_window": 100_000_000,
            });
            ask(nats, "STREAM.UPDATE.work", aging).await;
            in_time(async { while read.origin.look().await.unwrap().messages > 0 {} }).await;
            assert_eq!(read.find(read.seen.clone()).await, Finding::AsPresumed, "expired, on {release:?}");
        }
    }

    #[tokio::test]
    async fn one_message_of_a_former_history_is_found_among_others_that_are_gone_wherever_it_is() {
        for release in Release::ALL {
            let read = Read::of(release).await;
            // Every other message is gone, and further away a whole stretch.
            let gone: Vec<usize> = (3..=33).step_by(2).chain([34, 35, 36]).collect();
            for n in &gone {
                ask(&read.origin.nats, "STREAM.MSG.DELETE.work", json!({ "seq": n, "no_erase": true })).await;
            }
            let seen: Vec<Seen> = gone.iter().map(|n| read.seen(*n)).collect();
            assert_eq!(read.find(seen.clone()).await, Finding::AsPresumed);
            for at in 0..gone.len() {
                // Where it lay there is nothing any more, and what lies before it was stored later.
                let before = (1..gone[at]).rev().find(|n| !gone.contains(n)).unwrap();
                let former = Seen { time: read.seen(before).time - 1, ..seen[at] };
                let mut seen = seen.clone();
                seen[at] = former;
                let to = Sequence(before as u64 - 1);
                let set_back = Finding::SetBack { to, time: Some(former.time), is_certain: true };
                assert_eq!(read.find(seen.clone()).await, set_back, "message {} on {release:?}", gone[at]);
                // Of several the latest says from when on nothing is as it was.
                seen[0] = Seen { time: read.seen(2).time - 1, ..seen[0] };
                if at > 0 {
                    assert_eq!(read.find(seen).await, set_back, "messages {} and {}", gone[0], gone[at]);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_stream_with_the_same_numbers_is_another_one_if_it_was_made_anew_or_its_messages_were_stored_later() {
        for release in Release::ALL {
            let read = Read::of(release).await;
            let (nats, far) = (&read.origin.nats, read.seen(30));
            // As after a restore: the same stream, in whose places others have come since.
            let earlier = |n: usize, ns: u64| Seen { time: read.seen(n).time - ns, ..read.seen(n) };
            let finding = read.find(vec![read.seen(2), earlier(20, 1), read.seen(40)]).await;
            assert!(matches!(finding, Finding::SetBack { is_certain: true, .. }), "{finding:?} on {release:?}");
            ask(nats, "STREAM.DELETE.work", json!({})).await;
            make(nats).await;
            assert_eq!(read.find(vec![]).await, Finding::MadeAnew);
            assert_eq!(read.find(vec![far]).await, Finding::MadeAnew);
        }
    }
}
