//! The `parti` binary: parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    parti::cli::main()
}
