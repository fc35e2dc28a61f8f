//! The `vitals` program: see `vitals --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vitals::command::main(std::env::args_os())
}
