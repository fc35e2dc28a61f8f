//! What a recorded file may be written in and may say, and why it cannot be read.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, Utc};

/// Whose watch it was.
#[derive(Clone, Debug)]
pub struct Wearer {
    /// Who.
    pub patient_id: String,
    /// Which.
    pub device_id: String,
}

/// What lines are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `record_id,minute,parameter,value`, minutes since an epoch.
    IcuCsv,
    /// `patientId,deviceId,vital,value,unit,measuredAt`; an empty unit is the canonical one.
    Csv,
    /// One reading of the API a line.
    Ndjson,
}

impl FromStr for FileFormat {
    type Err = FileError;
    fn from_str(name: &str) -> Result<FileFormat, FileError> {
        match name {
            "icu-csv" => Ok(FileFormat::IcuCsv),
            "csv" => Ok(FileFormat::Csv),
            "ndjson" => Ok(FileFormat::Ndjson),
            _ => Err(FileError::Format(name.to_owned())),
        }
    }
}

/// What a line said.
#[derive(Clone, Debug, PartialEq)]
pub enum FileRow {
    /// A reading, not judged yet.
    Reading(FileReading),
    /// A reading was entered in error, says a line that the platform itself gave out.
    Retraction(FileRetraction),
    /// No reading, and no mistake either; what it is.
    Skipped(String),
    /// A line that cannot be read.
    Bad {
        /// Counted from 1, the header too.
        line: u64,
        /// Stable: `line_too_long`, `not_utf8`, `missing_column`, `extra_column`, and what is
        /// wrong with a reading at `POST /readings`: `unreadable_json`, `not_an_object`,
        /// `missing_field`, `not_a_string`, `not_a_number`, `invalid_time`, `invalid_reading`.
        code: &'static str,
        /// What is wrong and how to mend it.
        detail: String,
    },
}

/// A reading as the file has it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct FileReading {
    pub patient_id: String,
    pub device_id: String,
    pub vital: String,
    /// Finite.
    pub value: f64,
    /// `None` is the canonical unit.
    pub unit: Option<String>,
    pub quality: Option<f64>,
    pub measured_at: DateTime<Utc>,
    /// JSON text, as it stands in the file.
    pub context: Option<String>,
    /// Where it stands in the file, counted from 1.
    pub line: u64,
}

/// A retraction as the file has it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct FileRetraction {
    pub patient_id: String,
    pub device_id: String,
    pub vital: String,
    pub measured_at: DateTime<Utc>,
    pub reason: String,
    pub by: String,
    /// Where it stands in the file, counted from 1.
    pub line: u64,
}

/// Why a file cannot be read at all, or not on.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No such format.
    #[error("\"{0}\" is no format: use icu-csv, csv, ndjson, fit or parquet")]
    Format(String),
    /// It is not there, or not ours to read.
    #[error("{path}: cannot be opened: {source}", path = path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The first line is not the format's.
    #[error("{path}: the first line must be \"{expected}\", found {found}", path = path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// The format's header.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The file ended or broke half-way: a bad disk, a cut gzip.
    #[error("{path}: cannot be read on after line {line}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The last line that was read.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// Its checksum is wrong, or its end is missing, or it never was one.
    #[error("{path}: is no whole FIT file: {why}", path = path.display())]
    Fit {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}
