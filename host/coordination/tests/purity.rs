//! The crate boundary keeps the core pure: nothing that runs, waits, draws randomness at run time or talks is among its dependencies.

use std::collections::BTreeSet;
use std::process::Command;

/// Runtimes, networks, clocks and randomness, by the crates through which they would come.
const REFUSED: [&str; 22] = [
    "async-io",
    "async-nats",
    "async-std",
    "axum",
    "chrono",
    "crossbeam-channel",
    "fastrand",
    "futures",
    "futures-executor",
    "hyper",
    "jiff",
    "mio",
    "parking_lot",
    "rand",
    "reqwest",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "ureq",
    "wasmtime",
];

#[test]
fn the_core_depends_on_no_runtime_and_no_network() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{lib}", "--package"])
        // Cargo runs tests in the folder of their package, wherever they were built.
        .args(["parti-coordination", "--manifest-path", "Cargo.toml"])
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8_lossy(&tree.stdout).replace('_', "-");
    let dependencies: BTreeSet<&str> = text.lines().map(str::trim).collect();
    assert!(dependencies.contains("serde-json"), "the list is of this crate: {dependencies:?}");
    let refused: Vec<_> = REFUSED.iter().map(|name| name.replace('_', "-")).collect();
    let found: Vec<_> = refused.iter().filter(|name| dependencies.contains(name.as_str())).collect();
    assert!(found.is_empty(), "the core must stay pure, and depends on {found:?}");
}
