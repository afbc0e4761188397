//! Lists the partitions that an HTTP endpoint knows.
//!
//! The endpoint answers JSON with a list: of texts, which are partitions with one key; of lists of texts, which are keys; or of
//! `{"keys": ["a", "b"], "weight": 200}`. They may be mixed.
//!
//! Configuration: `url`; `at`, where the list is in the answer, as a JSON pointer such as `/data/machines` (default: the answer is
//! the list); `headers`, a map of what to send besides, such as `authorization`.
//!
//! The operator grants it the endpoint: `plugins: {grants: {http-source: {http: ["https://registry.example.com"]}}}`.

use parti_guest::http::Request;
use parti_guest::serde_json::Value;
use parti_guest::{Error, Listed, Source, config, serde_json};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
    #[serde(default)]
    at: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// One partition, in each of its forms.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Key(String),
    Keys(Vec<String>),
    Whole {
        keys: Vec<String>,
        #[serde(default = "usual")]
        weight: u64,
    },
}

/// Of a partition that has no other.
fn usual() -> u64 {
    100
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Key(key) => Listed::new([key]),
            Entry::Keys(keys) => Listed::new(keys),
            Entry::Whole { keys, weight } => Listed::new(keys).weighing(weight),
        }
    }
}

struct HttpSource;

impl Source for HttpSource {
    fn list_partitions() -> Result<Vec<Listed>, Error> {
        let Config { url, at, headers } = config::parse()?;
        let request = Request::get(&url).header("accept", "application/json");
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let mut answer: Value = request.send()?.success()?.json()?;
        // The rest of the address may have a secret.
        let origin = request.origin();
        let list = answer.pointer_mut(&at).map(Value::take);
        let list = list.ok_or_else(|| format!("the answer of {origin} has nothing at {at:?}"))?;
        let entries: Vec<Entry> = serde_json::from_value(list)
            .map_err(|error| format!("the answer of {origin} is no list of partitions at {at:?}: {error}"))?;
        Ok(entries.into_iter().map(Listed::from).collect())
    }
}

parti_guest::export!(HttpSource as source);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::http::{HttpError, Response};
    use parti_guest::serde_json::json;
    use parti_guest::testing;

    fn list(config: Value, server: testing::Server) -> Result<Vec<Listed>, Error> {
        testing::source().config(config).server(server).list::<HttpSource>()
    }

    fn answer(body: &str) -> Result<Response, HttpError> {
        Ok(Response { status: 200, body: body.into(), ..Response::default() })
    }

    #[test]
    fn every_form_of_a_partition_is_understood() {
        let listed = list(json!({"url": "https://a/b"}), |request| {
            assert_eq!((request.method.as_str(), request.url.as_str()), ("GET", "https://a/b"));
            answer(r#"["a", ["b", "c"], {"keys": ["d"]}, {"keys": ["e"], "weight": 7}]"#)
        });
        let shown: Vec<_> = listed.unwrap().into_iter().map(|listed| (listed.keys.join("+"), listed.weight)).collect();
        let wanted = [("a", 100), ("b+c", 100), ("d", 100), ("e", 7)];
        assert_eq!(shown, wanted.map(|(keys, weight)| (keys.to_owned(), weight)));
    }

    #[test]
    fn the_list_may_lie_deeper_and_the_endpoint_may_want_headers() {
        let config = json!({"url": "https://a", "at": "/data/list", "headers": {"authorization": "Bearer x"}});
        let listed = list(config, |request| {
            assert!(request.headers.contains(&("authorization".into(), "Bearer x".into())));
            answer(r#"{"data": {"list": ["a"]}}"#)
        });
        assert_eq!(listed.unwrap().len(), 1);
    }

    #[test]
    fn an_endpoint_that_is_not_well_is_no_empty_list() {
        let url = json!({"url": "https://a"});
        let failing = |_: &Request| Ok(Response { status: 500, body: b"[]".to_vec(), ..Response::default() });
        assert_eq!(list(url.clone(), failing).unwrap_err().to_string(), "the server answered 500: []");
        assert!(list(url.clone(), |_| answer("{}")).is_err());
        assert!(list(url.clone(), |_| answer("")).is_err());
        assert!(list(url.clone(), |_| answer("[1]")).is_err());
        assert!(list(json!({"url": "https://a", "at": "/x"}), |_| answer("[]")).is_err());
        assert!(list(json!({"uri": "https://a"}), |_| answer("[]")).is_err());
    }
}
