//! Orders for the fleet, by compare-and-set; `parti plugin swap` and `parti plugin rollback`.

use super::wait::wait;
use super::{Watching, short};
use crate::cli::operator::confirm::confirm;
use crate::cli::operator::fleet::{api_error, operator, run as run_connected};
use crate::cli::operator::print::print;
use crate::error::{ErrorCode, OperatorError};
use crate::plugin::Digest;
use crate::pushes::{Order, Pushes, Standing, failed};
use clap::Args;
use parti_coordination::WriteOutcome;

/// How often what is wanted is read again when another operator was faster.
const TRIES: usize = 10;

/// What `parti plugin swap` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  parti plugin swap billing
  parti plugin swap billing --discard-state --yes

Every worker tries what is wanted once more: what was pushed last, else what lies in its plugin directory, also where it has
failed its trial before. With --discard-state handlers begin without the states that the version before has written, where
the new one cannot read them: what those held is lost.")]
pub(super) struct SwapArgs {
    /// The plugin
    #[arg(value_name = "NAME")]
    plugin: String,
    #[command(flatten)]
    watching: Watching,
    /// Begin without the partitions' states
    #[arg(long)]
    discard_state: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What `parti plugin rollback` takes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Goes back to the version that was pushed before, passing over those that have failed. Before the first push lies what is in the
workers' plugin directories.")]
pub(super) struct RollbackArgs {
    /// The plugin
    #[arg(value_name = "NAME")]
    plugin: String,
    #[command(flatten)]
    watching: Watching,
}

pub(super) fn swap(args: &SwapArgs) -> Result<(), OperatorError> {
    run_connected(&args.watching.config, async |connected| {
        let (pushes, plugin) = (connected.pushes().await?, &args.plugin);
        named(plugin)?;
        if args.discard_state {
            confirm(&format!("give up the states of every partition that plugin {plugin} handles?"), args.yes)?;
        }
        let (order, revision) = order(&pushes, plugin, |standing| {
            let before = standing.order.as_ref();
            let wanted = before.and_then(|order| order.wanted.clone());
            Ok(Order::new(&connected.config.group, before, wanted, &operator()).again(args.discard_state))
        })
        .await?;
        wait(&args.watching, connected, &pushes, plugin, &order, revision).await
    })
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<(), OperatorError> {
    run_connected(&args.watching.config, async |connected| {
        let (pushes, plugin) = (connected.pushes().await?, &args.plugin);
        named(plugin)?;
        let history = pushes.history(plugin).await.map_err(|error| api_error("the history of the plugin", &error))?;
        let has_failed = |digest: &&Digest| {
            let versions = history.values().flatten().map(|reported| reported.attempt.to.as_str());
            versions.filter(|to| to.starts_with(digest.as_str())).any(|version| failed(&history, version).is_some())
        };
        let (order, revision) = order(&pushes, plugin, |standing| {
            let before = standing.order.as_ref().filter(|order| order.components().next().is_some());
            let before = before.ok_or_else(|| {
                ErrorCode::OperatorRefused.error(
                    format!("plugin {plugin} cannot be rolled back"),
                    "nothing was pushed, so every worker runs what lies in its plugin directory",
                    format!("push the version that is to run: parti plugin push {plugin} FILE"),
                )
            })?;
            let to = before.before.iter().find(|digest| !has_failed(digest)).cloned();
            Ok(before.back(to, &operator()))
        })
        .await?;
        if !args.watching.json {
            print(match &order.wanted {
                Some(digest) => format!("back to {}", short(digest.as_str())),
                None => "back to what lies in the plugin directories".to_owned(),
            });
        }
        wait(&args.watching, connected, &pushes, plugin, &order, revision).await
    })
}

/// Whether there can be orders for a plugin of this name.
pub(super) fn named(plugin: &str) -> Result<(), OperatorError> {
    let usable = !plugin.contains(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
    if usable && Pushes::can_name(plugin) {
        return Ok(());
    }
    Err(ErrorCode::OperatorUsage.error(
        format!("{plugin:?} is no name under which a version can be pushed"),
        "such a name has letters, digits, - and _, and single dots between them",
        "give the name that the configuration has for it; rename the plugin if that has dots at its end or next to each other",
    ))
}

/// Writes an order that follows from the one before; it and its revision. Components that no order names any more are deleted.
pub(super) async fn order(
    pushes: &Pushes,
    plugin: &str,
    make: impl Fn(&Standing) -> Result<Order, OperatorError>,
) -> Result<(Order, u64), OperatorError> {
    let read =
        async || pushes.standing(plugin).await.map_err(|error| api_error("what is wanted of the plugin", &error));
    for _ in 0..TRIES {
        let standing = read().await?;
        let order = make(&standing)?;
        let revision = match pushes.order(plugin, &order, standing.revision).await {
            WriteOutcome::Written(revision) => revision,
            WriteOutcome::Lost => continue,
            // It may have landed all the same.
            WriteOutcome::Unknown => match read().await? {
                now if now.order.as_ref() == Some(&order) => now.revision,
                _ => continue,
            },
        };
        let named = |digest: &&Digest| order.components().any(|other| other == *digest);
        let gone: Vec<Digest> =
            standing.order.iter().flat_map(Order::components).filter(|d| !named(d)).cloned().collect();
        if !gone.is_empty()
            && let Err(error) = pushes.delete(plugin, &gone).await
        {
            tracing::debug!(%error, "components that nobody wants any more are left");
        }
        return Ok((order, revision));
    }
    Err(ErrorCode::OperatorRefused.error(
        format!("what is wanted of plugin {plugin} is as it was"),
        format!("it changed under each of {TRIES} tries, or NATS refuses to write it"),
        "try again; check that this NATS user may write to the bucket",
    ))
}
