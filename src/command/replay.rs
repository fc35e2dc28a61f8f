//! `vitals replay`: a patient's events, in order, as NDJSON.

use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::StreamExt;

use super::Error;
use super::database::Database;
use crate::api::wire;
use crate::config::Common;
use crate::log::Log;
use crate::query::END_OF_TIME;
use crate::query::replay::{Range, replay};

/// Options of `vitals replay`.
#[derive(Args)]
pub struct Options {
    /// Whose events
    #[arg(long)]
    patient: String,
    /// Whose patient
    #[arg(long, default_value = "default")]
    tenant: String,
    /// From here on, RFC 3339
    #[arg(long, value_name = "T")]
    from: Option<DateTime<Utc>>,
    /// Until here, not included
    #[arg(long, value_name = "T")]
    to: Option<DateTime<Utc>>,
    /// Only what had been recorded by then
    #[arg(long, value_name = "T")]
    known_at: Option<DateTime<Utc>>,
}

/// Prints the events.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let printed = async {
        let log = Log::open(database.patient_pool(2), common.shards).await?;
        print(log, options).await
    }
    .await;
    database.close().await?;
    printed.map(|()| ExitCode::SUCCESS)
}

async fn print(log: Log, options: Options) -> Result<(), Error> {
    let range = Range {
        from: options.from.unwrap_or(DateTime::UNIX_EPOCH),
        to: options.to.unwrap_or(END_OF_TIME),
        known_at: options.known_at,
    };
    let mut events = std::pin::pin!(replay(log, options.tenant, options.patient, range));
    let mut out = BufWriter::new(stdout().lock());
    let written: std::io::Result<()> = loop {
        let Some(recorded) = events.next().await else { break out.flush() };
        let Some((_, body)) = wire::event(&recorded?) else { continue };
        if let Err(error) = writeln!(out, "{body}") {
            break Err(error);
        }
    };
    match written {
        // Whoever reads has enough, as "head" does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
