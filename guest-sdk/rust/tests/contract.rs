//! What is released of the contract stays: the host of `wit/` serves every component that was built against a copy in `wit/released/`.
//!
//! New interfaces that components may import are welcome, and so are new functions in those. What components export, and every
//! type, stays as it is: a component that was built before knows of no other. A change that must break them is another version of the
//! package (`0.2.0`), served beside this one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "all of this is test")]

use std::fs;
use std::path::{Path, PathBuf};
use wit_parser::{PackageId, Resolve, WorldId};

/// The version that stands for the released contract while the two are compared: one package cannot be there twice.
const RELEASED: &str = "@0.0.0;";

/// Cargo runs tests in the folder of their package, wherever they were built.
fn wit() -> PathBuf {
    PathBuf::from("../../wit")
}

/// The contract of a folder as one text, and the version of its package.
fn read(folder: &Path) -> (String, String) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wit"));
    files.sort();
    // The file that names the package comes first.
    let mut texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    texts.sort_by_key(|text| version_of(text).is_none());
    let text = texts.join("\n");
    let version = version_of(&text).unwrap_or_else(|| panic!("{} names no package", folder.display())).to_owned();
    (text, version)
}

fn version_of(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("package parti:plugin@"))?;
    line.strip_suffix(';')
}

/// Versions of which the newer ones serve what was built against the older ones: `0.1` for `0.1.7`, `1` for `1.4.2`.
fn track(version: &str) -> &str {
    let dots = if version.starts_with("0.") { 2 } else { 1 };
    version.match_indices('.').nth(dots - 1).map_or(version, |(at, _)| &version[..at])
}

/// Why a host with the contract `new` does not serve what was built against `released`, if it does not.
fn unserved(new: &str, released: &str) -> Option<String> {
    let mut resolve = Resolve::default();
    let new = resolve.push_source("wit", new).unwrap();
    let version = format!("@{};", version_of(released).unwrap());
    let released = resolve.push_source("released", &released.replacen(&version, RELEASED, 1)).unwrap();
    let worlds: Vec<(String, WorldId)> =
        resolve.packages[released].worlds.iter().map(|(name, world)| (name.clone(), *world)).collect();
    worlds.into_iter().find_map(|(name, before)| {
        let Some(&after) = resolve.packages[new].worlds.get(&name) else {
            return Some(format!("world {name} is gone"));
        };
        let fails = wit_component::semver_check(resolve.clone(), before, after).err();
        fails.map(|error| format!("world {name}: {error:#}")).or_else(|| uncalled(&resolve, (released, new)))
    })
}

/// A function of an interface that was there and is no longer. The host would not call it, or not offer it.
fn uncalled(resolve: &Resolve, (released, new): (PackageId, PackageId)) -> Option<String> {
    resolve.packages[released].interfaces.iter().find_map(|(name, before)| {
        let Some(after) = resolve.packages[new].interfaces.get(name) else {
            return Some(format!("interface {name} is gone"));
        };
        let (before, after) = (&resolve.interfaces[*before].functions, &resolve.interfaces[*after].functions);
        let gone = before.keys().find(|function| !after.contains_key(*function))?;
        Some(format!("{gone} of interface {name} is gone"))
    })
}

#[test]
fn the_contract_serves_what_was_built_against_its_released_versions() {
    let (new, version) = read(&wit());
    let mut releases = 0;
    for entry in fs::read_dir(wit().join("released")).unwrap() {
        let folder = entry.unwrap().path();
        let (released, of) = read(&folder);
        assert_eq!(folder.file_name().unwrap().to_str(), Some(&*of), "a folder is named after the version in it");
        if track(&of) != track(&version) {
            continue;
        }
        releases += 1;
        if let Some(why) = unserved(&new, &released) {
            panic!(
                "wit/ no longer serves components that were built against parti:plugin@{of}: {why}. Add a new interface or a new \
                 function to an imported one instead, or make it another version of the package, beside this one"
            );
        }
    }
    assert!(
        releases > 0,
        "parti:plugin@{version} is compared with nothing: wit/released/ has no version {}",
        track(&version)
    );
}

/// The guard itself: what it lets through and what it stops.
#[test]
fn additions_are_compatible_and_everything_else_is_not() {
    let (released, _) = read(&wit().join("released/0.1.0"));
    let changed = |changes: &[(&str, &str)]| {
        let change = |text: String, (from, to): &(&str, &str)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        };
        unserved(&changes.iter().fold(released.clone(), change), &released)
    };
    assert_eq!(changed(&[]), None);
    assert_eq!(changed(&[("0.1.0", "0.1.1")]), None);
    let secrets = "interface secrets { add: func(name: string); }\ninterface log {\n    ping: func();";
    let import = "world message-handler {\n    import secrets;";
    assert_eq!(changed(&[("interface log {", secrets), ("world message-handler {", import)]), None);
    assert_eq!(changed(&[("world message-handler {", "world another { import log; }\nworld message-handler {")]), None);

    for (from, to) in [
        // What components export: more than they have, less, or other.
        ("close: func(why: close-reason);", "close: func(why: close-reason);\n        idle: func();"),
        ("close: func(why: close-reason);", ""),
        ("handle: func(batch: list<message>) -> outcome;", "handle: func(batch: list<message>) -> list<snapshot>;"),
        ("attempt: u32,", "attempt: u64,"),
        ("attempt: u32,", "attempt: u32,\n        subject-of-reply: string,"),
        ("        lost,\n", ""),
        ("variant reason {", "variant reason {\n        whim,"),
        ("export hooks;", "export strategy;"),
        ("world lifecycle-hooks {", "world life {"),
        // What they import: less than they may need, or other.
        ("write: func(level: level, message: string);", ""),
        ("write: func(level: level, message: string);", "write: func(level: level, message: list<u8>);"),
        ("all: func() -> string;", "all: func() -> result<string>;"),
    ] {
        assert!(changed(&[(from, to)]).is_some(), "{from} becomes {to}");
    }
}
