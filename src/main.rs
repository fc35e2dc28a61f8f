//! The `vitals` program: see `vitals --help`.

use std::process::ExitCode;

/// A request makes and drops some hundred small things: libc took a fifth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    vitals::command::main(std::env::args_os())
}
