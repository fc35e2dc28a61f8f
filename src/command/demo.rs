//! x
use std::process::ExitCode;
use clap::Args;
use super::Error;
use crate::config::Common;
#[derive(Args)]
pub struct Options {}
pub async fn run(_c:&Common,_o: Options)->Result<ExitCode,Error>{ Ok(ExitCode::SUCCESS) }
