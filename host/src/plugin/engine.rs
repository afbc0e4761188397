//! The engine that all plugins share: compilation and epochs.

use super::code_cache;
use super::host::{self, Home, HostState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime::{Cache, Config, Engine};

/// Time between two epochs: a guest that computes gives way to its neighbours on the same thread this often. Short enough
/// that a neighbour's message does not wait noticeably, long enough that 100 wake-ups per second cost nothing.
pub(super) const EPOCH: Duration = Duration::from_millis(10);

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refused its configuration on this machine.
    #[error("the WebAssembly engine does not start on this machine: {0}. It needs a 64-bit x86 or ARM processor")]
    Unsupported(String),
    /// No thread for the epochs.
    #[error("the thread that interrupts guests does not start: {0}. Raise the limit of threads of this process")]
    Thread(std::io::Error),
}

/// Compiles components and holds what they may import. One per process.
///
/// Instances are allocated on demand, not from a pool: they live as long as their partition stays, so allocation is rare,
/// and a pool would reserve for the worst component what the smallest needs.
pub struct PluginEngine {
    engine: Engine,
    linker: Linker<HostState>,
    home: Arc<Home>,
}

impl PluginEngine {
    /// An engine with a thread of its own that advances the epoch until the engine is gone. It compiles whatever it loads.
    ///
    /// # Errors
    /// A machine that wasmtime cannot compile for, or no thread.
    pub fn new() -> Result<Self, EngineError> {
        Self::start(None)
    }

    /// The same, and what is compiled is kept in this directory for whoever loads it next. Where that cannot be, it is said, and the
    /// engine compiles.
    ///
    /// # Errors
    /// A machine that wasmtime cannot compile for, or no thread.
    pub fn with_code_cache(directory: &Path) -> Result<Self, EngineError> {
        let cache = code_cache::open(directory).inspect_err(|why| {
            tracing::info!(
                directory = %directory.display(), %why,
                "Compiled plugins are not kept: each start compiles them. Set plugins.cache to a directory that only this user can write"
            );
        });
        Self::start(cache.ok())
    }

    fn start(cache: Option<Cache>) -> Result<Self, EngineError> {
        let unsupported = |error: wasmtime::Error| EngineError::Unsupported(format!("{error:#}"));
        let mut config = Config::new();
        // All worlds are synchronous, and without support for concurrent guests a no-op call costs 0.4 µs instead of
        // 1.8 µs. Calls are futures all the same, and guests yield.
        config.concurrency_support(false);
        config.epoch_interruption(true);
        config.memory_init_cow(true);
        config.cache(cache);
        let engine = Engine::new(&config).map_err(unsupported)?;
        let linker = host::link(&engine).map_err(unsupported)?;
        tick(&engine).map_err(EngineError::Thread)?;
        Ok(Self { engine, linker, home: Arc::default() })
    }

    /// The same for plugins of this worker. Without it they run nowhere in particular, as for `parti check`.
    #[must_use]
    pub fn at(self, home: Home) -> Self {
        Self { home: Arc::new(home), ..self }
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(super) fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn linker(&self) -> &Linker<HostState> {
        &self.linker
    }
}

impl std::fmt::Debug for PluginEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginEngine").finish_non_exhaustive()
    }
}

/// Advance the epoch on a thread of its own: a runtime's timers would be late exactly when guests keep it busy.
fn tick(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("plugin-epochs".to_owned()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(EPOCH);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;
    use wasmtime::component::Component;

    #[test]
    fn what_one_engine_has_compiled_another_need_not_and_damaged_code_is_compiled_anew() {
        let directory = tempfile::tempdir().unwrap();
        // As another process would: each with a cache of its own in the same directory.
        let hits = || {
            let cache = code_cache::open(directory.path()).unwrap();
            let engine = PluginEngine::start(Some(cache.clone())).unwrap();
            Component::new(engine.wasmtime(), example("relay")).unwrap();
            (cache.cache_hits(), cache.cache_misses())
        };
        assert_eq!(hits(), (0, 1));
        assert_eq!(hits(), (1, 0));
        let mut folders = vec![directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    std::fs::write(entry, "half of wh").unwrap();
                }
            }
        }
        assert_eq!(hits(), (0, 1));
        assert_eq!(hits(), (1, 0));
    }

    #[test]
    fn the_epoch_thread_ends_with_the_engine() {
        let engine = PluginEngine::new().unwrap();
        let weak = engine.wasmtime().weak();
        drop(engine);
        // The thread holds the engine only while it ticks.
        while weak.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
