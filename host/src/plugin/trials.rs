//! Which versions are on trial on this machine, and which trials a worker did not live to see the end of.
//!
//! A trial is a file in the [`VersionStore`]'s directory that its worker holds locked. The kernel lets go of the lock however the worker
//! ends, so that a file which nobody holds is a trial in which its worker died, and a worker that starts knows better than to begin with
//! that version as if it had been proved.

use super::store::VersionStore;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// So many workers that died during trials of a version are its failure.
const DEATHS: usize = 3;

/// A trial of a version by this process. Dropped, it has ended in whatever way.
#[derive(Debug)]
pub struct TrialFile(Option<(PathBuf, File)>);

impl Drop for TrialFile {
    fn drop(&mut self) {
        if let Some((path, _)) = self.0.take() {
            // Another process may have forgotten it.
            let _ = fs::remove_file(path);
        }
    }
}

/// What is known of trials of a version whose end nobody has written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenTrials {
    /// Trials that processes of this machine are at.
    pub running: usize,
    /// Trials during which their process has died.
    pub died: usize,
}

impl OpenTrials {
    /// Whether the version was not judged yet.
    #[must_use]
    pub fn any(self) -> bool {
        self.running + self.died > 0
    }

    /// Why it is to count as failed, if it is.
    #[must_use]
    pub fn failure(self) -> Option<String> {
        (self.died >= DEATHS).then(|| format!("{} workers of this machine have died while it was on trial", self.died))
    }
}

impl VersionStore {
    /// A version is on trial from now on, until what is returned is dropped or this process ends.
    #[must_use]
    pub fn begin_trial(&self, plugin: &str, version: &str) -> TrialFile {
        let Some(folder) = self.trials_of(plugin, version) else { return TrialFile(None) };
        forget_oldest(folder.parent());
        let begin = || {
            fs::create_dir_all(&folder)?;
            let file = tempfile::Builder::new().prefix(BEGINNING).tempfile_in(&folder)?;
            // Locked before it has its name: nobody finds it without its lock.
            file.as_file().lock()?;
            let path = folder.join(uuid::Uuid::new_v4().simple().to_string());
            let file = file.persist(&path).map_err(|error| error.error)?;
            std::io::Result::Ok((path, file))
        };
        let begun = begin().inspect_err(|error| {
            tracing::warn!(
                folder = %folder.display(), %error,
                "plugins.cache does not tell that a version is on trial: a worker that starts meanwhile may begin with it"
            );
        });
        TrialFile(begun.ok())
    }

    /// The trials of a version whose end nobody has written down.
    #[must_use]
    pub fn open_trials(&self, plugin: &str, version: &str) -> OpenTrials {
        let folder = self.trials_of(plugin, version);
        let files = folder.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
        let mut found = OpenTrials::default();
        for file in files.filter(|file| !file.file_name().to_string_lossy().starts_with(BEGINNING)) {
            // Shared, so that two who look do not take each other for the one who tries.
            match File::open(file.path()).map(|file| file.try_lock_shared()) {
                Ok(Ok(())) => found.died += 1,
                Ok(Err(TryLockError::WouldBlock)) => found.running += 1,
                // It is gone, or nothing can be told.
                Ok(Err(TryLockError::Error(_))) | Err(_) => {}
            }
        }
        found
    }

    /// A version was judged: who died during its trial says nothing any more.
    pub fn forget_trials(&self, plugin: &str, version: &str) {
        if let Some(folder) = self.trials_of(plugin, version) {
            // What others hold there stays theirs; there may be none.
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn trials_of(&self, plugin: &str, version: &str) -> Option<PathBuf> {
        self.place(plugin, Path::new("trials").join(version).to_str()?)
    }
}

/// Versions of a plugin of whose trials something is remembered. Those that were judged leave nothing.
const UNJUDGED: usize = 50;

/// Removes what is known of the trials of versions that nobody has judged for longest.
fn forget_oldest(trials: Option<&Path>) {
    let versions = trials.and_then(|trials| fs::read_dir(trials).ok()).into_iter().flatten().flatten();
    let mut versions: Vec<_> =
        versions.filter_map(|version| Some((version.metadata().ok()?.modified().ok()?, version.path()))).collect();
    // The same order in every process.
    versions.sort();
    let surplus = versions.len().saturating_sub(UNJUDGED);
    for (_, version) in versions.into_iter().take(surplus) {
        // Another process may have done so.
        let _ = fs::remove_dir_all(version);
    }
}

/// What the name of a file begins with that is not locked yet.
const BEGINNING: &str = ".";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_open_while_its_worker_lives_and_its_death_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (VersionStore::open(folder.path()), VersionStore::open(folder.path()));
        assert!(!ours.open_trials("relay", "v").any());
        let trial = theirs.begin_trial("relay", "v");
        assert_eq!(ours.open_trials("relay", "v"), OpenTrials { running: 1, died: 0 });
        assert_eq!(ours.open_trials("relay", "w"), OpenTrials::default());
        drop(trial);
        assert_eq!(ours.open_trials("relay", "v"), OpenTrials::default());
        for died in 1..=3 {
            // The kernel closes the files of a process that dies; nobody removes them.
            let mut trial = theirs.begin_trial("relay", "v");
            drop(trial.0.take().map(|(_, file)| file));
            let open = ours.open_trials("relay", "v");
            assert_eq!((open, open.failure().is_some()), (OpenTrials { running: 0, died }, died == 3));
        }
        let again = theirs.begin_trial("relay", "v");
        ours.forget_trials("relay", "v");
        assert_eq!(ours.open_trials("relay", "v"), OpenTrials::default());
        drop(again);
    }

    #[test]
    fn of_versions_that_nobody_judges_only_the_latest_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionStore::open(folder.path());
        for version in 0..UNJUDGED + 10 {
            let mut trial = store.begin_trial("relay", &format!("v{version:03}"));
            drop(trial.0.take());
        }
        let known = |version: usize| store.open_trials("relay", &format!("v{version:03}")).any();
        assert!(!known(0) && known(UNJUDGED + 9));
        assert_eq!((0..UNJUDGED + 10).filter(|version| known(*version)).count(), UNJUDGED + 1);
    }

    #[test]
    fn where_nothing_can_be_written_a_trial_is_a_trial_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cache"), "").unwrap();
        let store = VersionStore::open(&folder.path().join("cache"));
        let _trial = store.begin_trial("relay", "v");
        assert_eq!(store.open_trials("relay", "v"), OpenTrials::default());
    }
}
