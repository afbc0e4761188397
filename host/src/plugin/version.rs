//! One compiled version of a plugin, of whatever kind: what it is and what its instances share. It never changes: another
//! file, configuration or limit makes another version.

use super::digest::Digest;
use super::engine::PluginEngine;
use super::error::LoadError;
use super::grants::Grants;
use super::host::{self, HostState, PluginConfig, PluginStats, Shared};
use super::inspect::{Inspection, PluginKind, inspect};
use super::limits::Limits;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::component::{Component, InstancePre};

/// What an operator sets for a plugin.
#[derive(Debug, Clone)]
pub struct PluginSettings {
    /// The section of the configuration that names the plugin, such as `handler`: messages name its keys.
    pub section: Arc<str>,
    /// What the guest reads through `parti:plugin/config`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What the guest may use.
    pub limits: Limits,
    /// What the guest may reach beyond the host.
    pub grants: Grants,
}

impl PluginSettings {
    /// The identity of the version that a component with this digest becomes with these settings.
    pub(super) fn id(&self, digest: &Digest) -> String {
        const DIGITS: usize = 8;
        let Self { config, limits, .. } = self;
        let is_plain = config.is_empty() && *limits == Limits::default();
        // A map is written in the order of its keys.
        let settings = Digest::of(format!("{} {limits:?}", serde_json::Value::Object(config.clone())).as_bytes());
        let settings = settings.as_str().get(..DIGITS).filter(|_| !is_plain);
        settings.map_or_else(|| digest.to_string(), |settings| format!("{digest}+{settings}"))
    }
}

/// One compiled version of a plugin of the kind that exports `E`: what it is, and how its instances are called.
pub struct Plugin<E> {
    version: Arc<PluginVersion>,
    exports: E,
}

impl<E> Plugin<E> {
    /// Check and compile a component of this kind. `exports` finds what the kind exports, by name and shape.
    pub(super) fn compile(
        engine: &PluginEngine,
        name: &str,
        bytes: &[u8],
        kind: PluginKind,
        settings: PluginSettings,
        exports: impl FnOnce(&InstancePre<HostState>) -> wasmtime::Result<E>,
    ) -> Result<Arc<Self>, LoadError> {
        let plugin: Arc<str> = name.into();
        let digest = Digest::of(bytes);
        let id = settings.id(&digest);
        let PluginSettings { section, config, limits, grants } = settings;
        let (size, limit) = (bytes.len() as u64, limits.component_bytes);
        if size > limit {
            return Err(LoadError::TooLarge { plugin, section, size, limit });
        }
        let inspection = inspect(name, bytes, &grants)?;
        if inspection.kind != kind {
            return Err(LoadError::WrongKind { plugin, section, found: inspection.kind, wanted: kind });
        }
        let begun = Instant::now();
        let component = Component::from_binary(engine.wasmtime(), bytes)
            .map_err(|error| LoadError::Compile { plugin: plugin.clone(), detail: format!("{error:#}") })?;
        let mut linker = engine.linker().clone();
        let (pre, exports) = host::link_granted(&mut linker, &grants)
            .and_then(|()| linker.instantiate_pre(&component))
            .and_then(|pre| exports(&pre).map(|exports| (pre, exports)))
            .map_err(|error| LoadError::Mismatch { plugin: plugin.clone(), detail: format!("{error:#}") })?;
        let version = PluginVersion {
            id,
            shared: Arc::new(Shared::new(
                plugin,
                section,
                limits,
                PluginConfig::new(config),
                grants,
                Arc::clone(engine.home()),
            )),
            digest,
            inspection,
            size,
            compile_time: begun.elapsed(),
            pre,
        };
        Ok(Arc::new(Self { version: Arc::new(version), exports }))
    }

    /// What it is and what its instances share.
    #[must_use]
    pub fn version(&self) -> &Arc<PluginVersion> {
        &self.version
    }

    /// Where an instance's exports are.
    pub(super) fn exports(&self) -> &E {
        &self.exports
    }
}

impl<E> std::fmt::Debug for Plugin<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Plugin").field(&self.version).finish()
    }
}

/// What one compiled version of a plugin is, whatever its kind.
pub struct PluginVersion {
    shared: Arc<Shared>,
    digest: Digest,
    id: String,
    inspection: Inspection,
    size: u64,
    compile_time: Duration,
    pre: InstancePre<HostState>,
}

impl PluginVersion {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn pre(&self) -> &InstancePre<HostState> {
        &self.pre
    }

    /// The name it is configured under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.plugin
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> PluginKind {
        self.inspection.kind
    }

    /// The interfaces it imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.inspection.imports
    }

    /// What identifies this version.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What tells this version from every other, here and on other workers: the digest of the component and, where it is configured
    /// or limited in its own way, eight digits of the digest of that.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Bytes of the component.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How long compiling took.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// What its instances may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Whether its instances may open files.
    #[must_use]
    pub fn reads_files(&self) -> bool {
        self.shared.directory.is_some()
    }

    /// What its instances read as configuration: one JSON object.
    #[must_use]
    pub fn config(&self) -> &serde_json::Value {
        self.shared.config.value()
    }

    /// Figures over all its instances.
    #[must_use]
    pub fn stats(&self) -> PluginStats {
        self.shared.stats()
    }
}

impl std::fmt::Debug for PluginVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginVersion")
            .field("name", &self.name())
            .field("kind", &self.kind())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
