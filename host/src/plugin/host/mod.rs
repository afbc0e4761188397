//! What a guest can reach: the store's data behind every instance, its limits, and the interfaces linked to it.
//!
//! One file per interface. Deny by default: what is not linked here does not exist for a guest.

mod account;
mod config;
mod context;
mod http;
mod log;
mod metrics;
mod publish;
mod quota;
mod shared;

pub use account::Accounts;
pub use context::{Home, Ownership};
pub use publish::Publish;
pub use shared::PluginStats;

pub(super) use config::PluginConfig;
pub(super) use context::{Scope, trace_parent};
pub(super) use quota::Exceeded;
pub(super) use shared::{Failure, Shared};

use super::bindings::parti::plugin::publish as wit_publish;
use super::bindings::{Plugins, parti, wit};
use super::grants::{Grants, Opening};
use context::Traces;
use http::Outgoing;
use log::{LogScope, Stdio};
use parti_coordination::Sequence;
use publish::Outbox;
use quota::Quota;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::{cli, filesystem, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Host objects (streams, timers, requests) that one instance may hold. Their memory is the host's, so a guest could otherwise grow the host
/// by subscribing to clocks. Language runtimes hold fewer than ten.
const MAX_HOST_OBJECTS: usize = 128;

/// The same where a directory is granted, because then each can be an open file of the host.
const MAX_HOST_OBJECTS_WITH_FILES: usize = 32;

/// Descriptors that an instance with a directory may take: the directory's own, and one for each object.
pub(super) const MAX_DESCRIPTORS: u64 = 1 + MAX_HOST_OBJECTS_WITH_FILES as u64;

/// Bytes of the headers of one HTTP request or response that a guest holds.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Bytes that a guest may ask for in one call for random bytes.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// The data of one instance's store.
pub(super) struct HostState {
    shared: Arc<Shared>,
    pub(super) quota: Quota,
    /// When the call in progress must have ended.
    pub(super) deadline: Instant,
    /// What the batch in progress publishes; `None` outside `handle`.
    outbox: Option<Outbox>,
    scope: Scope,
    /// Of the batch in progress.
    traces: Traces,
    log: Arc<LogScope>,
    stderr: Stdio,
    stdout: Stdio,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    objects: ResourceTable,
}

impl HostState {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope) -> Self {
        let log = Arc::new(LogScope::new(shared.clone(), scope.partition.clone()));
        let stdout = Stdio::new(tracing::Level::INFO, log.clone());
        let stderr = Stdio::new(tracing::Level::WARN, log.clone());
        let mut objects = ResourceTable::new();
        let has_files = shared.directory.is_some();
        objects.set_max_capacity(if has_files { MAX_HOST_OBJECTS_WITH_FILES } else { MAX_HOST_OBJECTS });
        let mut wasi = WasiCtx::builder();
        wasi.stdout(stdout.clone()).stderr(stderr.clone()).max_random_size(MAX_RANDOM_BYTES).envs(&shared.env);
        if let Some(directory) = &shared.directory
            && let Err(error) = wasi.preopened_dir(directory, "/", FsPerms::ReadOnly)
        {
            log.host_warns(&format!(
                "{}, which is plugins.grants.{}.directory, cannot be opened: {error:#}. The plugin goes on without it",
                directory.display(),
                shared.plugin
            ));
        }
        Self {
            quota: Quota::new(shared.clone()),
            outgoing: Outgoing::new(shared.clone(), log.clone()),
            shared,
            deadline: Instant::now(),
            outbox: None,
            scope,
            traces: Traces::new(),
            log,
            wasi: wasi.build(),
            http: Self::http(),
            stderr,
            stdout,
            objects,
        }
    }

    fn http() -> WasiHttpCtx {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_HEADER_BYTES);
        http
    }

    /// The calls from now on are for this partition.
    pub(super) fn enter(&mut self, scope: &Scope) {
        self.scope = scope.clone();
        self.log.enter(scope.partition.clone());
    }

    /// Prepare for a call that must end by `deadline`.
    pub(super) fn begin(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.outgoing.begin(deadline);
        self.quota.begin();
    }

    /// Prepare for a call of `handle` with the messages of these sequences. `traces` are those of them that have a trace context.
    pub(super) fn begin_batch(&mut self, batch: impl Iterator<Item = Sequence>, traces: Traces) {
        self.traces = traces;
        let outbox = Outbox::new(batch);
        self.log.set_sequence(outbox.first_cause());
        self.outbox = Some(outbox);
    }

    /// Tidy up after a call: what it published, and the end of what it wrote to standard error.
    pub(super) fn end(&mut self) -> (Vec<Publish>, String) {
        self.stdout.end();
        let said = self.stderr.end();
        self.log.set_sequence(None);
        self.traces.clear();
        (self.outbox.take().map(Outbox::into_messages).unwrap_or_default(), said)
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.objects }
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.objects, ctx: &mut self.http }
    }
}

impl wit::Host for HostState {}

impl parti::plugin::log::Host for HostState {
    fn write(&mut self, level: parti::plugin::log::Level, message: String) {
        use parti::plugin::log::Level;
        let level = match level {
            Level::Trace => tracing::Level::TRACE,
            Level::Debug => tracing::Level::DEBUG,
            Level::Info => tracing::Level::INFO,
            Level::Warn => tracing::Level::WARN,
            Level::Error => tracing::Level::ERROR,
        };
        self.log.write(level, &message);
    }
}

impl parti::plugin::config::Host for HostState {
    fn get(&mut self, key: String) -> Option<String> {
        self.shared.config.get(&key)
    }

    fn all(&mut self) -> String {
        self.shared.config.all().to_owned()
    }
}

impl wit_publish::Host for HostState {
    fn send(
        &mut self,
        cause: u64,
        subject: String,
        headers: Vec<wit::HeaderResult>,
        payload: Vec<u8>,
    ) -> Result<(), wit_publish::Refusal> {
        let Some(outbox) = &mut self.outbox else {
            return Err(wit_publish::Refusal::Invalid(
                "messages can be published only while `handle` runs, because each names the message that caused it"
                    .into(),
            ));
        };
        let headers = headers.into_iter().map(|header| (header.name, header.value)).collect();
        outbox.send(&self.shared.limits, cause, subject, headers, payload).map_err(Into::into)
    }
}

/// Link what every plugin may use: the contract's interfaces, and of WASI 0.2 what the standard libraries of Rust, C and
/// others import before `main`: clocks, random, streams, an empty environment, exit (a trap), and no terminal.
/// [`inspect`](super::inspect()) refuses components that need more.
pub(super) fn link(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    Plugins::add_to_linker::<HostState, HasSelf<HostState>>(l, |state| state)?;
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(l)?;
    random::insecure::add_to_linker::<HostState, WasiRandom>(l, HostState::random)?;
    random::insecure_seed::add_to_linker::<HostState, WasiRandom>(l, HostState::random)?;
    cli::environment::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    cli::exit::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    cli::terminal_input::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    cli::terminal_output::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    cli::terminal_stdin::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    cli::terminal_stdout::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    cli::terminal_stderr::add_to_linker::<HostState, WasiCli>(l, HostState::cli)?;
    Ok(linker)
}

/// Link what these grants open, besides what every plugin may use.
pub(super) fn link_granted(linker: &mut Linker<HostState>, grants: &Grants) -> wasmtime::Result<()> {
    if grants.open(Opening::Http) {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    }
    if grants.open(Opening::Directory) {
        filesystem::types::add_to_linker::<HostState, WasiFilesystem>(linker, HostState::filesystem)?;
        filesystem::preopens::add_to_linker::<HostState, WasiFilesystem>(linker, HostState::filesystem)?;
    }
    Ok(())
}
