//! `vitals import`: recorded readings, as history or as if they were live.
//!
//! Guarantees that every line of the files is counted as exactly one of stored,
//! duplicate, rejected or skipped, and that readings enter by the same door as all
//! others. Does not run the workers: a `vitals serve` on the same database hears of
//! what was stored.

mod back;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Error;
use super::database::Database;
use super::progress::Progress;
use crate::clock::Clock;
use crate::config::{Buckets, Common};
use crate::event::{Event, is_fhir_id};
use crate::ingest::file::{FileError, FileReading, Format, Recording, Row, Wearer, open};
use crate::ingest::{Draft, Ingest, Narrowing, accept};
use crate::log::{Archived, Log};
use crate::tasks::Tasks;

/// Rows handed over at once.
const ROWS_PER_CHUNK: usize = 2_000;
/// Chunks read ahead of those that wait for their commit, and those that wait.
const CHUNKS_AHEAD_MAX: usize = 8;
const CHUNKS_WAITING_MAX: usize = 8;
/// Readings played as live are held in memory, to bring them in order.
const LIVE_READINGS_MAX: usize = 5_000_000;
/// How often the live player looks what is due.
const TICK_MS: u64 = 10;
/// When the player is further behind than this, it slows down rather than send
/// readings that look late.
const SLIP_MS: i64 = 500;
/// Rejected lines that are told one by one.
const REJECTED_TOLD_MAX: u64 = 20;

/// Options of `vitals import`.
#[derive(Args)]
pub struct Options {
    /// What to read; gzip is understood
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// icu-csv, csv, ndjson or fit; parquet brings an archived month back
    #[arg(long)]
    format: Source,
    /// Who wore the watch that wrote a FIT file
    #[arg(long, value_name = "P")]
    patient: Option<String>,
    /// The watch that wrote a FIT file
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// Whose readings these are
    #[arg(long, default_value = "default")]
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
    Lines(Format),
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

/// What became of the lines.
#[derive(Default)]
struct Counts {
    stored: usize,
    duplicates: usize,
    rejected: u64,
    skipped: u64,
}

impl Counts {
    fn reject(&mut self, line: u64, code: &str, detail: &str) {
        self.rejected += 1;
        if self.rejected <= REJECTED_TOLD_MAX {
            eprintln!("line {line}: {code}: {detail}");
        } else if self.rejected == REJECTED_TOLD_MAX + 1 {
            eprintln!("more lines are rejected; they are counted");
        }
    }
}

/// Imports.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    if !is_fhir_id(&options.tenant) {
        return Err("--tenant must match [A-Za-z0-9\\-.]{1,64}".into());
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
    for path in &options.files {
        open(path, &recording)?;
    }
    let database = Database::open(common).await?;
    let imported = async {
        let log = database.log(common, database.pool(8)).await?;
        let tasks = Tasks::default();
        let ingest = Ingest::start(&log, &tasks);
        let counts = match options.speed {
            Speed::Max => history(&options, &recording, ingest).await?,
            Speed::Times(times) => live(&options, &recording, &log, ingest, times).await?,
        };
        tasks.ended().await;
        log.wake().notify(log.pool()).await?;
        Ok::<Counts, Error>(counts)
    }
    .await;
    database.close().await?;
    let Counts { stored, duplicates, rejected, skipped } = imported?;
    println!("stored={stored} duplicates={duplicates} rejected={rejected} skipped={skipped}");
    Ok(ExitCode::SUCCESS)
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
            return Err(format!("{option} must match [A-Za-z0-9\\-.]{{1,64}}").into());
        }
    }
    Ok(Some(Wearer { patient_id, device_id }))
}

/// Some rows of a file, and how far into it they reach.
struct Chunk {
    readings: Vec<FileReading>,
    bad: Vec<(u64, &'static str, String)>,
    skipped: u64,
    bytes: u64,
}

/// Reads the files on a thread of its own, a bounded way ahead.
fn read(
    options: &Options,
    recording: &Recording,
) -> (mpsc::Receiver<Chunk>, JoinHandle<Result<(), FileError>>) {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
    let (files, recording) = (options.files.clone(), recording.clone());
    let reader = tokio::task::spawn_blocking(move || {
        let mut before = 0;
        for path in files {
            let mut rows = open(&path, &recording)?;
            loop {
                let mut chunk =
                    Chunk { readings: Vec::new(), bad: Vec::new(), skipped: 0, bytes: 0 };
                for row in rows.by_ref().take(ROWS_PER_CHUNK) {
                    match row? {
                        Row::Reading(reading) => chunk.readings.push(reading),
                        Row::Skipped => chunk.skipped += 1,
                        Row::Bad { line, code, detail } => chunk.bad.push((line, code, detail)),
                    }
                }
                chunk.bytes = before + rows.bytes_read();
                let last = chunk.readings.len() + chunk.bad.len() + chunk.skipped as usize == 0;
                // Nobody receives any more when the importer gave up.
                if last || sender.blocking_send(chunk).is_err() {
                    break;
                }
            }
            before += rows.bytes_read();
        }
        Ok(())
    });
    (chunks, reader)
}

fn bytes_of(options: &Options) -> u64 {
    let size = |path: &PathBuf| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
    options.files.iter().map(size).sum()
}

/// Recorded times are kept: it is history.
async fn history(
    options: &Options,
    recording: &Recording,
    ingest: Ingest,
) -> Result<Counts, Error> {
    let tenant: Arc<str> = options.tenant.as_str().into();
    let now = Clock::system().now();
    let mut counts = Counts::default();
    let mut progress = Progress::new("bytes", bytes_of(options));
    let (mut chunks, reader) = read(options, recording);
    let mut waiting = FuturesUnordered::new();
    loop {
        let chunk = tokio::select! {
            Some(stored) = waiting.next(), if !waiting.is_empty() => {
                count(&mut counts, stored)?;
                continue;
            }
            chunk = chunks.recv(), if waiting.len() < CHUNKS_WAITING_MAX => chunk,
        };
        let Some(chunk) = chunk else { break };
        progress.at(chunk.bytes);
        let times = (now, &ingest.archived());
        let events = judge(chunk, &tenant, times, &mut counts, |reading| reading.measured_at);
        if !events.is_empty() {
            let ingest = ingest.clone();
            waiting.push(async move { ingest.store(events).await });
        }
    }
    while let Some(stored) = waiting.next().await {
        count(&mut counts, stored)?;
    }
    progress.end();
    reader.await??;
    Ok(counts)
}

fn count(
    counts: &mut Counts,
    stored: Result<crate::ingest::Stored, crate::ingest::IngestError>,
) -> Result<(), Error> {
    let stored = stored?;
    counts.stored += stored.stored;
    counts.duplicates += stored.duplicates;
    Ok(())
}

fn judge(
    chunk: Chunk,
    tenant: &Arc<str>,
    (now, archived): (DateTime<Utc>, &Archived),
    counts: &mut Counts,
    measured_at: impl Fn(&FileReading) -> DateTime<Utc>,
) -> Vec<Event> {
    counts.skipped += chunk.skipped;
    for (line, code, detail) in chunk.bad {
        counts.reject(line, code, &detail);
    }
    let mut events = Vec::with_capacity(chunk.readings.len());
    for reading in &chunk.readings {
        let draft = Draft {
            patient_id: &reading.patient_id,
            device_id: &reading.device_id,
            vital: &reading.vital,
            value: reading.value,
            unit: reading.unit.as_deref(),
            measured_at: measured_at(reading),
            quality: reading.quality,
            context: reading.context.as_deref(),
        };
        match accept(draft, tenant, Narrowing::default(), now, archived) {
            Ok(event) => events.push(event),
            Err(fault) => counts.reject(reading.line, fault.code, &fault.detail),
        }
    }
    events
}

/// Played as live: every patient begins now, gaps are kept but shorter, and a
/// reading is measured when it is sent.
async fn live(
    options: &Options,
    recording: &Recording,
    log: &Log,
    ingest: Ingest,
    times: f64,
) -> Result<Counts, Error> {
    let tenant: Arc<str> = options.tenant.as_str().into();
    let clock = Clock::system();
    let mut counts = Counts::default();
    let readings = in_order(options, recording, &mut counts).await?;
    let mut progress = Progress::new("readings", readings.len() as u64);
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
        let mut chunk = Chunk { readings: Vec::new(), bad: Vec::new(), skipped: 0, bytes: 0 };
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
        let times = (now, &log.archived());
        let events = judge(chunk, &tenant, times, &mut counts, |reading| reading.measured_at);
        // One after the other: a patient's readings stay in order.
        count(&mut counts, ingest.store(events).await)?;
        log.wake().notify(log.pool()).await?;
        progress.at(sent);
    }
    progress.end();
    Ok(counts)
}

/// All readings by the time since their patient's first one.
async fn in_order(
    options: &Options,
    recording: &Recording,
    counts: &mut Counts,
) -> Result<Vec<(TimeDelta, FileReading)>, Error> {
    let (mut chunks, reader) = read(options, recording);
    let mut readings = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        counts.skipped += chunk.skipped;
        for (line, code, detail) in chunk.bad {
            counts.reject(line, code, &detail);
        }
        readings.extend(chunk.readings);
        if readings.len() > LIVE_READINGS_MAX {
            return Err(
                format!("more than {LIVE_READINGS_MAX} readings to play: split the files").into()
            );
        }
    }
    reader.await??;
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
