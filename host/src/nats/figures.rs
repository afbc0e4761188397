//! What a worker knows of its partitions and their records do not say, asked over core NATS: queues, phases, problems.
//!
//! The answer comes in pages, because a worker may have more partitions than fit into one message.

use super::connection::Nats;
use super::probe::Peers;
use bytes::Bytes;
use futures::StreamExt as _;
use parti_coordination::Incarnation;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a page, unless the server takes less.
const PAGE: usize = 256 << 10;

/// Pages that one worker is asked for: more than the partitions that a group can have.
const MOST_PAGES: usize = 1000;

/// One partition as the worker that works on it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionFigures {
    /// Its id.
    pub id: String,
    /// Where it stands: `waiting`, `taking`, `opening`, `running`, `releasing`, `gone`.
    pub phase: String,
    /// Messages that wait in the worker.
    pub queue: u64,
    /// Deliveries of the next message that have begun.
    pub attempts: u32,
    /// Whether it handles nothing because the operator has paused it.
    pub paused: bool,
    /// Why it does not go on, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Page {
    partitions: Vec<PartitionFigures>,
    /// There are others behind the last one.
    more: bool,
}

impl Peers {
    /// Answers whoever asks this incarnation for its figures, until the handle is dropped. `figures` gives all of them, by id.
    pub fn tell_figures(
        &self,
        incarnation: &Incarnation,
        figures: impl Fn() -> Vec<PartitionFigures> + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        let (peers, subject) = (self.clone(), self.subject(incarnation, "figures"));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut questions = peers.subscribe_in_the_end(&subject).await;
            let client = &peers.nats.inner.client;
            while let Some(question) = questions.next().await {
                let Some(reply) = question.reply else { continue };
                let page = page(figures(), &question.payload, PAGE.min(peers.nats.max_payload() / 2));
                if let Err(error) = client.publish(reply, page).await {
                    tracing::debug!(%error, "a question for figures was not answered");
                }
            }
        }))
    }

    /// Asks this incarnation for its figures. `None` if it does not answer, or says what makes no sense.
    pub async fn figures(&self, incarnation: &Incarnation, wait: Duration) -> Option<Vec<PartitionFigures>> {
        let subject = self.subject(incarnation, "figures");
        let (mut all, mut after) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let answer = ask(&self.nats, &subject, &after, wait).await?;
            let last = answer.partitions.last().map(|last| last.id.clone());
            all.extend(answer.partitions);
            match last {
                Some(last) if answer.more && last > after => after = last,
                _ => break,
            }
        }
        Some(all)
    }
}

async fn ask(nats: &Nats, subject: &str, after: &str, wait: Duration) -> Option<Page> {
    let answer = nats.request(subject, Bytes::copy_from_slice(after.as_bytes()), wait).await;
    let answer = answer.map_err(|error| tracing::debug!(subject, %error, "no figures")).ok()?;
    serde_json::from_slice(&answer).map_err(|error| tracing::debug!(subject, %error, "no figures")).ok()
}

/// What comes behind the id `after`, as much as fits; one partition at least.
fn page(figures: Vec<PartitionFigures>, after: &[u8], most: usize) -> Bytes {
    let mut page = Page { partitions: Vec::new(), more: false };
    let mut bytes = 0;
    for figures in figures.into_iter().filter(|figures| figures.id.as_bytes() > after) {
        // Figures of texts and numbers always encode.
        bytes += serde_json::to_vec(&figures).map_or(0, |encoded| encoded.len() + 1);
        if bytes > most && !page.partitions.is_empty() {
            page.more = true;
            break;
        }
        page.partitions.push(figures);
    }
    serde_json::to_vec(&page).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Release, TestServer, in_time};
    use super::*;
    use uuid::Uuid;

    fn figures(n: usize) -> PartitionFigures {
        let problem = n.is_multiple_of(7).then(|| "it blocks".repeat(20));
        PartitionFigures {
            id: format!("p-{n:05}"),
            phase: "running".into(),
            queue: n as u64,
            attempts: 1,
            paused: false,
            problem,
        }
    }

    #[tokio::test]
    async fn the_figures_of_more_partitions_than_fit_into_a_message_come_whole() {
        let server = TestServer::start(Release::Oldest).await;
        let (told, asking) = (server.connect().await, server.connect().await);
        let incarnation = Incarnation { claim: 3, uuid: Uuid::from_u128(3) };
        let all: Vec<_> = (0..20_000).map(figures).collect();
        let source = all.clone();
        let peers = Peers::new(&asking, "default");
        assert_eq!(peers.figures(&incarnation, Duration::from_secs(5)).await, None, "nobody answers yet");
        let _telling = Peers::new(&told, "default").tell_figures(&incarnation, move || source.clone());
        let found = in_time(async {
            loop {
                if let Some(found) = peers.figures(&incarnation, Duration::from_secs(5)).await {
                    break found;
                }
            }
        });
        assert!(found.await == all);
    }

    #[test]
    fn whatever_is_asked_a_page_is_answered_that_ends() {
        let all: Vec<_> = (0..10).map(figures).collect();
        let of = |after: &[u8], most| serde_json::from_slice::<Page>(&page(all.clone(), after, most)).unwrap();
        assert_eq!((of(b"", 1).partitions.len(), of(b"", 1).more), (1, true));
        assert_eq!((of(b"\xff\x00", 1 << 20).partitions.len(), of(b"\xff", 1).more), (0, false));
        assert_eq!(of(b"p-00003", 1 << 20).partitions, all[4..]);
    }
}
