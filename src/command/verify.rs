//! `vitals verify`: the hash chain, and every projection against the log.

use std::process::ExitCode;

use clap::Args;

use super::Error;
use super::database::Database;
use super::progress::Progress;
use crate::config::Common;
use crate::log::{Log, chain};
use crate::projection;

/// Options of `vitals verify`.
#[derive(Args)]
pub struct Options {}

/// Checks everything; says the first position that is wrong.
pub async fn run(common: &Common, _options: &Options) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let verified = async {
        let log = Log::open(database.patient_pool(4), common.shards).await?;
        projection::install(&log).await?;
        verify(&log).await
    }
    .await;
    database.close().await?;
    let sound = verified?;
    println!("{}", if sound { "verified" } else { "NOT VERIFIED" });
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn verify(log: &Log) -> Result<bool, Error> {
    let mut sound = true;
    for shard in log.shards() {
        let mut progress = Progress::new("events", 0);
        let walk = chain::verify(log.pool(), shard, |events| progress.at(events)).await?;
        progress.end();
        match walk.broken {
            None => println!(
                "chain of shard {shard}: {} events in {} commits, intact",
                walk.events, walk.commits
            ),
            Some(broken) => {
                sound = false;
                println!("chain of shard {shard}: BROKEN: {broken}");
            }
        }
    }
    // What no worker has folded yet would be compared with nothing.
    projection::catch_up(log).await?;
    for projection in &projection::ALL {
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
        match differing {
            0 => println!("projection {}: as the log says", projection.name),
            _ => {
                sound = false;
                println!(
                    "projection {}: DIFFERS: run vitals rebuild {}",
                    projection.name, projection.name
                );
            }
        }
    }
    Ok(sound)
}
