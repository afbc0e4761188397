//! What a bucket promises, against real servers of both ends of the supported range.

use super::api::{ApiError, NoArguments};
use super::buckets::{BucketSpec, KeyLifetime, OpenBucketError};
use super::connection::Nats;
use super::kv::Store;
use super::options::ConnectOptions;
use super::reader::Filters;
use super::testing::{Release, TestServer, in_time, options};
use super::watch::{KvEvent, Watch};
use bytes::Bytes;
use parti_coordination::{Expect, StoredEntry, WriteOutcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn spec(lifetime: KeyLifetime) -> BucketSpec {
    BucketSpec { name: "test".to_owned(), lifetime, replicas: 1 }
}

async fn open(nats: &Nats, lifetime: KeyLifetime) -> Store {
    let (store, warnings) = Store::open(nats, spec(lifetime)).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    store
}

async fn put(store: &Store, key: &str, value: &str, expect: Expect) -> WriteOutcome {
    store.write(key, Bytes::copy_from_slice(value.as_bytes()), expect, None).await
}

fn written(outcome: WriteOutcome) -> u64 {
    match outcome {
        WriteOutcome::Written(revision) => revision,
        other => panic!("{other:?}"),
    }
}

fn value(text: &str, revision: u64) -> Option<StoredEntry> {
    Some(StoredEntry { value: Some(text.as_bytes().to_vec()), revision })
}

/// Until the key has no value any more; what is there then.
async fn expired(store: &Store, key: &str) -> Option<StoredEntry> {
    in_time(async {
        loop {
            match store.read(key).await.unwrap() {
                Some(StoredEntry { value: Some(_), .. }) => sleep(Duration::from_millis(20)).await,
                gone => return gone,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_write_lands_only_on_the_revision_it_expects() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let store = open(&server.connect().await, KeyLifetime::Forever).await;
        assert_eq!(store.read("a.b").await.unwrap(), None);

        let first = written(put(&store, "a.b", "1", Expect::Nothing).await);
        assert_eq!(put(&store, "a.b", "x", Expect::Nothing).await, WriteOutcome::Lost);
        let second = written(put(&store, "a.b", "2", Expect::Revision(first)).await);
        assert_eq!(put(&store, "a.b", "x", Expect::Revision(first)).await, WriteOutcome::Lost);
        assert_eq!(put(&store, "a.b", "x", Expect::Revision(second + 100)).await, WriteOutcome::Lost);
        // Another key's writes do not matter.
        written(put(&store, "a", "other", Expect::Anything).await);
        assert_eq!(store.read("a.b").await.unwrap(), value("2", second));

        assert_eq!(store.delete("a.b", Expect::Revision(first)).await, WriteOutcome::Lost);
        let marker = written(store.delete("a.b", Expect::Revision(second)).await);
        assert_eq!(store.read("a.b").await.unwrap(), Some(StoredEntry { value: None, revision: marker }));
        assert_eq!(put(&store, "a.b", "x", Expect::Nothing).await, WriteOutcome::Lost);
        let third = written(put(&store, "a.b", "", Expect::Revision(marker)).await);
        assert_eq!(store.read("a.b").await.unwrap(), value("", third));
        assert_eq!(store.last_revision().await.unwrap(), third);

        for no_key in ["", "a b", "a.*", ">", ".a", "a.", "a..b", "a\r\nPUB x 0\r\n"] {
            assert_eq!(put(&store, no_key, "x", Expect::Anything).await, WriteOutcome::Unknown, "{no_key:?}");
        }
        assert_eq!(store.last_revision().await.unwrap(), third);
    }
}

#[tokio::test]
async fn of_many_writers_of_one_revision_exactly_one_wins() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let store = open(&nats, KeyLifetime::Forever).await;
        let mut last = 0;
        for _ in 0..20 {
            let expect = if last == 0 { Expect::Nothing } else { Expect::Revision(last) };
            let writers = (0..16).map(|n| {
                let store = store.clone();
                async move { put(&store, "key", &n.to_string(), expect).await }
            });
            let outcomes = futures::future::join_all(writers).await;
            let winners: Vec<_> = outcomes.iter().filter(|outcome| **outcome != WriteOutcome::Lost).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            last = written(**winners.first().unwrap());
        }
    }
}

#[tokio::test]
async fn an_expired_key_leaves_a_marker_where_the_server_can_and_nothing_where_it_cannot() {
    let lifetime = Duration::from_secs(1);
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let store = open(&server.connect().await, KeyLifetime::Every(lifetime)).await;
        written(store.write("key", Bytes::from_static(b"1"), Expect::Nothing, Some(lifetime)).await);
        match (release, expired(&store, "key").await) {
            (Release::Newest, Some(StoredEntry { value: None, revision })) => {
                assert_eq!(put(&store, "key", "2", Expect::Nothing).await, WriteOutcome::Lost);
                assert_eq!(
                    store.list(None).await.unwrap(),
                    [("key".to_owned(), StoredEntry { value: None, revision })]
                );
                written(put(&store, "key", "2", Expect::Revision(revision)).await);
            }
            (Release::Oldest, None) => {
                written(put(&store, "key", "2", Expect::Nothing).await);
            }
            (_, found) => panic!("{release:?}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn renewals_keep_a_key_alive_and_it_stays_mortal() {
    let lifetime = Duration::from_secs(3);
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let store = open(&server.connect().await, KeyLifetime::Every(lifetime)).await;
        let write = |expect| store.write("key", Bytes::from_static(b"lease"), expect, Some(lifetime));
        let began = Instant::now();
        let mut revision = written(write(Expect::Nothing).await);
        while began.elapsed() < lifetime + Duration::from_secs(1) {
            sleep(Duration::from_millis(250)).await;
            revision = written(write(Expect::Revision(revision)).await);
        }
        assert_eq!(store.read("key").await.unwrap(), value("lease", revision));
        expired(&store, "key").await;
    }
}

#[tokio::test]
async fn lifetimes_of_single_keys_leave_their_neighbours_alone() {
    let server = TestServer::start(Release::Newest).await;
    let store = open(&server.connect().await, KeyLifetime::Each).await;
    let plan = written(put(&store, "plan", "p", Expect::Nothing).await);
    let lifetime = Some(Duration::from_millis(700));
    written(store.write("assignment", Bytes::from_static(b"a"), Expect::Nothing, lifetime).await);
    expired(&store, "assignment").await;
    assert_eq!(store.read("plan").await.unwrap(), value("p", plan));

    let server = TestServer::start(Release::Oldest).await;
    let nats = server.connect().await;
    let (store, warnings) = Store::open(&nats, spec(KeyLifetime::Each)).await.unwrap();
    assert!(warnings.iter().any(|warning| warning.to_string().contains("2.11")), "{warnings:?}");
    written(store.write("assignment", Bytes::from_static(b"a"), Expect::Nothing, lifetime).await);
}

#[tokio::test]
async fn a_list_is_complete_while_keys_are_overwritten_and_shows_markers() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let store = open(&server.connect().await, KeyLifetime::Forever).await;
        assert_eq!(store.list(None).await.unwrap(), []);
        let keys: Vec<_> = (0..300).map(|n| format!("group-{}.key-{n}", n % 3)).collect();
        for key in &keys {
            written(put(&store, key, "0", Expect::Nothing).await);
        }
        let deleted = written(store.delete("group-0.key-0", Expect::Anything).await);
        let rewriting = tokio::spawn({
            let (store, keys) = (store.clone(), keys.clone());
            async move {
                for key in keys.iter().skip(1).cycle() {
                    written(put(&store, key, "1", Expect::Anything).await);
                }
            }
        });
        for _ in 0..20 {
            let list: BTreeMap<_, _> = store.list(None).await.unwrap().into_iter().collect();
            assert_eq!(list.len(), keys.len());
            assert_eq!(list.get("group-0.key-0"), Some(&StoredEntry { value: None, revision: deleted }));
            assert_eq!(list.values().filter(|entry| entry.value.is_some()).count(), keys.len() - 1);
        }
        let filtered = store.list(Filters::new(vec!["group-1.*".to_owned()]).as_ref()).await.unwrap();
        assert_eq!(filtered.len(), 100);
        rewriting.abort();
    }
}

/// What a watch tells up to and including the next `Ready`.
async fn told(watch: &mut Watch) -> BTreeMap<String, StoredEntry> {
    let mut told = BTreeMap::new();
    while let KvEvent::Entry { key, entry } = in_time(watch.next()).await {
        told.insert(key, entry);
    }
    told
}

/// What a watch tells next.
async fn next(watch: &mut Watch) -> KvEvent {
    in_time(watch.next()).await
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_server_and_tells_everything_again() {
    for release in Release::ALL {
        let mut server = TestServer::start(release).await;
        let store = open(&server.connect().await, KeyLifetime::Forever).await;
        let mut watch = store.watch(None);
        let mut mine = store.watch(Filters::new(vec!["a".to_owned(), "c.>".to_owned()]));
        assert_eq!((told(&mut watch).await.len(), told(&mut mine).await.len()), (0, 0));

        let a = written(put(&store, "a", "1", Expect::Nothing).await);
        let event = KvEvent::Entry { key: "a".to_owned(), entry: value("1", a).unwrap() };
        assert_eq!((next(&mut watch).await, next(&mut mine).await), (event.clone(), event));
        let b = written(put(&store, "b", "1", Expect::Nothing).await);
        let gone = written(store.delete("b", Expect::Revision(b)).await);
        while next(&mut watch).await
            != (KvEvent::Entry { key: "b".to_owned(), entry: StoredEntry { value: None, revision: gone } })
        {}

        server.kill();
        server.run().await;
        let all = told(&mut watch).await;
        assert_eq!(all.get("a"), value("1", a).as_ref());
        assert_eq!(all.get("b"), Some(&StoredEntry { value: None, revision: gone }));
        assert_eq!(told(&mut mine).await.keys().collect::<Vec<_>>(), ["a"]);
        let c = written(put(&store, "c.d", "1", Expect::Nothing).await);
        let event = KvEvent::Entry { key: "c.d".to_owned(), entry: value("1", c).unwrap() };
        assert_eq!((next(&mut watch).await, next(&mut mine).await), (event.clone(), event));

        // Not even a server that comes back without its data ends it: the bucket is made anew.
        server.kill();
        server.forget();
        server.run().await;
        assert_eq!((told(&mut watch).await.len(), told(&mut mine).await.len()), (0, 0));
        written(put(&store, "a", "2", Expect::Nothing).await);
        assert!(matches!(next(&mut watch).await, KvEvent::Entry { key, .. } if key == "a"));
    }
}

#[tokio::test]
async fn a_watch_survives_the_deletion_of_its_consumer_and_of_its_bucket() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    let store = open(&nats, KeyLifetime::Forever).await;
    written(put(&store, "a", "1", Expect::Nothing).await);
    let mut watch = store.watch(None);
    assert_eq!(told(&mut watch).await.len(), 1);

    let consumers: Value = nats.api("CONSUMER.NAMES.KV_test", &NoArguments {}).await.unwrap();
    let consumer = consumers["consumers"][0].as_str().unwrap();
    let _: Value = nats.api(&format!("CONSUMER.DELETE.KV_test.{consumer}"), &NoArguments {}).await.unwrap();
    assert_eq!(told(&mut watch).await.len(), 1);

    let _: Value = nats.api("STREAM.DELETE.KV_test", &NoArguments {}).await.unwrap();
    assert_eq!(told(&mut watch).await.len(), 0, "the bucket is there again, and empty");
    written(put(&store, "b", "1", Expect::Nothing).await);
    assert!(matches!(next(&mut watch).await, KvEvent::Entry { key, .. } if key == "b"));
}

#[tokio::test]
async fn a_bucket_deleted_from_outside_is_there_again_after_a_failed_write_or_read() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let store = open(&nats, KeyLifetime::Every(Duration::from_secs(30))).await;
        let _: Value = nats.api("STREAM.DELETE.KV_test", &NoArguments {}).await.unwrap();
        assert_eq!(put(&store, "a", "1", Expect::Nothing).await, WriteOutcome::Unknown);
        in_time(async {
            while put(&store, "a", "1", Expect::Anything).await == WriteOutcome::Unknown {
                sleep(Duration::from_millis(20)).await;
            }
            let _: Value = nats.api("STREAM.DELETE.KV_test", &NoArguments {}).await.unwrap();
            while store.read("a").await != Ok(None) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn sixty_four_workers_create_the_same_buckets_at_once() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let url = server.url();
        let workers = (0..64).map(|n| {
            let options = ConnectOptions { operation_timeout: Duration::from_secs(30), ..options(&url) };
            tokio::spawn(async move {
                let nats = Nats::connect(options).await.unwrap();
                for (name, lifetime) in
                    [("ids", KeyLifetime::Every(Duration::from_secs(30))), ("ownership", KeyLifetime::Forever)]
                {
                    let spec = BucketSpec { name: name.to_owned(), lifetime, replicas: 1 };
                    let (store, warnings) = Store::open(&nats, spec).await.unwrap();
                    assert!(warnings.is_empty(), "{warnings:?}");
                    written(put(&store, &format!("worker-{n}"), "x", Expect::Nothing).await);
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_existing_bucket_with_other_settings_is_refused_or_warned_about_by_name() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    let bucket = async |settings: Value| {
        let _: Result<Value, _> = nats.api("STREAM.DELETE.KV_test", &NoArguments {}).await;
        let mut config = json!({ "name": "KV_test", "subjects": ["$KV.test.>"], "retention": "limits", "discard": "new",
            "storage": "file", "num_replicas": 1, "max_msgs_per_subject": 1, "allow_rollup_hdrs": true });
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let _: Value = nats.api("STREAM.CREATE.KV_test", &config).await.unwrap();
    };
    let refusal = async |lifetime| match Store::open(&nats, spec(lifetime)).await {
        Err(OpenBucketError::Mismatch(mismatches)) => {
            mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Err(other) => panic!("{other}"),
        Ok((_, warnings)) => format!("accepted with {warnings:?}"),
    };
    let lease = KeyLifetime::Every(Duration::from_secs(6));

    bucket(json!({})).await;
    let immortal = refusal(lease).await;
    assert!(
        immortal.contains("max_age is none, wanted is 6s") && immortal.contains("nats stream edit KV_test"),
        "{immortal}"
    );
    bucket(json!({ "max_age": 30_000_000_000_u64 })).await;
    assert!(refusal(lease).await.contains("max_age is 30s, wanted is 6s"));
    assert!(refusal(KeyLifetime::Forever).await.contains("max_age is 30s, wanted is none"));
    // Made by a server of version 2.10, which has been upgraded since: as good as ever.
    bucket(json!({ "max_age": 6_000_000_000_u64 })).await;
    let (store, _) = Store::open(&nats, spec(lease)).await.unwrap();
    written(store.write("a", Bytes::new(), Expect::Nothing, Some(Duration::from_secs(6))).await);

    bucket(json!({ "storage": "memory", "max_msgs_per_subject": 5 })).await;
    let three = BucketSpec { replicas: 3, ..spec(KeyLifetime::Forever) };
    let (_, warnings) = Store::open(&nats, three).await.unwrap();
    let settings: Vec<_> = warnings.iter().map(|warning| (warning.setting, warning.found.as_str())).collect();
    assert_eq!(settings, [("replicas", "1"), ("history", "5"), ("storage", "memory")]);

    let bad = BucketSpec { name: "a.b".to_owned(), ..spec(lease) };
    assert!(matches!(Store::open(&nats, bad).await, Err(OpenBucketError::BadName(_))));
}

#[tokio::test]
async fn every_operation_ends_in_time_when_the_server_stands_still() {
    let server = TestServer::start(Release::Newest).await;
    let options = ConnectOptions { operation_timeout: Duration::from_millis(300), ..options(&server.url()) };
    let nats = Nats::connect(options).await.unwrap();
    let store = open(&nats, KeyLifetime::Forever).await;
    server.freeze(true).await;
    assert_eq!(put(&store, "a", "1", Expect::Anything).await, WriteOutcome::Unknown);
    assert_eq!(store.read("a").await, Err(ApiError::TimedOut));
    assert_eq!(store.list(None).await, Err(ApiError::TimedOut));
    assert!(matches!(Store::open(&nats, spec(KeyLifetime::Forever)).await, Err(OpenBucketError::Failed { .. })));
    server.freeze(false).await;
}

#[tokio::test]
async fn a_bucket_takes_more_than_a_thousand_watches() {
    let server = TestServer::start(Release::Newest).await;
    let store = open(&server.connect().await, KeyLifetime::Forever).await;
    let readers = futures::future::join_all((0..1100).map(|_| store.reader(None))).await;
    assert_eq!(readers.iter().filter(|reader| reader.is_ok()).count(), 1100);
}
