//! `vitals import --format parquet`: archived months come back.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::archive::{self, Access, Brought, bring_back};
use crate::command::database::Database;
use crate::command::error::Error;
use crate::command::progress::TerminalProgress;
use crate::config::{Buckets, Common};
use crate::log::Log;

/// Brings the months of these files back.
pub(super) async fn run(
    common: &Common,
    files: &[PathBuf],
    buckets: &Buckets,
) -> Result<ExitCode, Error> {
    let access = Access::from(buckets);
    let database = Database::open(common).await?;
    let back = async {
        let log = database.log(common, database.owner_pool(5)).await?;
        let mut left = 0;
        for file in files {
            // A month that cannot come back spares the others.
            if let Err(error) = one(&log, file, &access).await {
                eprintln!("vitals: {error}");
                left += 1;
            }
        }
        Ok::<u64, Error>(left)
    }
    .await;
    database.close().await?;
    Ok(if back? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn one(log: &Log, file: &std::path::Path, access: &Access) -> Result<(), Error> {
    let location = file.to_str().ok_or("a path that is no text")?;
    // It is read from its end and in parts: a pipe has no end yet.
    if location == "-" || std::fs::metadata(file).is_ok_and(|m| !m.is_file()) {
        return Err(format!("{location}: a Parquet file is read from a file or a bucket").into());
    }
    let started = Instant::now();
    let mut progress = TerminalProgress::new("rows", 0);
    let under_way = |now: archive::ArchiveProgress| match now {
        archive::ArchiveProgress::Wrote(_, rows) | archive::ArchiveProgress::Compared(_, rows) => {
            progress.at(rows);
        }
    };
    let brought = bring_back(log, location, access, under_way).await?;
    progress.end();
    match brought {
        Brought::Back(span, rows) => {
            println!("{span}: {rows} rows are back, in {:.1} s", started.elapsed().as_secs_f64())
        }
        Brought::AlreadyHere(span) => println!("{span}: already here"),
    }
    Ok(())
}
