//! States that are too large for a record: they are put beside it, follow their partition to its next owner, and go when no
//! record names them any more.

use async_nats::jetstream::Context;
use parti_coordination::record::OwnershipRecord;
use parti_tests::{Fleet, NatsServer, Records, copy_plugin, eventually, eventually_is, parti, partition, subject};
use serde_json::json;
use std::collections::BTreeMap;

/// What the plugin `hoard` keeps.
type Hoard = Vec<(u64, String)>;

/// Publishes to partition `n` this many payloads of so many bytes; the last one's sequence.
async fn publish(context: &Context, n: usize, count: usize, bytes: usize) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        let sent = context.publish(subject(n), "x".repeat(bytes).into()).await.expect("a publish");
        last = sent.await.expect("a confirmation").sequence;
    }
    last
}

/// The state that a record holds or names, and the name.
async fn state(records: &Records, record: &OwnershipRecord) -> (Hoard, Option<String>) {
    let stored = record.snapshot.as_ref().expect("a snapshot");
    let name = stored.object().map(str::to_owned);
    let bytes = match &name {
        Some(name) => records.object(name).await,
        None => stored.load().expect("base64").data,
    };
    (serde_json::from_slice(&bytes).expect("a hoard"), name)
}

#[tokio::test]
async fn a_large_state_follows_its_partition_through_a_crash_and_only_the_one_in_force_is_kept() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "hoard");
    fleet.start_settled(2).await;
    let records = Records::open(&context).await;

    // Small: within the record.
    let last = publish(&context, 0, 3, 100).await;
    let (kept, name) = state(&records, &records.committed(&partition(0), last).await).await;
    assert_eq!((kept.len(), name), (3, None));
    assert_eq!(records.objects().await, Vec::<String>::new());

    // Larger than any message of the server may be, and growing.
    let mut expected = 3;
    for _ in 0..4 {
        expected += 20;
        let last = publish(&context, 0, 20, 40_000).await;
        let (kept, name) = state(&records, &records.committed(&partition(0), last).await).await;
        assert_eq!(kept.len(), expected);
        assert!(kept.is_sorted() && name.is_some());
    }
    publish(&context, 1, 2, 40_000).await;

    // The owner dies; the other goes on from the object, and in time only its own are left.
    let owner = records.ownership(&partition(0)).await.expect("a record").owner.worker.to_string();
    let statuses = fleet.settled().await;
    let at = statuses.iter().position(|status| status.worker_id.as_ref() == Some(&owner)).expect("the owner");
    fleet.workers[at].kill();
    let last = publish(&context, 0, 5, 1000).await;
    let record = records.committed(&partition(0), last).await;
    let (kept, _) = state(&records, &record).await;
    assert_eq!((kept.len(), record.epoch.0), (expected + 5, 2));
    assert_ne!(record.owner.worker.to_string(), owner);
    let last = publish(&context, 1, 1, 1000).await;
    records.committed(&partition(1), last).await;
    eventually("every object is named by a record", async || {
        let mut named = Vec::new();
        for n in 0..2 {
            let record = records.ownership(&partition(n)).await.ok_or("no record")?;
            named.extend(record.snapshot.as_ref().and_then(|stored| stored.object()).map(str::to_owned));
        }
        named.sort();
        let found = records.objects().await;
        if found == named { Ok(()) } else { Err(format!("{found:?}, named are {named:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_state_whose_object_is_gone_keeps_its_partition_waiting_visibly_and_no_other() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "hoard");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let last = publish(&context, 0, 2, 40_000).await;
    records.committed(&partition(0), last).await;
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;

    context.delete_object_store("parti-snapshots").await.expect("deleted");
    fleet.start();
    fleet.workers[1].logs(&["state cannot be had", "p-00", "is not in bucket", "--discard-state"]).await;
    let last = publish(&context, 1, 2, 40_000).await;
    let other = records.committed(&partition(1), last).await;
    let records = Records::open(&context).await;
    assert_eq!(state(&records, &other).await.0.len(), 2);
    let waits = records.ownership(&partition(0)).await.expect("a record");
    assert!(
        waits.snapshot.is_some_and(|stored| stored.object().is_some()),
        "its record still says where its state was"
    );
}

#[tokio::test]
async fn a_state_above_the_limit_stops_its_partition_visibly_and_nothing_is_lost() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 2, "hoard").with(json!({ "handler": { "maxSnapshotBytes": "100KiB" } }));
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    let last = publish(&context, 0, 2, 40_000).await;
    let committed = records.committed(&partition(0), last).await;
    publish(&context, 0, 1, 40_000).await;
    fleet.workers[0].logs(&["The handler gave no snapshot", "p-00", "at most 102400 are possible"]).await;
    let last = publish(&context, 0, 10, 10).await;
    let other = publish(&context, 1, 1, 10).await;
    records.committed(&partition(1), other).await;
    assert_eq!(records.ownership(&partition(0)).await.expect("a record").position, committed.position);
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;

    // With a higher limit everything is there.
    fleet.start_with(json!({ "handler": { "maxSnapshotBytes": "1MiB" } }));
    let (kept, _) = state(&records, &records.committed(&partition(0), last).await).await;
    assert_eq!(kept.len(), 13);
    eventually_is("running workers", 1, async || fleet.running().len()).await;
}

/// A folder with this component under a digest of its own: a custom section is added that means nothing.
fn another_version(name: &str) -> tempfile::TempDir {
    let mut bytes = copy_plugin(name);
    bytes.extend_from_slice(&[0, 3, 1, b'v', b'2']);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(name).with_extension("wasm"), bytes).expect("written");
    folder
}

#[tokio::test]
async fn a_state_that_a_new_version_cannot_open_goes_to_a_worker_with_the_version_that_wrote_it() {
    let (server, context) = NatsServer::with_streams(&["work"]).await;
    let mut fleet = Fleet::new(&server, 4, "hoard");
    fleet.start_settled(1).await;
    let records = Records::open(&context).await;
    for n in 0..4 {
        let last = publish(&context, n, 1, 10).await;
        records.committed(&partition(n), last).await;
    }
    // A second worker, with a version that does not know the format: it gets its share, and gives it back.
    let folder = another_version("hoard");
    let new = json!({ "handler": { "config": { "format": "hoard/2" } }, "plugins": { "directory": folder.path() } });
    fleet.start_with(new.clone());
    fleet.workers[1].logs(&["cannot open the state that another version"]).await;
    eventually_is("partitions of the old version", 4, async || fleet.workers[0].metric("parti_owned_partitions").await)
        .await;
    for n in 0..4 {
        let last = publish(&context, n, 1, 10).await;
        let record = records.committed(&partition(n), last).await;
        assert_eq!(state(&records, &record).await.0.len(), 2);
    }
    // An operator moves one of them: in its new state it is free to be tried again, and the leader is told at once.
    let new_id = fleet.workers[1].status().await.expect("a status").worker_id.expect("an ID");
    let words = async || records.heartbeat(&new_id).await.refusals;
    let told = words().await;
    let refused = [told.cannot_open, told.could_not_open].into_iter().flat_map(BTreeMap::into_values).flatten().next();
    let refused = refused.expect("its share");
    let config = fleet.config_file();
    let seek = ["seek", &refused, "--to", "first", "--discard-state", "--yes", "--config"];
    parti(&[&seek[..], &[config.to_str().expect("a path in UTF-8")]].concat()).await.assert(0, &["is at position"]);
    eventually_is("refused no more", true, async || {
        words().await.could_not_open.values().any(|ids| ids.contains(&refused))
    })
    .await;
    // The old version goes: nobody can open them, and that is said. Nothing is lost.
    fleet.workers[0].terminate();
    fleet.workers[0].exit().await;
    fleet.workers[1].logs(&["No live worker has a handler that opens the state", "--discard-state"]).await;
    eventually_is("unopenable", 4, async || fleet.workers[1].metric("parti_unopenable_partitions").await).await;
    let mut last = 0;
    for n in 0..4 {
        last = publish(&context, n, 1, 10).await;
    }
    // It comes back.
    fleet.start();
    let record = records.committed(&partition(3), last).await;
    assert_eq!(state(&records, &record).await.0.len(), 3);
    eventually_is("unopenable", 0, async || fleet.workers[1].metric("parti_unopenable_partitions").await).await;
}
