//! `vitals replay`: a patient's events, in order, as NDJSON.
//!
//! Guarantees that no event at all is not silence: it is an error that says what there is.

use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;

use super::database::Database;
use super::error::Error;
use super::tenants::nothing_of;
use crate::config::Common;
use crate::log::Log;
use crate::query::END_OF_TIME;
use crate::query::export::{ExportError, export};
use crate::query::lines::NdjsonWriter;
use crate::query::replay::{ReplayedRange, check};
use crate::query::state::is_known;

/// Held before it is written.
const OUT_BYTES: usize = 256 * 1024;

/// Options of `vitals replay`.
#[derive(Args)]
pub struct Options {
    /// Whose events
    #[arg(long, value_parser = crate::config::id)]
    patient: String,
    /// Whose patient
    #[arg(long, value_parser = crate::config::id, default_value = "default")]
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
        let log = database.log(common, database.enduring_pool(2)).await?;
        print(log, options).await
    }
    .await;
    database.close().await?;
    printed.map(|()| ExitCode::SUCCESS)
}

async fn print(log: Log, options: Options) -> Result<(), Error> {
    let range = ReplayedRange {
        from: options.from.unwrap_or(DateTime::UNIX_EPOCH),
        to: options.to.unwrap_or(END_OF_TIME),
        known_at: options.known_at,
        after: None,
    };
    let (tenant, patient_id) = (&options.tenant, &options.patient);
    // What needs an archived month says so before its first line.
    check(&log, tenant, patient_id, range.clone()).await?;
    let mut printed = false;
    let mut lines = NdjsonWriter::new(log.shard_of(tenant, patient_id), tenant, patient_id);
    let mut out = BufWriter::with_capacity(OUT_BYTES, stdout().lock());
    let exported = export(&log, tenant, patient_id, &range, |row| {
        printed = true;
        out.write_all(lines.line(&row)?)
    });
    let written = match exported.await {
        Ok(()) => out.flush(),
        Err(ExportError::Taken(error)) => Err(error),
        Err(ExportError::Unanswered(error)) => return Err(error.into()),
    };
    if !printed {
        if let Some(said) = nothing_of(&log, tenant).await? {
            return Err(said.into());
        }
        if !is_known(&log, tenant, patient_id).await? {
            return Err(format!("the tenant {tenant} has no patient {patient_id}").into());
        }
        eprintln!("the patient {patient_id} has nothing of that time");
    }
    match written {
        // Whoever reads has enough, as "head" does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            // What is still held would meet the same broken pipe.
            drop(out.into_parts());
            Ok(())
        }
        result => Ok(result?),
    }
}
