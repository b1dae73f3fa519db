//! The `countersign` program: arguments in, exit status out.

use std::process::ExitCode;

/// Every request allocates some two dozen small pieces on the thread that frees them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    countersign::cli::main()
}
