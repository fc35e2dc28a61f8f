//! FIT, which sport watches write: the heart rates of a recording.
//!
//! Guarantees that only what a header and its checksum cover is read, that each message of
//! it is answered for, and that what cannot be read is named: a part that is cut short or
//! whose checksum is wrong is refused whole, parts before it are kept, and zeros after the
//! end are passed over. Does not know who wore the watch: a FIT file names nobody. Reads the
//! whole file, which is bounded: an hour takes some tens of kilobytes.

mod rates;
mod records;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use self::rates::{FitRates, WANTED};
use self::records::{BadRecords, Records};
use super::contents::{FileError, FileRow, Wearer};
use super::lines::GZIP_MAGIC;

/// The largest file that is read, unpacked.
const FIT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A header without a checksum of its own, the shortest, and what every header says.
const HEADER_BYTES_MIN: usize = 12;
const SIGNATURE: &[u8] = b".FIT";
const CHECKSUM_BYTES: usize = 2;

/// The rows of a file, in its order. Ends after the first error.
pub(super) struct Fit {
    path: PathBuf,
    bytes: Vec<u8>,
    wearer: Wearer,
    /// Where the records of the part that is being read lie.
    part: Range<usize>,
    records: Records,
    rates: FitRates,
    messages: u64,
    /// What a message has said, and was not taken yet.
    rows: VecDeque<FileRow>,
}

impl Fit {
    /// Reads the file, and looks whether its first part is whole.
    pub(super) fn open(
        path: &Path,
        mut file: File,
        wearer: &Wearer,
        bytes_read: &AtomicU64,
    ) -> Result<Fit, FileError> {
        let failed = |source| FileError::Open { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        file.by_ref().take(FIT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.starts_with(&GZIP_MAGIC) {
            let mut unpacked = Vec::new();
            let mut decoder = MultiGzDecoder::new(&*bytes).take(FIT_BYTES_MAX + 1);
            decoder.read_to_end(&mut unpacked).map_err(failed)?;
            bytes = unpacked;
        }
        if bytes.len() as u64 > FIT_BYTES_MAX {
            let what = format!("larger than {FIT_BYTES_MAX} bytes");
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, what)));
        }
        let mut fit = Fit {
            path: path.to_owned(),
            bytes,
            wearer: wearer.clone(),
            part: 0..0,
            records: Records::default(),
            rates: FitRates::new(wearer.clone()),
            messages: 0,
            rows: VecDeque::new(),
        };
        fit.begin(0)?;
        Ok(fit)
    }

    /// Begins with the part that lies at this byte.
    fn begin(&mut self, at: usize) -> Result<(), FileError> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        let records = records_of(rest).map_err(|why| self.no_fit(at, &why))?;
        self.part = at + records.start..at + records.end;
        // Each part stands alone: its definitions and its clocks are its own.
        self.records = Records::default();
        self.rates = FitRates::new(self.wearer.clone());
        Ok(())
    }

    fn no_fit(&self, at: usize, why: &str) -> FileError {
        let why = match at {
            0 => why.to_owned(),
            at => format!("after its first {at} bytes, which were read: {why}"),
        };
        FileError::Fit { path: self.path.clone(), why }
    }

    /// More rows, or none at the end.
    fn more(&mut self) -> Result<(), FileError> {
        while self.rows.is_empty() {
            let part = self.bytes.get(self.part.clone()).unwrap_or_default();
            match self.records.next(part, &WANTED) {
                Ok(Some(message)) => {
                    self.messages += 1;
                    self.rates.read(&message, self.messages, &mut self.rows);
                }
                Ok(None) => {
                    let end = self.bytes.len().min(self.part.end + CHECKSUM_BYTES);
                    let rest = &self.bytes[end..];
                    if self.messages == 0 && !self.bytes.is_empty() {
                        // It is told of whatever was read, also that there was nothing.
                        self.messages = 1;
                        self.rows.push_back(FileRow::Skipped("part without messages".to_owned()));
                    } else if rest.is_empty() {
                        return Ok(());
                    } else if rest.iter().all(|byte| *byte == 0) {
                        self.rows.push_back(FileRow::Skipped(format!(
                            "end that is {} zeros",
                            rest.len()
                        )));
                        self.bytes.truncate(end);
                    } else {
                        self.begin(end)?;
                    }
                }
                Err(BadRecords { at, why }) => {
                    return Err(self.no_fit(self.part.start + at, why));
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Fit {
    type Item = Result<FileRow, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.more() {
            self.bytes.clear();
            self.part = 0..0;
            return Some(Err(error));
        }
        self.rows.pop_front().map(Ok)
    }
}

/// Where the records of a part lie, which begins here: its header is one, all of it is
/// there, and the checksum is right.
fn records_of(bytes: &[u8]) -> Result<Range<usize>, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let header = usize::from(bytes[0]);
    if header < HEADER_BYTES_MIN || bytes.get(8..HEADER_BYTES_MIN) != Some(SIGNATURE) {
        return Err("that is no header of FIT".to_owned());
    }
    let size = bytes[4..8].iter().rev().fold(0, |size, byte| size << 8 | usize::from(*byte));
    let end = header + size;
    let Some(whole) = bytes.get(..end + CHECKSUM_BYTES) else {
        let (says, there) = (end + CHECKSUM_BYTES, bytes.len());
        return Err(format!("its header says {says} bytes, and {there} are there"));
    };
    // Over itself as well it comes to nothing.
    match checksum(whole) {
        0 => Ok(header..end),
        _ => Err("its checksum is wrong".to_owned()),
    }
}

/// The CRC-16 of FIT, which is that of ARC: polynomial 0x8005, reflected.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xa001,
            _ => crc >> 1,
        })
    })
}

#[cfg(test)]
mod tests;
