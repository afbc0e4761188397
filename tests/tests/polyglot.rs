//! Plugins in Python, JavaScript and C. They are built by `make plugins-polyglot`; where they are not, these tests say so and end.

use crate::swapping::from;
use parti_tests::{
    Expected, Fleet, Handling, NatsServer, Producer, create_streams, dead_letters, eventually, plugin_folder,
    polyglot_folder, replace, within,
};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Python's interpreter takes the compiler 15 s on an idle machine.
const COMPILED: Duration = Duration::from_secs(240);

/// Where the components are, or nothing after it has been said that this test does not run.
fn components(test: &str) -> Option<PathBuf> {
    let folder = polyglot_folder();
    if folder.is_none() {
        // Past the test's captured output, which nobody sees when it ends well.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {test} needs plugins in Python, JavaScript and C; `make test-polyglot` builds them and runs it"
        );
    }
    folder
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make plugins-polyglot`", path.display()))
}

#[tokio::test]
async fn a_state_goes_from_language_to_language_while_messages_go_on_and_no_bit_of_it_changes() {
    const PARTITIONS: usize = 6;
    let Some(built) = components("a_state_goes_from_language_to_language") else { return };
    let (handling, folder) = (Handling::ControlChart, tempfile::tempdir().expect("a folder"));
    let server = NatsServer::start().await;
    let context = server.jetstream().await;
    create_streams(&context, handling, 1).await;
    let rust = read(&plugin_folder("control-chart"), "control-chart");
    replace(folder.path(), "control-chart.wasm", &rust);
    let mut fleet = Fleet::new(&server, PARTITIONS, handling.plugin()).with(from(folder.path())).with(dead_letters());
    fleet.start_settled(1).await;

    let producer = Producer::start_for(&context, handling, PARTITIONS, 300, u64::MAX);
    let languages = ["python", "javascript", "c"].map(|language| read(&built, &format!("control-chart-{language}")));
    for (kept, component) in (1..).zip(languages.iter().chain([&rust])) {
        // Each goes on with what the one before has seen, and has readings of its own.
        let before = fleet.sum("parti_messages_total").await;
        eventually("the version in force has handled a thousand messages", async || {
            let handled = fleet.sum("parti_messages_total").await - before;
            if handled >= 1_000 { Ok(()) } else { Err(format!("{handled} are")) }
        })
        .await;
        replace(folder.path(), "control-chart.wasm", component);
        within(COMPILED, &format!("{kept} versions are kept"), async || {
            let worker = &mut fleet.workers[0];
            let found = worker.metric("parti_plugin_swaps_total{result=\"kept\"").await;
            if found >= kept { Ok(()) } else { Err(format!("{found} are")) }
        })
        .await;
    }
    producer.stop().await;

    Expected::of(&context, handling, PARTITIONS).await.assert_handled().await;
    assert_eq!(fleet.sum("parti_plugin_traps_total").await, 0);
}

/// The leader follows this strategy: workers get partitions by their capacity, and one that dies leaves its own to the others.
async fn decides(strategy: &str) {
    const PARTITIONS: usize = 12;
    let Some(built) = components(strategy) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for (from, name) in [(&built, strategy), (&plugin_folder("relay"), "relay")] {
        replace(folder.path(), &format!("{name}.wasm"), &read(from, name));
    }
    let (server, _) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, PARTITIONS, "relay").with(json!({
        "plugins": { "directory": folder.path() },
        "strategy": { "plugin": strategy },
        "startupTimeout": "300s",
    }));
    for capacity in [1, 2, 1] {
        fleet.start_with(json!({ "capacity": capacity }));
        // One after the other: each compiles for a while.
        let worker = fleet.workers.last_mut().expect("a worker");
        within(COMPILED, "a worker is up", async || worker.status().await.map(drop)).await;
    }
    let counts = |statuses: Vec<parti_tests::Status>| statuses.iter().map(|s| s.partition_count).collect::<Vec<_>>();
    eventually("every worker has what its capacity is worth", async || match counts(fleet.settled().await) {
        counts if counts == [3, 6, 3] => Ok(()),
        counts => Err(format!("{counts:?}")),
    })
    .await;

    let (leader, _) = fleet.leader_and_follower().await;
    let victim = fleet.running().into_iter().find(|worker| *worker != leader).expect("a follower");
    fleet.workers[victim].kill();
    let after = counts(fleet.settled().await);
    assert_eq!(after.iter().sum::<usize>(), PARTITIONS, "{after:?}");
    assert_eq!(fleet.sum("parti_strategy_failures_total").await, 0);
}

#[tokio::test]
async fn a_strategy_in_python_decides_for_a_fleet() {
    decides("even-python").await;
}

#[tokio::test]
async fn a_strategy_in_javascript_decides_for_a_fleet() {
    decides("even-javascript").await;
}
