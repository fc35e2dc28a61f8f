//! `vitals parked` and `vitals resume`: patients that a consumer could not go on with.
//!
//! Guarantees that who is asked for is taken up by the workers, who know what they are
//! configured with, and that the answer says what became of it. Does not mend events.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::database::Database;
use super::error::Error;
use crate::clock::rfc3339;
use crate::config::Common;
use crate::consumer::{self, Parked};
use crate::event::NO_PATIENT;
use crate::log::Log;

/// How long the workers are waited for.
const WAIT_MS_MAX: u64 = 60_000;
const LOOK_MS: u64 = 100;

/// Options of `vitals resume`.
#[derive(Args)]
pub struct Options {
    /// The patient's id, or _tenant for what a tenant orders: its rules and silences
    #[arg(value_parser = stream)]
    patient: String,
    /// Of this tenant only
    #[arg(long, value_parser = crate::config::id)]
    tenant: Option<String>,
}

fn stream(text: &str) -> Result<String, String> {
    if text == NO_PATIENT { Ok(text.to_owned()) } else { crate::config::id(text) }
}

/// Lists who is parked.
pub async fn list(common: &Common) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let listed = async {
        let log = database.log(common, database.enduring_pool(1)).await?;
        let parked = consumer::parked(log.pool()).await?;
        if parked.is_empty() {
            println!("nobody is parked");
        }
        parked.iter().for_each(print);
        Ok::<(), Error>(())
    }
    .await;
    database.close().await?;
    listed.map(|()| ExitCode::SUCCESS)
}

fn print(parked: &Parked) {
    let Parked { shard, consumer, tenant, patient_id, position, reason, parked_at, .. } = parked;
    let at = rfc3339(*parked_at);
    println!(
        "{consumer}\t{tenant}/{patient_id}\tsince {at}, position {position} of shard {shard}: {reason}"
    );
}

/// Asks for a patient, and waits for what becomes of it.
pub async fn resume(common: &Common, options: &Options) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let resumed = async {
        let log = database.log(common, database.enduring_pool(1)).await?;
        ask(&log, options).await
    }
    .await;
    database.close().await?;
    resumed.map(|()| ExitCode::SUCCESS)
}

async fn ask(log: &Log, Options { patient, tenant }: &Options) -> Result<(), Error> {
    let asked = consumer::ask_to_resume(log.pool(), tenant.as_deref(), patient).await?;
    if asked == 0 {
        return Err(format!("nobody has parked {patient}: see vitals parked").into());
    }
    let started = Instant::now();
    loop {
        let mut left = consumer::parked(log.pool()).await?;
        left.retain(|p| {
            p.patient_id == *patient && tenant.as_deref().is_none_or(|only| only == p.tenant)
        });
        if left.is_empty() {
            println!("{patient} is taken up again by {asked} of those who had parked them");
            return Ok(());
        }
        if left.iter().all(|parked| !parked.resume) {
            left.iter().for_each(print);
            return Err(format!("{patient} is still parked: the reasons are above").into());
        }
        if started.elapsed() > Duration::from_millis(WAIT_MS_MAX) {
            let why =
                "it was asked for, and no worker has answered: vitals serve does it when it runs";
            return Err(why.into());
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
