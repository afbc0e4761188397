//! `parti plugin push`: another version of a plugin for every worker.

use super::order::{named, order};
use super::wait::wait;
use super::{Watching, short};
use crate::cli::operator::fleet::{operator, run as run_connected};
use crate::cli::operator::print::{grouped, print};
use crate::config::Config;
use crate::error::{ErrorCode, OperatorError};
use crate::nats::ObjectError;
use crate::plugin::{Digest, LoadError, PluginEngine, PluginKind, try_load};
use crate::pushes::Order;
use crate::worker::{Slot, engine_error, from_sentence, settings_of};
use clap::Args;
use std::path::{Path, PathBuf};

/// What `parti plugin push` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plugin push billing target/wasm32-wasip2/release/billing.wasm
  parti plugin push billing billing.wasm --timeout 5m --json

The component is checked here as a worker would, then put into NATS, and every worker takes it up, beside its own configuration: a
handler on trial (handler.swap), a strategy, a source or hooks once one call on trial has gone well. The command shows how each has fared, and ends with 1 unless it is in force on all. Workers that start
later begin with it. A component in a worker's plugin directory that is newer than the push goes before it.")]
pub(super) struct PushArgs {
    /// The plugin, by the name that the configuration has for it
    #[arg(value_name = "NAME")]
    plugin: String,
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    watching: Watching,
}

pub(super) fn run(args: &PushArgs) -> Result<(), OperatorError> {
    // What is wrong with the file needs no NATS to be told.
    let config = args.watching.config.load()?.into_operable()?;
    let bytes = checked(&config, &args.plugin, &args.file)?;
    let digest = Digest::of(&bytes);
    run_connected(&args.watching.config, async |connected| {
        let (pushes, plugin) = (connected.pushes().await?, &args.plugin);
        let not_put = |error: ObjectError| {
            ErrorCode::OperatorRefused.error(
                format!("the component of {} bytes could not be put into NATS; nothing was changed", grouped(bytes.len() as u64)),
                error.to_string(),
                "check that NATS answers, has room, and permits this user $O.>; on a slow connection raise operationTimeout",
            )
        };
        let heartbeats = connected.heartbeats().await?;
        if !heartbeats.is_empty() && !heartbeats.values().any(|heartbeat| heartbeat.plugins.contains_key(plugin)) {
            return Err(unknown(plugin, heartbeats.values().flat_map(|heartbeat| heartbeat.plugins.keys())));
        }
        pushes.put(plugin, &digest, &bytes).await.map_err(not_put)?;
        let (order, revision) = order(&pushes, plugin, |standing| {
            Ok(Order::new(&connected.config.group, standing.order.as_ref(), Some(digest.clone()), &operator()))
        })
        .await?;
        // Another push may have deleted it as one that nobody wants any more.
        if pushes.fetch(plugin, &digest).await.is_err() {
            pushes.put(plugin, &digest, &bytes).await.map_err(not_put)?;
        }
        if !args.watching.json {
            print(format!("pushed {plugin} {} ({} bytes)", short(digest.as_str()), grouped(bytes.len() as u64)));
        }
        wait(&args.watching, connected, &pushes, plugin, &order, revision).await
    })
}

/// The bytes of a component that a worker with this configuration would load.
fn checked(config: &Config, plugin: &str, file: &Path) -> Result<Vec<u8>, OperatorError> {
    named(plugin)?;
    let slots = Slot::all(config);
    let slot = slots.iter().find(|slot| slot.name == plugin);
    if slot.is_none() && !slots.is_empty() {
        return Err(unknown(plugin, slots.iter().map(|slot| &slot.name)));
    }
    // A configuration without plugins is an operator's, who names what the workers have.
    let kind = slot.map_or(PluginKind::Handler, |slot| slot.kind);
    let settings = settings_of(config, plugin);
    let unreadable = |error: std::io::Error| {
        ErrorCode::OperatorUsage.error(
            format!("{} cannot be read", file.display()),
            error.to_string(),
            "name the component's file",
        )
    };
    let refused = |error: LoadError| from_sentence(ErrorCode::PluginInvalid, &error.to_string());
    let (size, limit) = (std::fs::metadata(file).map_err(unreadable)?.len(), settings.limits.component_bytes);
    if size > limit {
        let section = settings.section;
        return Err(refused(LoadError::TooLarge { plugin: plugin.into(), section, size, limit }));
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let engine = PluginEngine::new().map_err(|error| engine_error(&error))?;
    try_load(kind, &engine, plugin, &bytes, settings).map_err(refused)?;
    Ok(bytes)
}

fn unknown<'a>(plugin: &str, known: impl Iterator<Item = &'a String>) -> OperatorError {
    let known: std::collections::BTreeSet<&str> = known.map(String::as_str).collect();
    ErrorCode::OperatorUsage.error(
        format!("no worker has a plugin {plugin:?}; nothing was pushed"),
        format!("they run {}", known.into_iter().collect::<Vec<_>>().join(", ")),
        "give a name that the workers' configuration has, with the configuration that they run with",
    )
}
