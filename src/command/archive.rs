//! `vitals archive`: months that are over leave the database as Parquet files.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::database::Database;
use super::error::Error;
use super::progress::TerminalProgress;
use crate::archive::{self, Access, ArchiveStore};
use crate::clock::Clock;
use crate::config::{Buckets, Common};
use crate::log::Log;
use crate::log::partition::Span;
use crate::projection;

/// Options of `vitals archive`.
#[derive(Args)]
pub struct Options {
    /// Archive the months before this one, as 2026-01
    #[arg(
        id = "archive_before",
        long = "before",
        env = "VITALS_ARCHIVE_BEFORE",
        value_name = "MONTH"
    )]
    before: Span,
    /// Where to: a directory, or s3://BUCKET/PREFIX
    #[arg(id = "archive_to", long = "to", env = "VITALS_ARCHIVE_TO", value_name = "PLACE")]
    to: String,
    #[command(flatten)]
    buckets: Buckets,
}

impl From<&Buckets> for Access {
    fn from(buckets: &Buckets) -> Access {
        Access { endpoint: buckets.s3_endpoint.clone(), allow_http: buckets.s3_allow_http }
    }
}

/// Archives.
pub async fn run(common: &Common, options: &Options) -> Result<ExitCode, Error> {
    let place = ArchiveStore::make(&options.to, &Access::from(&options.buckets))?;
    let database = Database::open(common).await?;
    let archived = async {
        let log = database.log(common, database.owner_pool(5)).await?;
        projection::renew(&log).await?;
        // What no worker has folded yet could not be folded any more.
        projection::catch_up(&log).await?;
        archive(&log, &place, options.before).await
    }
    .await;
    database.close().await?;
    archived.map(|()| ExitCode::SUCCESS)
}

async fn archive(log: &Log, place: &ArchiveStore, before: Span) -> Result<(), Error> {
    let mut progress = TerminalProgress::new("rows", 0);
    let (mut months, mut started) = (0, Instant::now());
    let under_way = |now: archive::ArchiveProgress| match now {
        archive::ArchiveProgress::Wrote(_, rows) | archive::ArchiveProgress::Compared(_, rows) => {
            progress.at(rows);
        }
    };
    let done = |month: &crate::log::ArchivedMonth| {
        months += 1;
        println!(
            "{}: {} rows in {:.1} s, {} bytes, {} kept in the database: {}",
            month.span,
            month.rows,
            started.elapsed().as_secs_f64(),
            month.bytes,
            month.kept,
            month.location,
        );
        started = Instant::now();
    };
    archive::archive(log, place, before, Clock::system().now(), under_way, done).await?;
    progress.end();
    if months == 0 {
        println!("no full month before {before}");
    }
    Ok(())
}
