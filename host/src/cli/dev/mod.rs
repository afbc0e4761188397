//! x
use crate::error::OperatorError;
use clap::Args;
/// x
#[derive(Debug, Args)]
pub(super) struct DevArgs {}
pub(super) fn run(_args: DevArgs) -> Result<(), OperatorError> { Ok(()) }
