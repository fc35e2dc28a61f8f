//! `vitals verify`: the hash chain, through table and archives, every projection against
//! the log, and the log against heads of it that were published elsewhere.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::anchor;
use super::database::Database;
use super::error::Error;
use super::progress::TerminalProgress;
use super::tenants::say_if_empty;
use crate::archive::{Access, Archives};
use crate::config::{Buckets, Common};
use crate::log::chain::{self, VerifyError};
use crate::log::{ArchivedMonth, Log, archived_months, exchange, roles};
use crate::projection::{self, Projection};

/// Options of `vitals verify`.
#[derive(Args)]
pub struct Options {
    /// Where the archived months are, if they were moved: a directory, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE")]
    archives: Option<String>,
    /// Heads of the log that were published (`vitals serve --anchor`): each must be there
    #[arg(long, value_name = "FILE")]
    anchor: Option<PathBuf>,
    #[command(flatten)]
    buckets: Buckets,
}

/// Checks everything; says the first position that is wrong.
pub async fn run(common: &Common, options: &Options) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let verified = async {
        let log = Log::open(database.owner_pool(4), common.shards).await?;
        say_if_empty(&log).await?;
        projection::install(&log).await?;
        verify(&log, options).await
    }
    .await;
    database.close().await?;
    let sound = verified?;
    println!("{}", if sound { "verified" } else { "NOT VERIFIED" });
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn verify(log: &Log, options: &Options) -> Result<bool, Error> {
    let mut sound = check_rights(log).await?;
    // A month that left in the middle would look like a crime.
    let mut session = log.pool().acquire().await?.detach();
    if !exchange::none_meanwhile(&mut session).await? {
        return Err("months are being archived or brought back: verify when that is over".into());
    }
    let months = archived_months(log.pool()).await?;
    let access = Access::from(&options.buckets);
    let mut archives = Archives::open(&months, options.archives.as_deref(), &access).await;
    for month in &months {
        sound &= check_archive(log, &archives, month).await?;
    }
    for shard in log.shards() {
        sound &= check_chain(log, &mut archives, shard).await?;
    }
    if let Some(path) = &options.anchor {
        sound &= anchor::check(log, path).await?;
    }
    // What no worker has folded yet would be compared with nothing.
    projection::catch_up(log).await?;
    for projection in &projection::ALL {
        sound &= check_projection(log, projection).await?;
    }
    Ok(sound)
}

/// Whether nobody has rights that they should not have.
async fn check_rights(log: &Log) -> Result<bool, Error> {
    let faults = roles::faults(log.pool()).await?;
    for fault in &faults {
        println!("rights: WRONG: {fault}: run vitals migrate");
    }
    if faults.is_empty() {
        let roles = roles::identity(&mut *log.pool().acquire().await?).await?;
        println!(
            "{}",
            match roles.has_roles {
                true => "rights: the service appends and folds, and may no more",
                false => "rights: nobody but the owner of the log (docs/operations.md)",
            }
        );
    }
    Ok(faults.is_empty())
}

/// Whether a shard's chain is whole.
async fn check_chain(log: &Log, archives: &mut Archives, shard: i16) -> Result<bool, Error> {
    let mut progress = TerminalProgress::new("events", 0);
    let walk = chain::verify_with(log.pool(), shard, archives, |n| progress.at(n)).await;
    progress.end();
    let walk = match walk {
        Ok(walk) => walk,
        Err(VerifyError::Unreadable(unreadable)) => {
            println!("chain of shard {shard}: NOT CHECKED: {unreadable}");
            return Ok(false);
        }
        Err(VerifyError::Database(error)) => return Err(error.into()),
    };
    let archived = match walk.archived {
        0 => String::new(),
        n => format!(" ({n} of them archived)"),
    };
    match &walk.broken {
        None => println!(
            "chain of shard {shard}: {} events{archived} in {} commits, intact",
            walk.events, walk.commits
        ),
        Some(broken) => println!("chain of shard {shard}: BROKEN: {broken}"),
    }
    Ok(walk.broken.is_none())
}

/// Whether a projection is the fold of the log.
async fn check_projection(log: &Log, projection: &Projection) -> Result<bool, Error> {
    let mut differing = 0;
    for shard in log.shards() {
        let (position, differences) = projection::check(log.pool(), projection, shard).await?;
        differing += differences.len();
        if let Some(first) = differences.first() {
            println!(
                "projection {}: shard {shard} at position {position}: {} should be {} and is {}",
                projection.name,
                first.key,
                first.expected.as_deref().unwrap_or("absent"),
                first.found.as_deref().unwrap_or("absent"),
            );
        }
    }
    let name = projection.name;
    match differing {
        0 => println!("projection {name}: as the log says"),
        _ => println!("projection {name}: DIFFERS: run vitals rebuild {name}"),
    }
    Ok(differing == 0)
}

/// Whether a month's file is the one that was archived. Its rows are the chain's matter.
async fn check_archive(
    log: &Log,
    archives: &Archives,
    month: &ArchivedMonth,
) -> Result<bool, Error> {
    let file = match archives.file(month.span) {
        Ok(file) => file,
        Err(unreadable) => {
            println!("{unreadable}");
            return Ok(false);
        }
    };
    let (span, location) = (month.span, file.location());
    let (ours, theirs) = (log.installation(), file.about.installation);
    if ours != theirs {
        println!(
            "archive of {span}: WRONG: {location} is of the installation {theirs}, and this is {ours}"
        );
        return Ok(false);
    }
    let hash = match file.hash().await {
        Ok(hash) => hash,
        Err(error) => {
            println!("the archive of {span} cannot be read: {error}");
            return Ok(false);
        }
    };
    if hash.as_slice() != month.file_hash {
        println!("archive of {span}: CHANGED: {location} is not the file that was written");
        return Ok(false);
    }
    println!("archive of {span}: {} rows, as they were written: {location}", month.rows);
    Ok(true)
}
