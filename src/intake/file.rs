//! Readers of recorded files: `icu-csv`, `csv`, `ndjson` and `fit`, plain or gzipped.
//!
//! Guarantees that a file of lines, of any length, is read in constant memory, a line at a
//! time, and that every line is answered for: a reading, skipped on purpose, or bad
//! with its number and a way to mend it. A bad line never takes its neighbours with it. A
//! file is opened once and read once, so a pipe is as good as a file.
//!
//! Does not judge readings: an unknown vital, an odd id or a value out of range goes
//! through as it stands, to the one place that judges them all. Quoted fields are
//! understood, but a field cannot hold a line break.

mod contents;
mod fit;
mod lines;
mod row;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};

use self::fit::Fit;
use self::lines::{FileLine, FileLines};
use self::row::RowParser;
use self::row::fields::{RowFault, quoted};

pub use self::contents::{FileError, FileFormat, FileReading, FileRetraction, FileRow, Wearer};
pub use self::lines::LINE_BYTES_MAX;

/// What a file is, and what it does not say itself.
#[derive(Clone, Debug)]
pub enum Recording {
    /// Lines. The time is minute 0 of `icu-csv`; the other formats bring their own.
    Lines(FileFormat, DateTime<Utc>),
    /// A watch's.
    Fit(Wearer),
}

/// What stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Opens a file, or standard input, and reads its header. Gzip is told by its first bytes,
/// not the name.
pub fn open(path: &Path, recording: &Recording) -> Result<Rows, FileError> {
    let failed = |source| FileError::Open { path: path.to_owned(), source };
    let file = if path.as_os_str() == STANDARD_INPUT {
        File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?)
    } else {
        File::open(path).map_err(failed)?
    };
    let bytes_read = Arc::new(AtomicU64::new(0));
    let mut rows = Rows {
        path: path.to_owned(),
        source: match recording {
            Recording::Lines(format, epoch) => Source::Lines(
                FileLines::of_file(file, Arc::clone(&bytes_read)).map_err(failed)?,
                Box::new(RowParser::new(*format, *epoch)),
            ),
            Recording::Fit(wearer) => {
                Source::Fit(Box::new(Fit::open(path, file, wearer, &bytes_read)?))
            }
        },
        bytes_read,
    };
    rows.expect_header()?;
    Ok(rows)
}

/// How many bytes a file has on the disk, when it has a length: a pipe has none.
pub fn bytes_total(path: &Path) -> Option<u64> {
    let metadata = std::fs::metadata(path).ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// The rows of a file, in its order. Ends after the first [`FileError`].
pub struct Rows {
    path: PathBuf,
    bytes_read: Arc<AtomicU64>,
    source: Source,
}

enum Source {
    Lines(FileLines, Box<RowParser>),
    Fit(Box<Fit>),
    Ended,
}

impl Rows {
    /// How far the file has been read, in bytes on the disk (compressed ones of a
    /// gzip). Runs ahead of the rows by what is buffered.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    fn expect_header(&mut self) -> Result<(), FileError> {
        let Source::Lines(lines, parser) = &mut self.source else { return Ok(()) };
        let Some(expected) = parser.header() else { return Ok(()) };
        let found = match lines.advance() {
            Ok(FileLine::Text) if parser.is_header(lines.text()) => return Ok(()),
            Ok(FileLine::Text) => quoted(&String::from_utf8_lossy(lines.text())),
            Ok(FileLine::TooLong) => "a very long line".to_owned(),
            Ok(FileLine::End) => "an empty file".to_owned(),
            Err(source) => {
                return Err(FileError::Read {
                    path: self.path.clone(),
                    line: lines.number(),
                    source,
                });
            }
        };
        Err(FileError::Header { path: self.path.clone(), expected, found })
    }
}

impl Iterator for Rows {
    type Item = Result<FileRow, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (lines, parser) = match &mut self.source {
            Source::Lines(lines, parser) => (lines, parser),
            Source::Fit(records) => return records.next(),
            Source::Ended => return None,
        };
        let row = loop {
            match lines.advance() {
                Ok(FileLine::Text) if lines.text().trim_ascii().is_empty() => {}
                Ok(FileLine::Text) => break parser.row(lines.text(), lines.number()),
                Ok(FileLine::TooLong) => {
                    let detail = format!("longer than {LINE_BYTES_MAX} bytes: one reading a line");
                    break Err(RowFault::new("line_too_long", detail));
                }
                Ok(FileLine::End) => {
                    self.source = Source::Ended;
                    return None;
                }
                Err(source) => {
                    let (path, line) = (self.path.clone(), lines.number());
                    self.source = Source::Ended;
                    return Some(Err(FileError::Read { path, line, source }));
                }
            }
        };
        let line = lines.number();
        Some(Ok(row.unwrap_or_else(|RowFault { code, detail }| FileRow::Bad {
            line,
            code,
            detail,
        })))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// A file that is gone when the test is over.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8]) -> Scratch {
            let name = format!("vitals-recorded-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, bytes).unwrap();
            Scratch(path)
        }

        fn open(&self, format: FileFormat) -> Result<Rows, FileError> {
            let epoch = "2026-01-01T00:00:00Z".parse().unwrap();
            open(&self.0, &Recording::Lines(format, epoch))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const THREE_ROWS: &str = "record_id,minute,parameter,value\n\
        132539,7,HR,73\n132539,7,GCS,15\n\n132539,x,HR,73\n";

    #[test]
    fn plain_and_gzipped_files_read_alike_and_every_line_is_answered_for() {
        let mut all = Vec::new();
        for (name, bytes) in [
            ("plain.csv", THREE_ROWS.as_bytes().to_vec()),
            ("named.gz", THREE_ROWS.as_bytes().to_vec()),
            ("unnamed", gzip(THREE_ROWS.as_bytes())),
            ("crlf.csv", format!("\u{feff}{}", THREE_ROWS.replace('\n', "\r\n")).into_bytes()),
        ] {
            let file = Scratch::new(name, &bytes);
            let mut rows = file.open(FileFormat::IcuCsv).unwrap();
            all.push(rows.by_ref().map(Result::unwrap).collect::<Vec<FileRow>>());
            assert_eq!(Some(rows.bytes_read()), bytes_total(&file.0), "{name}");
            assert_eq!(bytes_total(&file.0), Some(bytes.len() as u64), "{name}");
        }
        let [
            FileRow::Reading(reading),
            FileRow::Skipped(parameter),
            FileRow::Bad { line: 5, code: "invalid_time", .. },
        ] = &all[0][..]
        else {
            panic!("{:?}", all[0])
        };
        assert_eq!((reading.value, reading.line, &**parameter), (73.0, 2, "GCS"));
        assert!(all.iter().all(|rows| *rows == all[0]));
    }

    #[test]
    fn a_missing_or_unknown_header_names_the_expected_one() {
        for (name, bytes, found) in [
            ("empty", "", "an empty file"),
            ("headless", "101,watch,heart_rate,80,,2026-01-01T00:00:00Z\n", "\"101,watch"),
            ("other", "patient,device,vital,value,unit,time\n", "\"patient,device"),
            ("short", "patientId,deviceId,vital,value\n", "\"patientId"),
            ("long", &"x".repeat(LINE_BYTES_MAX + 1), "very long"),
        ] {
            let error = Scratch::new(name, bytes.as_bytes()).open(FileFormat::Csv).err().unwrap();
            let message = error.to_string();
            assert!(message.contains("\"patientId,deviceId,vital,value,unit,measuredAt\""));
            assert!(message.contains(found), "{message}");
        }
        let quoted = r#""patientId","deviceId","vital","value","unit","measuredAt""#;
        assert!(Scratch::new("quoted", quoted.as_bytes()).open(FileFormat::Csv).is_ok());
    }

    #[test]
    fn a_cut_gzip_ends_with_an_error_and_not_as_if_it_were_whole() {
        let long: String = (0..5000).map(|i| format!("{i},{i},HR,{}\n", 40 + i % 90)).collect();
        let whole = gzip(format!("record_id,minute,parameter,value\n{long}").as_bytes());
        let file = Scratch::new("cut.gz", &whole[..whole.len() / 2]);
        let mut rows = file.open(FileFormat::IcuCsv).unwrap();
        let error = rows.by_ref().find_map(Result::err).unwrap();
        let FileError::Read { line, .. } = error else { panic!("{error}") };
        assert!((2..5000).contains(&line), "{line}");
        assert!(rows.next().is_none());
    }

    #[test]
    fn a_bad_line_leaves_its_neighbours_alone() {
        let mut bytes = b"{\"patientId\":\n".to_vec();
        bytes.extend_from_slice(b"\"\xff\"\n");
        bytes.extend_from_slice(&vec![b' '; 3 * LINE_BYTES_MAX]);
        bytes.extend_from_slice(
            b"\n{\"patientId\":\"101\",\"deviceId\":\"w\",\"vital\":\"heart_rate\",\"value\":80,\
              \"measuredAt\":\"2026-01-01T00:00:00Z\"}",
        );
        let rows: Vec<FileRow> = Scratch::new("bad.ndjson", &bytes)
            .open(FileFormat::Ndjson)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let codes: Vec<_> = rows
            .iter()
            .map(|row| match row {
                FileRow::Bad { line, code, .. } => (*line, *code),
                FileRow::Reading(reading) => (reading.line, "read"),
                other => panic!("{other:?}"),
            })
            .collect();
        let expect = [(1, "unreadable_json"), (2, "not_utf8"), (3, "line_too_long"), (4, "read")];
        assert_eq!(codes, expect);
    }

    #[test]
    fn a_fit_file_is_bounded_also_as_it_unpacks_and_not_read_in_part() {
        let wearer = || Wearer { patient_id: "p".into(), device_id: "d".into() };
        let refused = |name: &str, bytes: &[u8]| {
            let file = Scratch::new(name, bytes);
            open(&file.0, &Recording::Fit(wearer())).err().unwrap().to_string()
        };
        let large = vec![0; 17 * 1024 * 1024];
        for (name, bytes) in [("large.fit", large.clone()), ("large.fit.gz", gzip(&large))] {
            let said = refused(name, &bytes);
            assert!(said.contains(name) && said.contains("larger than"), "{said}");
        }
        let cut = gzip(&large[..100_000]);
        let said = refused("cut.fit.gz", &cut[..cut.len() / 2]);
        assert!(said.contains("cannot be opened"), "{said}");
        for bytes in [&b""[..], b"patientId,deviceId", b"\x0e\x10"] {
            assert!(refused("none.fit", bytes).contains("is no whole FIT file"), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_with_its_name() {
        let error = open(
            Path::new("/nowhere/x.csv"),
            &Recording::Lines(FileFormat::Csv, DateTime::UNIX_EPOCH),
        );
        let message = error.err().unwrap().to_string();
        assert!(message.starts_with("/nowhere/x.csv: cannot be opened"), "{message}");
        assert!(
            "xml".parse::<FileFormat>().unwrap_err().to_string().contains("icu-csv, csv, ndjson")
        );
    }
}
