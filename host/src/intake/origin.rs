//! The stream that is read: how a reader of it is opened, and whether it still is what the partitions' positions mean.

use crate::nats::{
    ApiError, Filters, Nats, NewStream, OpenReaderError, Reader, ReaderOptions, Start, Stored, StreamError, StreamInfo,
    StreamMessage,
};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use parti_coordination::Sequence;
use parti_coordination::record::Seen;
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
    /// more, the messages around it tell; they are asked for the earliest and the latest.
    async fn others(&self, stored: &Stored, seen: Vec<Seen>) -> Result<Vec<Seen>, ApiError> {
        let found =
            stream::iter(seen).map(async |seen| Ok::<_, ApiError>((seen, stored.message(seen.sequence).await?)));
        let found: Vec<_> = found.buffer_unordered(CHECKS).try_collect().await?;
        let is_other = |(seen, found): &(Seen, Option<StreamMessage>)| {
            found.as_ref().is_some_and(|found| found.timestamp_ns != seen.time).then_some(*seen)
        };
        let mut others: Vec<Seen> = found.iter().filter_map(is_other).collect();
        let missing = || found.iter().filter(|(_, found)| found.is_none()).map(|(seen, _)| *seen);
        let ends = [missing().min_by_key(|seen| seen.sequence), missing().max_by_key(|seen| seen.sequence)];
        for seen in ends.into_iter().flatten() {
            let Ok(later) = Timestamp::from_nanosecond(i128::from(seen.time) + 1) else { continue };
            // A message that was stored later, at an earlier place.
            if stored.position_at(later).await?.0 < seen.sequence.0 {
                others.push(seen);
            }
        }
        Ok(others)
    }

    fn failed(&self, why: ApiError) -> StreamError {
        StreamError::Failed { name: self.stream.clone(), why }
    }
}
