//! x
use crate::error::OperatorError;
use clap::Args;
/// x
#[derive(Debug, Args)]
pub(super) struct BenchArgs {}
pub(super) fn run(_args: &BenchArgs) -> Result<(), OperatorError> { Ok(()) }
