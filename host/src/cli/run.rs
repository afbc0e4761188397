//! `parti run`: one worker.

use super::ConfigArgs;
use crate::config::LogFormat;
use crate::error::{ErrorCode, OperatorError};
use crate::telemetry::{self, LogError, WorkerLabel};
use clap::Args;

/// What `parti run` takes.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &RunArgs) -> Result<(), OperatorError> {
    let loaded = args.config.load()?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let config = loaded.into_runnable()?;
    let format = match config.log.format {
        LogFormat::Auto => telemetry::LogFormat::Auto,
        LogFormat::Json => telemetry::LogFormat::Json,
        LogFormat::Text => telemetry::LogFormat::Text,
    };
    let label = WorkerLabel::default();
    let _guard =
        telemetry::init(format, config.log.level.as_str(), label.clone()).map_err(|error| log_error(&error))?;
    crate::worker::run(config, label)
}

/// What a log that cannot be set up means for an operator.
pub(super) fn log_error(error: &LogError) -> OperatorError {
    ErrorCode::InvalidConfig.error("the log cannot be set up", error.to_string(), "correct log.level or RUST_LOG")
}
