//! Where the things under test are: from the environment that `make test` sets, else where the Makefile puts them.

use std::env;
use std::path::{self, Path, PathBuf};

/// Cargo runs tests in the folder of their package, wherever they were built.
fn workspace() -> PathBuf {
    path::absolute("..").unwrap_or_else(|_| "..".into())
}

fn find(variable: &str, default: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(|| workspace().join(default), PathBuf::from);
    assert!(path.exists(), "{} does not exist: run `make test`, which makes it and sets {variable}", path.display());
    path
}

pub(crate) fn nats_server() -> PathBuf {
    find("NATS_SERVER", ".tools/bin/nats-server")
}

pub(crate) fn parti_binary() -> PathBuf {
    find("PARTI_BIN", "target/release/parti")
}

/// The folder that has this component: the plugins of the project or the hostile ones of the tests.
#[must_use]
pub fn plugin_folder(name: &str) -> PathBuf {
    let folders = [find("PARTI_PLUGINS", "target/plugins"), find("PARTI_TEST_COMPONENTS", "target/test-components")];
    let has = |folder: &PathBuf| folder.join(name).with_extension("wasm").exists();
    let found = folders.iter().find(|folder| has(folder)).cloned();
    found.unwrap_or_else(|| panic!("neither of {folders:?} has {name}.wasm: run `make test`, which builds it"))
}

/// The folder of the plugins in other languages than Rust, if they are built: that takes tools of those languages, so `make test` does
/// not do it, and `make test-polyglot` does.
#[must_use]
pub fn polyglot_folder() -> Option<PathBuf> {
    if env::var_os("PARTI_POLYGLOT").is_some() {
        return Some(find("PARTI_POLYGLOT", ""));
    }
    Some(workspace().join("target/plugins-polyglot")).filter(|folder| folder.exists())
}

/// The bytes of a component, to be spoiled.
#[must_use]
pub fn copy_plugin(name: &str) -> Vec<u8> {
    let path = plugin_folder(name).join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A component that does the same and is another: it has a custom section of this many bytes.
#[must_use]
pub fn variant(component: &[u8], bytes: usize) -> Vec<u8> {
    let content: Vec<u8> = [b"\x03tag".as_slice(), &vec![7; bytes]].concat();
    let mut section = vec![0];
    let mut left = content.len();
    while left >= 0x80 {
        section.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    section.push(left as u8);
    [component, &section, &content].concat()
}

/// Replaces a file at once, as a deployment does.
pub fn replace(folder: &Path, file: &str, bytes: &[u8]) {
    let new = folder.join(format!(".{file}.new"));
    std::fs::write(&new, bytes).expect("a file");
    std::fs::rename(new, folder.join(file)).expect("renamed");
}
