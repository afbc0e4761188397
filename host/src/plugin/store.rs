//! What a machine remembers of the versions of its plugins, over restarts of the workers: the components of the version in force and of
//! the one before, the versions that have failed their trial, and how the last swaps have ended.
//!
//! It is a directory that any number of processes may use at once, without locks: each file is written beside its place and renamed,
//! whatever is read may be garbage and is then as good as not there, and facts that processes find at the same time (marks, attempts)
//! are files of their own. Nothing in here may fail a worker: what cannot be kept costs only what it was kept for, and is said.

use super::catalog::{Component, is_name};
use super::digest::Digest;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Versions whose components are kept: the one in force and the one before.
const KEPT: usize = 2;

/// Attempts, and marks, that are remembered of a plugin.
const REMEMBERED: usize = 50;

/// A component that nobody names is removed once it is this old: another process may be about to name it.
const UNNAMED: Duration = Duration::from_secs(60);

/// Bytes of the largest file that is read, besides components.
const LARGEST: u64 = 1 << 20;

/// A version that has failed its trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The version's identity.
    pub version: String,
    /// Why it was taken back.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

/// A version that was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its identity.
    pub version: String,
    /// What its component is found by.
    pub digest: Digest,
    /// The sidecar that it had.
    #[serde(default)]
    pub sidecar: Option<String>,
}

/// How an attempt to take up a version has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptResult {
    /// The version is in force.
    Kept,
    /// The version failed its trial, and the one before goes on.
    TakenBack,
    /// Nothing was changed.
    Refused,
    /// Nothing was changed yet: the worker has no partition to try the version on.
    Waiting,
}

impl AttemptResult {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::TakenBack => "taken-back",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
        }
    }
}

/// An attempt to take up a version of a plugin on one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// When it had ended.
    pub at: Timestamp,
    /// What had asked for it: `file`, or whoever has pushed the version.
    pub by: String,
    /// The version that ran.
    pub from: String,
    /// The version that was to run; empty if it is not even known.
    pub to: String,
    /// How it ended.
    pub result: AttemptResult,
    /// Why it ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Partitions that had changed to it.
    pub partitions: usize,
    /// Messages that it has handled on trial.
    pub handled: u64,
    /// Calls that failed and messages that it would have given up.
    pub failed: u64,
    /// The pause of half of the partitions was no longer, in microseconds.
    pub pause_p50_us: u64,
    /// The pause of 99 of 100 partitions was no longer, in microseconds.
    pub pause_p99_us: u64,
    /// It was taken over from a worker that has tried it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
}

impl Attempt {
    /// Whether the version was tried here and kept: on a partition, be it without a message, or as the reason says. A worker whose
    /// partitions cannot be opened by the version before takes a handler up without having tried it.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        let is_kept = self.result == AttemptResult::Kept && self.from != self.to && !self.adopted;
        is_kept && (self.partitions > 0 || self.reason.is_some())
    }

    /// Whether it shows others that the version does: it has handled messages, or the reason says how it has shown so.
    #[must_use]
    pub fn proves(&self) -> bool {
        self.is_tried() && (self.handled > 0 || self.partitions == 0)
    }
}

/// What a machine remembers of versions. Shared by the tasks of a worker.
pub struct VersionStore {
    /// Nothing where it cannot be written.
    directory: Option<PathBuf>,
    /// Marks of this process, by plugin and version: they hold without a directory too.
    marks: Mutex<BTreeMap<(String, String), Mark>>,
}

impl VersionStore {
    /// Uses this directory, and creates it if it is missing. Where it cannot be written, the store says so once, and remembers only what
    /// this process marks.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        let components = directory.join("components");
        let usable = fs::create_dir_all(&components).and_then(|()| tempfile::tempfile_in(&components).map(drop));
        let directory = match usable {
            Ok(()) => Some(directory.to_owned()),
            Err(error) => {
                tracing::warn!(
                    directory = %directory.display(), %error,
                    "Versions of plugins are not remembered over restarts: the directory cannot be written. Set plugins.cache"
                );
                None
            }
        };
        Self { directory, marks: Mutex::default() }
    }

    /// The mark of a version, if it has failed its trial here, or too many workers of this machine have died during its trials.
    #[must_use]
    pub fn mark_of(&self, plugin: &str, version: &str) -> Option<Mark> {
        let here = self.marks().get(&(plugin.to_owned(), version.to_owned())).cloned();
        let written = || {
            let mark: Mark = read_json(&self.mark_file(plugin, version)?)?;
            (mark.version == version).then_some(mark)
        };
        let deadly = || Some(self.mark(plugin, version, &self.open_trials(plugin, version).failure()?));
        here.or_else(written).or_else(deadly)
    }

    /// Marks a version: it has failed its trial.
    pub fn mark(&self, plugin: &str, version: &str, why: &str) -> Mark {
        let mark = Mark { version: version.to_owned(), why: why.to_owned(), at: Timestamp::now() };
        if let Some(file) = self.mark_file(plugin, version) {
            write_json(&file, &mark);
            trim(file.parent());
        }
        self.marks().insert((plugin.to_owned(), version.to_owned()), mark.clone());
        mark
    }

    /// The version is no longer marked: it has stood a later trial.
    pub fn unmark(&self, plugin: &str, version: &str) {
        self.marks().remove(&(plugin.to_owned(), version.to_owned()));
        if let Some(file) = self.mark_file(plugin, version) {
            remove(&file);
        }
    }

    /// The versions that were in force, the latest first.
    #[must_use]
    pub fn kept(&self, plugin: &str) -> Vec<Kept> {
        self.place(plugin, "in-force.json").and_then(|file| read_json(&file)).unwrap_or_default()
    }

    /// A component that is kept, if it is there and what it should be.
    #[must_use]
    pub fn component(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.component_file(digest)?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return unusable(&path, &error),
        };
        if Digest::of(&bytes) == *digest { Some(bytes) } else { unusable(&path, &"its bytes have another digest") }
    }

    /// A version is in force: it is kept, with the one before, and what was kept before that is removed.
    pub fn keep(&self, plugin: &str, version: &str, component: &Component) {
        let digest = Digest::of(&component.bytes);
        let (Some(list), Some(file)) = (self.place(plugin, "in-force.json"), self.component_file(&digest)) else {
            return;
        };
        let mut kept = self.kept(plugin);
        let is_first = kept.first().is_some_and(|first| first.version == version);
        if is_first && self.component(&digest).is_some() {
            return;
        }
        write(&file, &component.bytes);
        kept.retain(|other| other.version != version);
        kept.insert(0, Kept { version: version.to_owned(), digest, sidecar: component.sidecar.clone() });
        kept.truncate(KEPT);
        write_json(&list, &kept);
        self.remove_unnamed();
    }

    /// Remembers how an attempt has ended.
    pub fn record(&self, plugin: &str, attempt: &Attempt) {
        // Names sort by time, and no two processes choose the same.
        let name = format!("attempts/{:020}-{}.json", attempt.at.as_nanosecond(), uuid::Uuid::new_v4().simple());
        if let Some(file) = self.place(plugin, &name) {
            write_json(&file, attempt);
            trim(file.parent());
        }
    }

    /// How the last attempts on this machine have ended, the latest first.
    #[must_use]
    pub fn attempts(&self, plugin: &str) -> Vec<Attempt> {
        let Some(folder) = self.place(plugin, "attempts") else { return Vec::new() };
        let mut attempts: Vec<Attempt> = files(&folder).iter().filter_map(|file| read_json(file)).collect();
        attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.at));
        attempts.truncate(REMEMBERED);
        attempts
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn place(&self, plugin: &str, file: &str) -> Option<PathBuf> {
        let directory = self.directory.as_ref().filter(|_| is_name(plugin))?;
        Some(directory.join("plugins").join(plugin).join(file))
    }

    fn mark_file(&self, plugin: &str, version: &str) -> Option<PathBuf> {
        self.place(plugin, &format!("marks/{version}.json"))
    }

    fn component_file(&self, digest: &Digest) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("components").join(format!("{digest}.wasm")))
    }

    /// Removes the components that no plugin names, and what processes that died have left half written.
    fn remove_unnamed(&self) {
        let Some(directory) = &self.directory else { return };
        let plugins = fs::read_dir(directory.join("plugins")).into_iter().flatten().flatten();
        let kept = plugins.filter_map(|plugin| read_json::<Vec<Kept>>(&plugin.path().join("in-force.json")));
        let named: BTreeSet<String> = kept.flatten().map(|kept| format!("{}.wasm", kept.digest)).collect();
        for file in entries(&directory.join("components")) {
            let is_named = file.file_name().and_then(|name| name.to_str()).is_some_and(|name| named.contains(name));
            if !is_named && age(&file).is_some_and(|age| age > UNNAMED) {
                remove(&file);
            }
        }
    }
}

/// Removes the oldest files of a folder beyond those that are remembered.
fn trim(folder: Option<&Path>) {
    let mut files = folder.map(files).unwrap_or_default();
    // The same order in every process.
    files.sort_by_cached_key(|file| std::cmp::Reverse((modified(file), file.clone())));
    files.iter().skip(REMEMBERED).for_each(|file| remove(file));
}

/// The files of a folder, but for those that are being written.
fn files(folder: &Path) -> Vec<PathBuf> {
    let is_whole = |file: &PathBuf| file.extension().is_some();
    entries(folder).into_iter().filter(is_whole).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

fn age(file: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(modified(file)?).ok()
}

fn remove(file: &Path) {
    // Another process may have done so.
    if let Err(error) = fs::remove_file(file)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(file = %file.display(), %error, "A file of plugins.cache cannot be removed");
    }
}

/// What a file has, if it is there and can be understood.
fn read_json<T: DeserializeOwned>(file: &Path) -> Option<T> {
    let mut bytes = Vec::new();
    match File::open(file).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes)) {
        Ok(_) => serde_json::from_slice(&bytes).map_or_else(|error| unusable(file, &error), Some),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => unusable(file, &error),
    }
}

fn unusable<T>(file: &Path, why: &dyn std::fmt::Display) -> Option<T> {
    tracing::warn!(file = %file.display(), %why, "A file of plugins.cache cannot be used, and is taken for missing");
    None
}

fn write_json(file: &Path, value: &impl Serialize) {
    // Values of texts and numbers always encode.
    write(file, &serde_json::to_vec(value).unwrap_or_default());
}

/// Writes a file as a whole: whoever reads it sees what was there or what is there, and nothing between.
fn write(file: &Path, bytes: &[u8]) {
    const READABLE: u32 = 0o644;
    let Some(folder) = file.parent() else { return };
    let written = fs::create_dir_all(folder).and_then(|()| {
        let builder = tempfile::Builder::new().permissions(Permissions::from_mode(READABLE)).tempfile_in(folder);
        let mut new = builder?;
        new.write_all(bytes)?;
        new.as_file().sync_data()?;
        new.persist(file).map(drop).map_err(|error| error.error)
    });
    if let Err(error) = written {
        tracing::warn!(file = %file.display(), %error, "A file of plugins.cache cannot be written; it is not remembered over a restart");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(bytes: &[u8]) -> Component {
        Component { bytes: bytes.to_vec(), sidecar: None }
    }

    fn attempt(n: i64) -> Attempt {
        Attempt {
            at: Timestamp::from_second(n).unwrap(),
            by: "file".into(),
            from: "a".into(),
            to: "b".into(),
            result: AttemptResult::Kept,
            reason: None,
            partitions: 1,
            handled: 2,
            failed: 0,
            pause_p50_us: 3,
            pause_p99_us: 4,
            adopted: false,
        }
    }

    #[test]
    fn a_restart_knows_the_last_two_versions_what_has_failed_and_how_swaps_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionStore::open(folder.path());
        for version in ["one", "two", "three"] {
            store.keep("relay", version, &component(version.as_bytes()));
        }
        store.keep("relay", "two", &Component { sidecar: Some("config: {}".into()), ..component(b"two") });
        store.mark("relay", "four+1", "it trapped");
        store.mark("relay", "five", "it trapped too");
        store.unmark("relay", "five");
        (0..60).for_each(|n| store.record("relay", &attempt(n)));

        let store = VersionStore::open(folder.path());
        let kept = store.kept("relay");
        assert_eq!(kept.iter().map(|kept| kept.version.as_str()).collect::<Vec<_>>(), ["two", "three"]);
        assert_eq!(kept[0].sidecar.as_deref(), Some("config: {}"));
        assert_eq!(store.component(&kept[0].digest).as_deref(), Some(b"two".as_slice()));
        assert_eq!(store.mark_of("relay", "four+1").unwrap().why, "it trapped");
        assert_eq!(store.mark_of("relay", "five"), None);
        assert_eq!(store.mark_of("other", "four+1"), None);
        let attempts = store.attempts("relay");
        assert_eq!(attempts.len(), REMEMBERED);
        assert!(attempts.windows(2).all(|pair| pair[0].at >= pair[1].at));
    }

    #[test]
    fn a_component_that_no_plugin_names_is_removed_once_nobody_can_be_about_to_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionStore::open(folder.path());
        store.keep("a", "shared", &component(b"shared"));
        for version in ["shared", "x", "y"] {
            store.keep("b", version, &component(version.as_bytes()));
        }
        store.keep("b", "z", &component(b"z"));
        let old = SystemTime::now() - 2 * UNNAMED;
        for file in files(&folder.path().join("components")) {
            File::options().append(true).open(file).unwrap().set_modified(old).unwrap();
        }
        store.keep("b", "w", &component(b"w"));
        let there = |bytes: &[u8]| store.component(&Digest::of(bytes)).is_some();
        let found = ["shared", "x", "y", "z", "w"].map(|version| there(version.as_bytes()));
        assert_eq!(found, [true, false, false, true, true]);
    }

    #[test]
    fn garbage_is_as_good_as_nothing_and_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionStore::open(folder.path());
        store.keep("relay", "one", &component(b"one"));
        store.mark("relay", "two", "why");
        store.record("relay", &attempt(1));
        let digest = Digest::of(b"one");
        let list = folder.path().join("plugins/relay/in-force.json");
        let path = format!(r#"[{{"version": "one", "digest": "../../{}"}}]"#, "0".repeat(58));
        for garbage in ["", "[", "{}", "\u{0}\u{ff}", path.as_str()] {
            fs::write(&list, garbage).unwrap();
            assert_eq!(VersionStore::open(folder.path()).kept("relay"), [], "{garbage:?}");
        }
        fs::write(store.component_file(&digest).unwrap(), b"on").unwrap();
        assert_eq!(store.component(&digest), None, "cut");
        for folder in ["marks", "attempts"] {
            files(&store.place("relay", folder).unwrap()).iter().for_each(|file| fs::write(file, "{").unwrap());
        }
        let again = VersionStore::open(folder.path());
        assert_eq!((again.mark_of("relay", "two"), again.attempts("relay")), (None, Vec::new()));
        again.keep("relay", "one", &component(b"one"));
        assert_eq!((again.kept("relay").len(), again.component(&digest).is_some()), (1, true));
        // No name leads out of the directory.
        again.mark("../relay", "x", "why");
        assert!(!folder.path().join("relay").exists());
    }

    #[test]
    fn processes_that_share_it_never_read_half_of_what_another_writes() {
        let folder = tempfile::tempdir().unwrap();
        let large: Vec<Vec<u8>> = (0..4).map(|n| vec![n; 300_000]).collect();
        std::thread::scope(|scope| {
            for bytes in &large {
                let store = VersionStore::open(folder.path());
                scope.spawn(move || {
                    for n in 0..20 {
                        store.keep("relay", &format!("{}", bytes[0]), &component(bytes));
                        store.record("relay", &attempt(n));
                        for Kept { version, digest, .. } in store.kept("relay") {
                            let expected = vec![version.parse().unwrap(); 300_000];
                            assert_eq!(digest, Digest::of(&expected));
                            assert!(store.component(&digest).is_some_and(|found| found == expected), "{version}");
                        }
                    }
                });
            }
        });
        let store = VersionStore::open(folder.path());
        assert_eq!((store.kept("relay").len(), store.attempts("relay").len()), (KEPT, REMEMBERED));
    }

    #[test]
    fn without_a_directory_that_can_be_written_marks_hold_as_long_as_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("file");
        fs::write(&occupied, "").unwrap();
        let store = VersionStore::open(&occupied);
        store.mark("relay", "one", "why");
        store.keep("relay", "two", &component(b"two"));
        assert!(store.mark_of("relay", "one").is_some());
        assert_eq!(store.kept("relay"), []);
    }
}
