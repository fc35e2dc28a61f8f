//! `vitals rebuild`: a projection, from the log.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::database::Database;
use super::error::Error;
use super::progress::TerminalProgress;
use super::tenants::say_if_empty;
use crate::config::Common;
use crate::log::Log;
use crate::projection::{self, Projection};

/// Options of `vitals rebuild`.
#[derive(Args)]
pub struct Options {
    /// A projection's name, or "all"
    projection: String,
    /// Only compare what the log says with what is live; exit 1 if it differs
    #[arg(long)]
    check_only: bool,
}

/// Rebuilds.
pub async fn run(common: &Common, options: &Options) -> Result<ExitCode, Error> {
    let wanted: Vec<&'static Projection> = match options.projection.as_str() {
        "all" => projection::ALL.iter().collect(),
        name => vec![projection::named(name).ok_or_else(|| {
            let names: Vec<&str> = projection::ALL.iter().map(|p| p.name).collect();
            format!("no projection is called {name}: use {} or all", names.join(", "))
        })?],
    };
    let database = Database::open(common).await?;
    let rebuilt = async {
        let log = database.log(common, database.owner_pool(8)).await?;
        say_if_empty(&log).await?;
        let mut sound = true;
        for projection in wanted {
            sound &= one(&log, projection, options.check_only).await?;
        }
        Ok::<bool, Error>(sound)
    }
    .await;
    database.close().await?;
    Ok(if rebuilt? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether it is now as the log says.
async fn one(log: &Log, projection: &'static Projection, check_only: bool) -> Result<bool, Error> {
    let started = Instant::now();
    let mut progress = None;
    let tell = |done: i64, total: i64| {
        let progress = progress
            .get_or_insert_with(|| TerminalProgress::new("positions", total.unsigned_abs()));
        progress.at(done.unsigned_abs());
    };
    let rebuilt = match check_only {
        true => projection::compare(log, projection, tell).await?,
        false => projection::rebuild(log, projection, tell).await?,
    };
    if let Some(progress) = progress {
        progress.end();
    }
    let seconds = started.elapsed().as_secs_f64();
    let compared = match rebuilt.differing {
        Some(0) => "equal to the live one".to_owned(),
        Some(n) if check_only => format!("DIFFERS: {n} rows are not as the log says"),
        Some(n) => format!("{n} rows were not as the log says, and are now"),
        None => "its SQL is new, so there was nothing to compare".to_owned(),
    };
    println!(
        "{}: {} positions in {seconds:.1} s ({:.0} a second), {compared}",
        projection.name,
        rebuilt.positions,
        rebuilt.folded as f64 / seconds.max(0.001),
    );
    Ok(!check_only || rebuilt.differing.is_none_or(|n| n == 0))
}
