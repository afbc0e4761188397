//! Of which subjects a stream holds messages, and how many of each: by pages, since a server tells at most 100,000 at once. And whether
//! a subject is one of those that a filter names.

use super::api::ApiError;
use super::connection::Nats;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;

/// Pages that are asked for at most: a million subjects. For each page the server looks through all of them.
const MOST_PAGES: usize = 10;

#[derive(Deserialize)]
struct Page {
    state: State,
    /// How many subjects there are.
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    subjects: Option<HashMap<String, u64>>,
}

/// Gives every subject that matches `filter` and of which the stream holds messages to `take`, with their number. Whether that was all
/// of them. A subject that comes or goes meanwhile may be missed, or come twice.
///
/// # Errors
/// No answer within the operation timeout.
pub async fn each_subject(
    nats: &Nats,
    stream: &str,
    filter: &str,
    mut take: impl FnMut(&str, u64),
) -> Result<bool, ApiError> {
    let mut offset = 0;
    for _ in 0..MOST_PAGES {
        let ask = json!({ "subjects_filter": filter, "offset": offset });
        let page: Page = nats.api(&format!("STREAM.INFO.{stream}"), &ask).await?;
        let subjects = page.state.subjects.unwrap_or_default();
        subjects.iter().for_each(|(subject, messages)| take(subject, *messages));
        offset += subjects.len();
        if subjects.is_empty() || offset >= page.total {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a subject matches a filter, which may have wildcards.
#[must_use]
pub fn subject_matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(token), Some(found)) if token == "*" || token == found => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Release, TestServer, ask};
    use super::*;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    /// More subjects than a page of the server has: 100,000.
    const MANY: usize = 100_500;

    #[tokio::test]
    async fn every_subject_is_told_with_its_messages_however_many_pages_that_takes() {
        for release in Release::ALL {
            let server = TestServer::start(release).await;
            let nats = server.connect().await;
            let config =
                json!({ "name": "work", "subjects": ["work.>", "more.*"], "storage": "memory", "num_replicas": 1 });
            ask(&nats, "STREAM.CREATE.work", config).await;
            let told = async |filter: &str| {
                let mut told = BTreeMap::new();
                assert!(each_subject(&nats, "work", filter, |s, n| _ = told.insert(s.to_owned(), n)).await.unwrap());
                told
            };
            assert_eq!(told(">").await, BTreeMap::new());
            let publish = async |subject: String| {
                nats.inner.client.publish(subject, Bytes::from_static(b"x")).await.unwrap();
            };
            for subject in ["more.a", "more.b", "more.b"] {
                publish(subject.to_owned()).await;
            }
            for n in 0..MANY {
                publish(format!("work.{n}")).await;
            }
            // What is in the stream is there once a later message is confirmed.
            nats.publish_and_confirm("more.a", Default::default()).await.unwrap();
            assert_eq!(told("more.>").await, BTreeMap::from([("more.a".to_owned(), 2), ("more.b".to_owned(), 2)]));
            let all = told(">").await;
            assert_eq!((all.len(), all["work.0"]), (MANY + 2, 1));
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_there_is_an_error() {
        let server = TestServer::start(Release::Newest).await;
        let nats = server.connect().await;
        assert!(each_subject(&nats, "work", ">", |_, _| {}).await.is_err());
    }
}
