//! `vitals import`: recorded readings, as history or as if they were live.
//!
//! Guarantees that every line of the files is counted as exactly one of stored,
//! duplicate, rejected or skipped, that a file which cannot be read is named and spares the
//! others, and that readings enter as all others do. Does not run the
//! workers: a `vitals serve` on the same database hears of what was stored.

mod back;
mod counts;
mod files;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use self::counts::Counts;
use self::files::{Chunk, Files, ROWS_PER_CHUNK};
use super::database::Database;
use super::error::Error;
use super::progress::TerminalProgress;
use crate::auth::Caller;
use crate::clock::{Clock, truncate_to_micros};
use crate::config::{Buckets, Common};
use crate::event::{ID_RULE, READING_RETRACTED, is_fhir_id};
use crate::intake::file::{FileError, FileFormat, FileReading, FileRetraction, Recording, Wearer};
use crate::intake::{Draft, Intake, NotTaken, Outcome, Waiting, Why, Writers};
use crate::log::{AppendError, Log};
use crate::record::retract::{RetractError, Retraction, retract};
use crate::tasks::Tasks;

/// Chunks that wait for their commit.
const CHUNKS_WAITING_MAX: usize = 8;
/// Retractions are held in memory until their readings are stored.
const RETRACTIONS_MAX: usize = 100_000;
/// Readings played as live are held in memory, to bring them in order.
const LIVE_READINGS_MAX: usize = 5_000_000;
/// How often the live player looks what is due.
const TICK_MS: u64 = 10;
/// When the player is further behind than this, it slows down rather than send
/// readings that look late.
const SLIP_MS: i64 = 500;

/// Options of `vitals import`.
#[derive(Args)]
pub struct Options {
    /// What to read, "-" for standard input; gzip is understood
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// icu-csv, csv, ndjson or fit; parquet brings an archived month back
    #[arg(long)]
    format: Source,
    /// Who wore the watch that wrote a FIT file
    #[arg(long, value_name = "P", value_parser = crate::config::id)]
    patient: Option<String>,
    /// The watch that wrote a FIT file
    #[arg(long, value_name = "D", value_parser = crate::config::id)]
    device: Option<String>,
    /// Whose readings these are
    #[arg(long, value_parser = crate::config::id, default_value = "default")]
    tenant: String,
    /// Minute 0 of icu-csv
    #[arg(long, value_name = "T0", default_value = "2026-01-01T00:00:00Z")]
    epoch: DateTime<Utc>,
    /// "max" keeps the recorded times; a number plays it as live, so much faster
    #[arg(long, default_value = "max")]
    speed: Speed,
    #[command(flatten)]
    buckets: Buckets,
}

/// What the files are.
#[derive(Clone, Copy, Debug)]
enum Source {
    Lines(FileFormat),
    Fit,
    Parquet,
}

impl FromStr for Source {
    type Err = FileError;
    fn from_str(name: &str) -> Result<Source, FileError> {
        match name {
            "fit" => Ok(Source::Fit),
            "parquet" => Ok(Source::Parquet),
            name => name.parse().map(Source::Lines),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Speed {
    Max,
    Times(f64),
}

impl FromStr for Speed {
    type Err = String;
    fn from_str(text: &str) -> Result<Speed, String> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Speed::Max),
            Ok(times) if (0.001..=100_000.0).contains(&times) => Ok(Speed::Times(times)),
            _ => Err("use max, or a number within 0.001 and 100000".to_owned()),
        }
    }
}

/// Imports.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    if !is_fhir_id(&options.tenant) {
        return Err(format!("--tenant {ID_RULE}").into());
    }
    let recording = match (options.format, wearer(&options)?) {
        (Source::Fit, Some(wearer)) => Recording::Fit(wearer),
        (Source::Fit, None) => {
            return Err("a FIT file does not say whose it is: --patient P --device D".into());
        }
        (_, Some(_)) => return Err("--patient and --device are for --format fit".into()),
        (Source::Lines(format), None) => Recording::Lines(format, options.epoch),
        (Source::Parquet, None) => {
            return back::run(common, &options.files, &options.buckets).await;
        }
    };
    // Before the database is started for nothing.
    let files = Files::open(options.files, recording)?;
    let tenant: Arc<str> = options.tenant.as_str().into();
    let database = Database::open(common).await?;
    let imported = async {
        let log = database.log(common, database.pool(8)).await?;
        let tasks = Tasks::default();
        let intake = Intake::new(Writers::start(&log, &tasks), None, Clock::system());
        let counts = match options.speed {
            Speed::Max => history(files, &tenant, &log, intake).await?,
            Speed::Times(times) => live(files, &tenant, &log, intake, times).await?,
        };
        tasks.ended().await;
        log.wake().notify(log.pool()).await?;
        Ok::<Counts, Error>(counts)
    }
    .await;
    database.close().await?;
    let counts = imported?;
    counts.say(&tenant);
    Ok(if counts.unread == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whose watch it was, if that was said.
fn wearer(options: &Options) -> Result<Option<Wearer>, Error> {
    let (Some(patient_id), Some(device_id)) = (options.patient.clone(), options.device.clone())
    else {
        return match options.patient.is_none() && options.device.is_none() {
            true => Ok(None),
            false => Err("--patient and --device go together".into()),
        };
    };
    for (option, id) in [("--patient", &patient_id), ("--device", &device_id)] {
        if !is_fhir_id(id) {
            return Err(format!("{option} {ID_RULE}").into());
        }
    }
    Ok(Some(Wearer { patient_id, device_id }))
}

/// Recorded times are kept: it is history.
async fn history(
    files: Files,
    tenant: &Arc<str>,
    log: &Log,
    intake: Intake,
) -> Result<Counts, Error> {
    let operator = Caller::operator(tenant.clone());
    let mut counts = Counts::default();
    let mut progress = TerminalProgress::new("bytes", files.bytes_total);
    let (mut chunks, reader) = files.read();
    let (mut waiting, mut retractions) = (FuturesUnordered::new(), Vec::new());
    loop {
        let chunk = tokio::select! {
            Some((outcome, lines)) = waiting.next(), if !waiting.is_empty() => {
                count(&mut counts, outcome, lines)?;
                continue;
            }
            chunk = chunks.recv(), if waiting.len() < CHUNKS_WAITING_MAX => chunk,
        };
        let Some(mut chunk) = chunk else { break };
        progress.at(chunk.bytes);
        retractions.append(&mut chunk.retractions);
        if retractions.len() > RETRACTIONS_MAX {
            return Err(format!("more than {RETRACTIONS_MAX} retractions: split the files").into());
        }
        let readings = counted(chunk, &mut counts);
        waiting.push(submit(&intake, &operator, readings));
    }
    while let Some((outcome, lines)) = waiting.next().await {
        count(&mut counts, outcome, lines)?;
    }
    progress.end();
    reader.await?;
    for retraction in retractions {
        take_back(log, tenant, retraction, &mut counts).await?;
    }
    Ok(counts)
}

/// Retracts a reading, as was done where the file comes from.
async fn take_back(
    log: &Log,
    tenant: &str,
    said: FileRetraction,
    counts: &mut Counts,
) -> Result<(), Error> {
    let ids = [&said.patient_id, &said.device_id];
    let fits = ids.into_iter().all(|id| is_fhir_id(id))
        && ![&said.reason, &said.by].into_iter().any(|text| text.contains('\0'));
    let Some(vital) = said.vital.parse().ok().filter(|_| fits) else {
        counts.reject(said.line, "invalid_retraction", "it names no reading that there can be");
        return Ok(());
    };
    let retraction = Retraction {
        patient_id: said.patient_id,
        vital,
        device_id: said.device_id,
        measured_at: truncate_to_micros(said.measured_at),
        reason: said.reason,
        by: said.by,
    };
    match retract(log, tenant, &retraction).await {
        Ok(retracted) if retracted.again => counts.duplicates += 1,
        Ok(_) => counts.stored += 1,
        Err(error @ RetractError::Append(AppendError::Database(_))) => return Err(error.into()),
        Err(error) => counts.reject(said.line, "no_such_reading", &error.to_string()),
    }
    Ok(())
}

/// What became of readings, which stood on these lines.
fn count(
    counts: &mut Counts,
    outcome: Result<Outcome, NotTaken>,
    lines: Vec<u64>,
) -> Result<(), Error> {
    let Outcome { stored, duplicates, rejected } = outcome.map_err(|not_taken| {
        Error::from(match not_taken.why {
            Why::Denied(denied) => denied.to_string(),
            Why::Limited(limited) => limited.detail,
            Why::Unwritten(error) => error.to_string(),
        })
    })?;
    counts.stored += stored;
    counts.duplicates += duplicates.len();
    for rejected in rejected {
        counts.reject(lines[rejected.index], rejected.code, &rejected.detail);
    }
    Ok(())
}

/// The readings of a chunk; what else it has is counted.
fn counted(chunk: Chunk, counts: &mut Counts) -> Vec<FileReading> {
    counts.skipped.add_all(chunk.skipped);
    for (line, code, detail) in chunk.bad {
        counts.reject(line, code, &detail);
    }
    if let Some(error) = chunk.unread {
        counts.unread(&error);
    }
    chunk.readings
}

/// Hands readings in, as every adapter does; what became of them, and the lines on which
/// they stood.
fn submit<'a>(
    intake: &'a Intake,
    operator: &'a Caller,
    readings: Vec<FileReading>,
) -> impl Future<Output = (Result<Outcome, NotTaken>, Vec<u64>)> + use<'a> {
    let mut batch = intake.batch(operator);
    for reading in &readings {
        batch.add(Ok(Draft {
            patient_id: Some(&reading.patient_id),
            device_id: &reading.device_id,
            vital: &reading.vital,
            value: reading.value,
            unit: reading.unit.as_deref(),
            measured_at: reading.measured_at,
            quality: reading.quality,
            context: reading.context.as_deref(),
        }));
    }
    let lines = readings.iter().map(|reading| reading.line).collect();
    async move { (intake.submit(batch, Waiting::None).await, lines) }
}

/// Played as live: every patient begins now, gaps are kept but shorter, and a
/// reading is measured when it is sent.
async fn live(
    files: Files,
    tenant: &Arc<str>,
    log: &Log,
    intake: Intake,
    times: f64,
) -> Result<Counts, Error> {
    let clock = Clock::system();
    let operator = Caller::operator(tenant.clone());
    let mut counts = Counts::default();
    let readings = in_order(files, &mut counts).await?;
    let mut progress = TerminalProgress::new("readings", readings.len() as u64);
    let mut start = clock.now();
    let mut readings = readings.into_iter().peekable();
    let mut sent = 0;
    while readings.peek().is_some() {
        let now = clock.now();
        let due = |offset: TimeDelta, start: DateTime<Utc>| {
            let micros = offset.num_microseconds().unwrap_or(i64::MAX) as f64 / times;
            start + TimeDelta::microseconds(micros as i64)
        };
        if let Some((offset, _)) = readings.peek() {
            let late = now - due(*offset, start);
            if late > TimeDelta::milliseconds(SLIP_MS) {
                start += late;
            }
        }
        let mut chunk = Chunk::default();
        while chunk.readings.len() < ROWS_PER_CHUNK
            && let Some((offset, mut reading)) = readings.next_if(|(at, _)| due(*at, start) <= now)
        {
            reading.measured_at = due(offset, start);
            chunk.readings.push(reading);
        }
        if chunk.readings.is_empty() {
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            continue;
        }
        sent += chunk.readings.len() as u64;
        // One after the other: a patient's readings stay in order.
        let (outcome, lines) = submit(&intake, &operator, chunk.readings).await;
        count(&mut counts, outcome, lines)?;
        log.wake().notify(log.pool()).await?;
        progress.at(sent);
    }
    progress.end();
    Ok(counts)
}

/// All readings by the time since their patient's first one.
async fn in_order(
    files: Files,
    counts: &mut Counts,
) -> Result<Vec<(TimeDelta, FileReading)>, Error> {
    let (mut chunks, reader) = files.read();
    let mut readings = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        // Of other times than those at which the readings are played.
        let retractions = chunk.retractions.len() as u64;
        counts.skipped.add(READING_RETRACTED.to_owned(), retractions);
        readings.extend(counted(chunk, counts));
        if readings.len() > LIVE_READINGS_MAX {
            return Err(
                format!("more than {LIVE_READINGS_MAX} readings to play: split the files").into()
            );
        }
    }
    reader.await?;
    let mut first = std::collections::HashMap::new();
    for reading in &readings {
        let at = first.entry(reading.patient_id.clone()).or_insert(reading.measured_at);
        *at = reading.measured_at.min(*at);
    }
    let mut readings: Vec<(TimeDelta, FileReading)> = readings
        .into_iter()
        .map(|reading| {
            let first = first.get(&reading.patient_id).copied().unwrap_or(reading.measured_at);
            (reading.measured_at - first, reading)
        })
        .collect();
    readings.sort_by_key(|(offset, _)| *offset);
    Ok(readings)
}
