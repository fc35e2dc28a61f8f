//! The files of an import, one after the other, a bounded way ahead of who takes them.
//!
//! Guarantees that each is opened once and read once, so that a pipe is as good as a file;
//! that one which cannot be read spares the others; and a bound of what is held.

use std::iter;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::counts::Skipped;
use crate::intake::file::{
    FileError, FileReading, FileRetraction, FileRow, Recording, Rows, bytes_total, open,
};

/// Rows handed over at once.
pub(super) const ROWS_PER_CHUNK: usize = 2_000;
/// Texts of rows handed over at once, unless a row alone has more.
const TEXT_BYTES_PER_CHUNK: usize = 4 * 1024 * 1024;
/// Chunks read ahead of those that wait for their commit.
const CHUNKS_AHEAD_MAX: usize = 8;

/// Some rows of a file, and how far into the files they reach.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) readings: Vec<FileReading>,
    pub(super) retractions: Vec<FileRetraction>,
    pub(super) bad: Vec<(u64, &'static str, String)>,
    pub(super) skipped: Skipped,
    pub(super) bytes: u64,
    /// Why the file ends here, or why there is nothing of it.
    pub(super) unread: Option<FileError>,
}

impl Chunk {
    /// How much text it holds.
    fn take(&mut self, row: FileRow) -> usize {
        match row {
            FileRow::Reading(reading) => {
                let texts = [&reading.patient_id, &reading.device_id, &reading.vital];
                let more = [&reading.unit, &reading.context];
                let bytes = texts.into_iter().chain(more.into_iter().flatten()).map(String::len);
                let bytes = bytes.sum();
                self.readings.push(reading);
                bytes
            }
            FileRow::Retraction(retraction) => {
                let bytes = retraction.reason.len();
                self.retractions.push(retraction);
                bytes
            }
            FileRow::Bad { line, code, detail } => {
                let bytes = detail.len();
                self.bad.push((line, code, detail));
                bytes
            }
            FileRow::Skipped(name) => {
                self.skipped.add(name, 1);
                0
            }
        }
    }
}

/// Files, the first of them open.
pub(super) struct Files {
    opened: Box<dyn Iterator<Item = Result<Rows, FileError>> + Send>,
    /// How many bytes there are to read; 0 where a pipe is among them.
    pub(super) bytes_total: u64,
}

impl Files {
    /// Opens the first file. Where there is no other, what is wrong with it is said at once:
    /// nothing has to be started for it.
    pub(super) fn open(mut files: Vec<PathBuf>, recording: Recording) -> Result<Files, FileError> {
        let bytes_total = files.iter().map(|path| bytes_total(path)).sum::<Option<u64>>();
        let others = files.split_off(files.len().min(1));
        let mut opened: Vec<_> = files.iter().map(|path| open(path, &recording)).collect();
        if others.is_empty()
            && let Some(Err(_)) = opened.first()
            && let Some(Err(error)) = opened.pop()
        {
            return Err(error);
        }
        let others = others.into_iter().map(move |path| open(&path, &recording));
        let opened = Box::new(opened.into_iter().chain(others));
        Ok(Files { opened, bytes_total: bytes_total.unwrap_or(0) })
    }

    /// Reads them on a thread of its own.
    pub(super) fn read(self) -> (mpsc::Receiver<Chunk>, JoinHandle<()>) {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
        let reader = tokio::task::spawn_blocking(move || {
            let mut before = 0;
            for rows in self.opened {
                let mut rows = match rows {
                    Ok(rows) => rows,
                    Err(error) => {
                        let chunk =
                            Chunk { bytes: before, unread: Some(error), ..Chunk::default() };
                        if sender.blocking_send(chunk).is_err() {
                            return;
                        }
                        continue;
                    }
                };
                for chunk in iter::from_fn(|| next_chunk(&mut rows, before)) {
                    // The receiver is gone when the importer gave up.
                    if sender.blocking_send(chunk).is_err() {
                        return;
                    }
                }
                before += rows.bytes_read();
            }
        });
        (chunks, reader)
    }
}

/// The next rows of a file; `None` when there are no more.
fn next_chunk(rows: &mut Rows, before: u64) -> Option<Chunk> {
    let mut chunk = Chunk::default();
    let (mut count, mut bytes) = (0, 0);
    while count < ROWS_PER_CHUNK && bytes < TEXT_BYTES_PER_CHUNK && chunk.unread.is_none() {
        match rows.next() {
            None => break,
            Some(Ok(row)) => bytes += chunk.take(row),
            Some(Err(error)) => chunk.unread = Some(error),
        }
        count += 1;
    }
    chunk.bytes = before + rows.bytes_read();
    (count > 0).then_some(chunk)
}
