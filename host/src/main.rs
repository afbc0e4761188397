//! The `parti` binary: parse, run, exit.

use std::process::ExitCode;

/// Messages are allocated where they are read and freed where they are handled, on another thread; the system's allocator
/// spends a third of a worker's time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    parti::cli::main()
}
