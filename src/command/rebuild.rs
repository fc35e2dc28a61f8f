//! `vitals rebuild`: a projection, from the log.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::Error;
use super::database::Database;
use super::progress::Progress;
use crate::config::Common;
use crate::log::Log;
use crate::projection::{self, Projection};

/// Options of `vitals rebuild`.
#[derive(Args)]
pub struct Options {
    /// A projection's name, or "all"
    projection: String,
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
        let log = Log::open(database.patient_pool(4), common.shards).await?;
        projection::install(&log).await?;
        for projection in wanted {
            one(&log, projection).await?;
        }
        Ok::<(), Error>(())
    }
    .await;
    database.close().await?;
    rebuilt.map(|()| ExitCode::SUCCESS)
}

async fn one(log: &Log, projection: &'static Projection) -> Result<(), Error> {
    let started = Instant::now();
    let mut progress = None;
    let rebuilt = projection::rebuild(log, projection, |done, total| {
        let progress =
            progress.get_or_insert_with(|| Progress::new("positions", total.unsigned_abs()));
        progress.at(done.unsigned_abs());
    })
    .await?;
    if let Some(progress) = progress {
        progress.end();
    }
    let seconds = started.elapsed().as_secs_f64();
    let compared = match rebuilt.differing {
        Some(0) => "equal to the live one".to_owned(),
        Some(n) => format!("{n} rows were not as the log says, and are now"),
        None => "its SQL is new, so there was nothing to compare".to_owned(),
    };
    println!(
        "{}: {} positions in {seconds:.1} s ({:.0} a second), {compared}",
        projection.name,
        rebuilt.positions,
        rebuilt.positions as f64 / seconds.max(0.001),
    );
    Ok(())
}
