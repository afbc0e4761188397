//! The files of a plugin in the plugin directory: when they have changed, and when nobody writes to them any more.
//!
//! Events of the file system say when to look, and a slow look from time to time makes up for those that are lost, as on network
//! file systems. A change is told only once the files are the same twice: a file that is being written is left alone.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// How long a file must stay the same before it is taken.
const SETTLE: Duration = Duration::from_millis(250);

/// How often that is waited for before something else is done: what is written to without end is looked at again later.
const PATIENCE: usize = 20;

/// How often the directory is looked at without an event.
const LOOK: Duration = Duration::from_secs(10);

/// What can be seen of the component and of its sidecar without reading them.
type Traits = [Option<(u64, SystemTime)>; 2];

/// The files of one plugin.
pub(super) struct PluginFiles {
    files: [PathBuf; 2],
    known: Traits,
    changes: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl PluginFiles {
    /// Begins with the files as they are now.
    pub(super) fn watch(directory: &Path, plugin: &str) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let watcher = begin(directory, sender).inspect_err(|error| {
            tracing::warn!(
                directory = %directory.display(), %error,
                "The plugin directory is not watched; it is looked at every {LOOK:?}"
            );
        });
        let files = ["wasm", "yaml"].map(|ending| directory.join(format!("{plugin}.{ending}")));
        let known = traits(&files);
        Self { files, known, changes, _watcher: watcher.ok() }
    }

    /// Waits until it is time to look. May be cancelled without loss.
    pub(super) async fn stirred(&mut self) {
        tokio::select! {
            Some(()) = self.changes.recv() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }

    /// Whether they have changed since the last time, once nobody writes to them any more.
    pub(super) async fn have_changed(&mut self) -> bool {
        let mut before = traits(&self.files);
        for _ in 0..PATIENCE {
            if before == self.known {
                return false;
            }
            tokio::time::sleep(SETTLE).await;
            let now = traits(&self.files);
            if now == before {
                self.known = now;
                return true;
            }
            before = now;
        }
        false
    }
}

fn traits(files: &[PathBuf; 2]) -> Traits {
    files.each_ref().map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    })
}

/// Tells of everything that happens in the directory, until the watcher is dropped.
fn begin(directory: &Path, changes: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |_| {
        // One that waits to be heard says it all.
        let _ = changes.try_send(());
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
