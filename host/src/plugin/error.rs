//! What can go wrong with a plugin, in words for those who operate it.

use super::inspect::PluginKind;
use super::limits::Size;
use crate::error::ErrorCode;
use std::sync::Arc;
use std::time::Duration;

/// Why a file is no plugin of this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not WebAssembly at all.
    #[error(
        "plugin {plugin} is not WebAssembly: the file does not begin with the WebAssembly header. \
         Build it with `cargo build --release --target wasm32-wasip2` and copy the .wasm file"
    )]
    NotWasm {
        /// The plugin's name.
        plugin: Arc<str>,
    },
    /// A core module where a component is needed.
    #[error(
        "plugin {plugin} is a core WebAssembly module, but plugins are components. \
         Build it for the target wasm32-wasip2, or turn the module into a component with `wasm-tools component new`"
    )]
    CoreModule {
        /// The plugin's name.
        plugin: Arc<str>,
    },
    /// A damaged or cut file.
    #[error("plugin {plugin} is a damaged component: {detail}. Build or copy it again")]
    Malformed {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What the parser says.
        detail: String,
    },
    /// A component of something else.
    #[error(
        "plugin {plugin} exports no interface that this host knows. It exports {}; the nearest world is `{world}`, \
         which exports `{wanted}`. Build the plugin against the contract of this host (`parti new handler` starts one)",
        list(exports)
    )]
    UnknownWorld {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What the component exports instead.
        exports: Vec<String>,
        /// The world it probably wanted to be of.
        world: &'static str,
        /// What that world exports.
        wanted: String,
    },
    /// A component of another kind than the one asked for.
    #[error(
        "plugin {plugin} is of the kind {found}, and {section} needs one of the kind {wanted}, which exports `{}`. \
         Name another plugin there, or name this one where its kind belongs",
        wanted.exports()
    )]
    WrongKind {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The section of the configuration that names it.
        section: Arc<str>,
        /// What it is.
        found: PluginKind,
        /// What it should be.
        wanted: PluginKind,
    },
    /// The component needs what the host does not offer or has not granted.
    #[error("plugin {plugin} needs what this host does not give it: {}", advise(missing))]
    MissingImports {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Every such interface.
        missing: Vec<MissingImport>,
    },
    /// A file above the size limit.
    #[error(
        "plugin {plugin} has {size} bytes; {section}.limits.componentBytes allows {}. \
         Strip debug information from the component (`strip = true` in its Cargo profile), or raise the limit",
        Size::from(*limit)
    )]
    TooLarge {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The section of the configuration that sets the limit.
        section: Arc<str>,
        /// Bytes of the file.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The compiler refused the component.
    #[error(
        "plugin {plugin} does not compile: {detail}. The component is invalid or uses features that this host lacks"
    )]
    Compile {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What the compiler says.
        detail: String,
    },
    /// The interfaces have the right names and the wrong shapes.
    #[error(
        "plugin {plugin} was built against another draft of the contract: {detail}. \
         Build it again with the WIT files and the SDK of this host's release"
    )]
    Mismatch {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Where the shapes differ.
        detail: String,
    },
}

/// An interface that a component imports and does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingImport {
    /// The interface, as the component names it.
    pub interface: String,
    /// Why it is not there and what to do.
    pub advice: String,
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { format!("`{}`", names.join("`, `")) }
}

/// What is missing, with what is to be done about it; said once of neighbours for which it is the same.
fn advise(missing: &[MissingImport]) -> String {
    let alike = missing.chunk_by(|one, next| one.advice == next.advice);
    let said = alike.filter_map(|imports| {
        let names: Vec<String> = imports.iter().map(|import| format!("`{}`", import.interface)).collect();
        Some(format!("{}: {}", names.join(", "), imports.first()?.advice))
    });
    said.collect::<Vec<_>>().join("; ")
}

/// Why a call into a guest gave no answer that counts.
///
/// After every variant but [`Refused`](Self::Refused) the instance is poisoned: throw it away and open another from the
/// last committed snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest trapped: it panicked, exited, or broke the rules of WebAssembly or of the component model.
    #[error("plugin {plugin} trapped: {message}")]
    Trap {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The trap, and what the guest wrote to standard error in this call (a panic's text).
        message: String,
        /// The guest's stack, innermost frame first; empty if the trap has none.
        backtrace: String,
    },
    /// The call took longer than it may.
    #[error(
        "plugin {plugin} was stopped: one call took longer than {section}.callTimeout, which is {limit:?}. \
         Let it do less in one call, or raise the limit"
    )]
    Timeout {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The section of the configuration that sets the limit.
        section: Arc<str>,
        /// Time allowed.
        limit: Duration,
        /// Where the guest was, innermost frame first; empty if it waited in a host call.
        backtrace: String,
    },
    /// The guest wanted more memory than it may have, and did not survive being refused it.
    #[error(
        "plugin {plugin} wanted {wanted} bytes of memory; {section}.limits.memory allows {}. \
         Let it keep less, or raise the limit",
        Size::from(*limit)
    )]
    Memory {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The section of the configuration that sets the limit.
        section: Arc<str>,
        /// Bytes allowed.
        limit: u64,
        /// Bytes it would have had.
        wanted: u64,
    },
    /// The guest wanted more table elements than it may have, and did not survive being refused them.
    #[error(
        "plugin {plugin} wanted {wanted} table elements; {section}.limits.tableElements allows {limit}. Raise the limit"
    )]
    Tables {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The section of the configuration that sets the limit.
        section: Arc<str>,
        /// Elements allowed.
        limit: u64,
        /// Elements it would have had.
        wanted: u64,
    },
    /// The guest handed the host more in one call or answer than it may.
    #[error(
        "plugin {plugin} handed the host more than {section}.limits.hostCallBytes allows in one call or answer, which is {}. \
         Let it say less at once, or raise the limit",
        Size::from(*limit)
    )]
    HostCall {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The section of the configuration that sets the limit.
        section: Arc<str>,
        /// Bytes allowed.
        limit: u64,
    },
    /// The guest's answer contradicts the contract.
    #[error("plugin {plugin} gave a wrong answer: {detail}. This is an error of the plugin; the call counts as failed")]
    WrongAnswer {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What is wrong.
        detail: String,
    },
    /// The guest itself said no.
    #[error("plugin {plugin} refused to {call}: {reason}")]
    Refused {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What it was asked to do.
        call: &'static str,
        /// The guest's words.
        reason: String,
    },
    /// An earlier call failed or was abandoned; the instance is not called again.
    #[error(
        "an instance of plugin {plugin} was called after a failed or abandoned call. Open another from the last commit"
    )]
    Poisoned {
        /// The plugin's name.
        plugin: Arc<str>,
    },
    /// The instance was lost in a call for another partition that shares it. It says nothing about the one that asks now.
    #[error(
        "the instance of plugin {plugin} that several partitions share was lost in a call for another one of them.          Open another from the last commit"
    )]
    Lost {
        /// The plugin's name.
        plugin: Arc<str>,
    },
}

impl CallError {
    /// Which kind of error this is for an operator.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Timeout { .. } => ErrorCode::PluginTimeout,
            Self::Memory { .. } | Self::Tables { .. } | Self::HostCall { .. } => ErrorCode::PluginLimit,
            Self::Trap { .. }
            | Self::WrongAnswer { .. }
            | Self::Refused { .. }
            | Self::Poisoned { .. }
            | Self::Lost { .. } => ErrorCode::PluginTrap,
        }
    }
}
