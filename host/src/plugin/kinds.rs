//! What the kinds of plugins have in common: whoever loads, keeps or replaces one need not know which it is.

use super::bindings::{handler, hooks, source, strategy};
use super::engine::PluginEngine;
use super::error::LoadError;
use super::handler::HandlerPlugin;
use super::hooks::HooksPlugin;
use super::inspect::PluginKind;
use super::source::SourcePlugin;
use super::strategy::StrategyPlugin;
use super::version::{Plugin, PluginSettings, PluginVersion};
use std::sync::Arc;
use wasmtime::component::InstancePre;

/// Where the exports are of a component of one kind.
pub trait Exports: Sized + Send + Sync + 'static {
    /// The kind.
    const KIND: PluginKind;

    /// Finds them, by name and shape.
    ///
    /// # Errors
    /// Another shape.
    fn find<T>(component: &InstancePre<T>) -> wasmtime::Result<Self>;
}

macro_rules! exports {
    ($($of:ident = $kind:ident),*) => {$(
        impl Exports for $of::GuestIndices {
            const KIND: PluginKind = PluginKind::$kind;

            fn find<T>(component: &InstancePre<T>) -> wasmtime::Result<Self> {
                Self::new(component)
            }
        }
    )*};
}

exports!(handler = Handler, strategy = Strategy, source = Source, hooks = Hooks);

impl<E: Exports> Plugin<E> {
    /// Check and compile a component. Takes the processor for 0.1 s (Rust) to 12 s (JavaScript, Python): call it where
    /// blocking is allowed, never on the data path.
    ///
    /// # Errors
    /// A component that is too large, not valid, of another kind, or in need of what this host does not offer.
    pub fn load(
        engine: &PluginEngine,
        name: &str,
        bytes: &[u8],
        settings: PluginSettings,
    ) -> Result<Arc<Self>, LoadError> {
        Self::compile(engine, name, bytes, E::KIND, settings, E::find)
    }
}

/// A plugin of some kind, for whoever loads it.
pub trait Loadable: Send + Sync + Sized + 'static {
    /// Its kind.
    const KIND: PluginKind;

    /// Checks and compiles a component: [`Plugin::load`].
    ///
    /// # Errors
    /// It cannot be used.
    fn load(engine: &PluginEngine, name: &str, bytes: &[u8], settings: PluginSettings) -> Result<Arc<Self>, LoadError>;

    /// What it is.
    fn version(&self) -> &Arc<PluginVersion>;
}

impl<E: Exports> Loadable for Plugin<E> {
    const KIND: PluginKind = E::KIND;

    fn load(engine: &PluginEngine, name: &str, bytes: &[u8], settings: PluginSettings) -> Result<Arc<Self>, LoadError> {
        Self::load(engine, name, bytes, settings)
    }

    fn version(&self) -> &Arc<PluginVersion> {
        self.version()
    }
}

/// Loads a component as a plugin of this kind, only to see whether that can be done. Takes as long as [`Plugin::load`].
///
/// # Errors
/// It cannot be used.
pub fn try_load(
    kind: PluginKind,
    engine: &PluginEngine,
    name: &str,
    bytes: &[u8],
    settings: PluginSettings,
) -> Result<(), LoadError> {
    match kind {
        PluginKind::Handler => HandlerPlugin::load(engine, name, bytes, settings).map(drop),
        PluginKind::Strategy => StrategyPlugin::load(engine, name, bytes, settings).map(drop),
        PluginKind::Source => SourcePlugin::load(engine, name, bytes, settings).map(drop),
        PluginKind::Hooks => HooksPlugin::load(engine, name, bytes, settings).map(drop),
    }
}
