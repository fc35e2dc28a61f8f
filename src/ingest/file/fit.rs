//! FIT, which sport watches write: the heart rate of a recording.
//!
//! Guarantees that a file whose checksum is wrong, or that is cut short, is refused whole,
//! and that each record of it is answered for. Does not know who wore the watch: a FIT file
//! names nobody. Reads the whole file, which is bounded: an hour takes some tens of
//! kilobytes.

use std::fs::File;
use std::io::{self, Read};
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use fitparser::profile::MesgNum;
use fitparser::{FitDataRecord, Value};
use flate2::read::MultiGzDecoder;

use super::lines::GZIP_MAGIC;
use super::{FileError, FileReading, Row, Wearer};
use crate::vital::Vital;

/// The largest file that is read, unpacked.
const FIT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The records of a file, in its order.
pub(super) fn rows(
    path: &Path,
    mut file: File,
    wearer: &Wearer,
    bytes_read: &AtomicU64,
) -> Result<Vec<Row>, FileError> {
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
    let no_fit = |why| FileError::Fit { path: path.to_owned(), why };
    // To the library no file at all is a recording of nothing.
    if bytes.is_empty() {
        return Err(no_fit("it is empty".to_owned()));
    }
    // And some damaged headers make it panic.
    let records = catch_unwind(|| fitparser::from_bytes(&bytes))
        .map_err(|_| no_fit("its header says what cannot be".to_owned()))?
        .map_err(|why| no_fit(why.to_string()))?;
    let records = records.into_iter().filter(|record| record.kind() == MesgNum::Record);
    Ok((1..).zip(records).map(|(n, record)| row(&record, wearer, n)).collect())
}

fn row(record: &FitDataRecord, wearer: &Wearer, line: u64) -> Row {
    let field = |name: &str| {
        record.fields().iter().find(|field| field.name() == name).map(|field| field.value())
    };
    let bad = |code, detail: &str| Row::Bad { line, code, detail: detail.to_owned() };
    let Some(rate) = field("heart_rate") else { return Row::Skipped };
    let Value::UInt8(rate) = *rate else {
        return bad("not_a_number", "a heart rate is a whole number of beats a minute");
    };
    let Some(Value::Timestamp(at)) = field("timestamp") else {
        return bad("missing_field", "a record without a time: nobody knows when it was");
    };
    Row::Reading(FileReading {
        patient_id: wearer.patient_id.clone(),
        device_id: wearer.device_id.clone(),
        vital: Vital::HeartRate.name().to_owned(),
        value: f64::from(rate),
        unit: None,
        quality: None,
        measured_at: DateTime::<Utc>::from(*at),
        context: None,
        line,
    })
}
