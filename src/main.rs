//! The `countersign` program: arguments in, exit status out.

use std::process::ExitCode;

/// Every request needs buffers that the allocator of the C library hands out slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    countersign::telemetry::log_panics();
    countersign::cli::main()
}
