//! Whatever bytes come, by every way in: no panic, an answer for each item, in time.
//!
//! Good inputs are cut, doubled, mixed and altered, some thousand times a run and each run
//! differently; what failed is printed as the test fails. The FIT reader's records, behind
//! its checksum, have theirs beside it (`ingest/file/fit/tests.rs`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use serde_json::json;
use vitals::archive::{
    About, Access, ArchiveRow as Archived, File, ShardRange, StoredObject, Writer,
};
use vitals::auth::Caller;
use vitals::auth::Keys;
use vitals::clock::Clock;
use vitals::event::{Event, READING, Recorded};
use vitals::intake::file::{FileFormat, FileRow, Recording, Wearer, open};
use vitals::intake::{Batch, NdjsonLines, ParseError, parse};
use vitals::log::Archived as Months;
use vitals::vital::Vital;

use crate::support::server::SECRET;
use crate::support::{case, scratch_dir};

/// No input of some kilobytes takes longer, on a busy machine and unoptimised.
const CASE_MAX: Duration = Duration::from_secs(10);

const READING_JSON: &str = r#"{"patientId":"101","deviceId":"w","vital":"heart_rate","value":82.5,"unit":"/min","quality":0.9,"measuredAt":"2026-01-05T10:20:00.25Z","context":{"a":[1,"ä\n"]}}"#;
const RETRACTION_JSON: &str = r#"{"v":1,"vital":"spo2","deviceId":"w","measuredAt":"2026-01-05T10:20:00Z","reason":"off","by":"x","type":"reading_retracted","patientId":"p"}"#;

/// Pieces that mean something to one of the readers.
const PIECES: [&str; 26] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\n",
    "\r\n",
    "null",
    "1e999",
    "-0",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "good",
    "quality",
    "deviceQuality",
    "type",
    "reading_retracted",
    "\u{1f}\u{8b}",
    "....",
    ".FIT",
    "NaN",
    "9999-12-31T23:59:60Z",
    "eyJhbGciOiJub25lIn0",
];

#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Put(Index, usize),
    Cut(Index, Index),
    Double(Index, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let one = prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (any::<Index>(), 0..PIECES.len()).prop_map(|(at, piece)| Edit::Put(at, piece)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Cut(from, to)),
        1 => (any::<Index>(), 1..400_usize).prop_map(|(at, length)| Edit::Double(at, length)),
    ];
    proptest::collection::vec(one, 0..8)
}

/// A good input with edits, always of the same bytes for the same edits.
fn edited(good: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        match edit {
            Edit::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Edit::Put(at, piece) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, PIECES[*piece].bytes());
            }
            Edit::Cut(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                bytes.drain(from.min(to)..from.max(to));
            }
            Edit::Double(at, length) => {
                let at = at.index(bytes.len());
                let part = bytes[at..bytes.len().min(at + length)].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

/// Looks at so many edits of these inputs.
fn fuzz(cases: u32, corpus: &[Vec<u8>], mut look: impl FnMut(&[u8])) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let mut runner = TestRunner::new(config);
    let strategy = (0..corpus.len(), edits());
    let look = std::cell::RefCell::new(&mut look);
    let looked = runner.run(&strategy, |(which, edits)| {
        let bytes = edited(&corpus[which], &edits);
        let started = Instant::now();
        (look.borrow_mut())(&bytes);
        prop_assert!(started.elapsed() < CASE_MAX, "{} bytes took long", bytes.len());
        Ok(())
    });
    looked.unwrap();
}

fn now() -> DateTime<Utc> {
    "2026-02-01T00:00:00Z".parse().unwrap()
}

#[test]
fn any_json_body_is_refused_whole_or_each_of_its_items_is_answered_for() {
    let sender = Caller::operator("t".into());
    let corpus = [
        READING_JSON.to_owned(),
        format!("[{READING_JSON},{READING_JSON}]"),
        format!("[{READING_JSON},7,{{}},{RETRACTION_JSON}]"),
        "[".repeat(3_000),
    ]
    .map(String::into_bytes);
    fuzz(3_000, &corpus, |bytes| {
        let mut batch = Batch::new(&sender, now(), Months::default());
        let parsed = parse(bytes, &mut batch);
        let count = match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(serde_json::Value::Array(items)) => items.len(),
            Ok(serde_json::Value::Object(_)) => 1,
            // Out of its range a number is no value, and an item all the same.
            _ => return,
        };
        match parsed {
            Ok(()) => {
                assert_eq!(
                    (batch.items(), batch.accepted() + batch.rejected().len()),
                    (count, count)
                );
                assert!(batch.rejected().iter().all(|rejected| rejected.index < count));
            }
            Err(error) => assert!(matches!(error, ParseError::Empty), "{error}"),
        }
    });
}

#[test]
fn any_lines_are_each_answered_for_however_they_are_cut_into_packets() {
    let caller = Caller::operator("t".into());
    let corpus = [
        format!("{READING_JSON}\n{READING_JSON}\r\n\n{READING_JSON}"),
        format!("\u{feff}{READING_JSON}\n{{}}\n[]\n{RETRACTION_JSON}\n"),
    ]
    .map(String::into_bytes);
    fuzz(2_000, &corpus, |bytes| {
        let judged = |part: usize| {
            let mut batch = Batch::new(&caller, now(), Months::default());
            let mut lines = NdjsonLines::default();
            for mut bytes in bytes.chunks(part) {
                while lines.next(&mut bytes, &mut batch) {}
            }
            lines.last(&mut batch);
            (batch.items(), batch.accepted(), batch.rejected().to_vec())
        };
        let whole = judged(usize::MAX);
        assert_eq!(whole, judged(7));
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
        assert_eq!(whole.0, lines.count());
    });
}

/// A file of these bytes, read to its end; its rows.
fn rows(path: &PathBuf, bytes: &[u8], recording: &Recording) -> Option<Vec<FileRow>> {
    std::fs::write(path, bytes).unwrap();
    let mut rows = Vec::new();
    for row in open(path, recording).ok()? {
        rows.push(row.ok()?);
    }
    Some(rows)
}

#[test]
fn any_file_is_refused_or_each_of_its_lines_is_answered_for() {
    let path = scratch_dir().join("fuzzed");
    let csv = format!(
        "patientId,deviceId,vital,value,unit,quality,measuredAt,recordedAt,deviceQuality,context\n\
         101,w,heart_rate,82,/min,good,2026-01-05T10:20:00Z,2026-01-05T10:20:01Z,0.9,\"{}\"\n",
        r#"{""a"":1}"#
    );
    let icu = "record_id,minute,parameter,value\n1,0,HR,80\n1,1,GCS,15\n\n1,2,Temp,36.6\n";
    let ndjson =
        format!("{READING_JSON}\n{RETRACTION_JSON}\n{{\"type\":\"ALERT\",\"alertId\":\"x\"}}\n");
    let packed = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(ndjson.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    for (format, header, corpus) in [
        (FileFormat::Csv, 1, vec![csv.into_bytes()]),
        (FileFormat::IcuCsv, 1, vec![icu.as_bytes().to_vec()]),
        (FileFormat::Ndjson, 0, vec![ndjson.into_bytes(), packed]),
    ] {
        let recording = Recording::Lines(format, now());
        fuzz(1_000, &corpus, |bytes| {
            let Some(rows) = rows(&path, bytes, &recording) else { return };
            if bytes.starts_with(&[0x1f, 0x8b]) {
                return;
            }
            let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
            let lines = bytes.split(|b| *b == b'\n').skip(header);
            let lines = lines.filter(|line| !line.trim_ascii().is_empty());
            assert_eq!(rows.len(), lines.count());
        });
    }
    let wearer = Wearer { patient_id: "p".into(), device_id: "d".into() };
    let corpus = ["monitoring", "karoo", "trailing"]
        .map(|name| std::fs::read(case(&format!("fit/{name}.fit"))).unwrap());
    fuzz(1_000, &corpus, |bytes| {
        let said = rows(&path, bytes, &Recording::Fit(wearer.clone()));
        assert!(said.is_none_or(|rows| rows.len() <= bytes.len()));
    });
}

/// A small archive, as the platform writes it.
async fn archive(path: &str) -> Vec<u8> {
    let object = StoredObject::at(path, &Access::default()).unwrap();
    let mut writer = Writer::new(&object).unwrap();
    for position in 1..40 {
        let event = Event {
            tenant: "t".into(),
            patient_id: format!("p{}", position % 3),
            kind: READING.to_owned(),
            vital: Some(Vital::HeartRate),
            value: Some(80.0),
            quality: (position % 2 == 0).then_some(0.5),
            suspect: false,
            occurred_at: now(),
            source_id: "w".to_owned(),
            data: (position % 5 == 0).then(|| "{}".to_owned()),
        };
        let recorded = Recorded { shard: 0, position, recorded_at: now(), event };
        writer.add(Archived { recorded, kept: position == 39 }).await.unwrap();
    }
    let written = writer.finish(|rows, hash| About {
        v: 1,
        installation: uuid::Uuid::nil(),
        partition: "reading_2026_01".to_owned(),
        month: "2026-01".to_owned(),
        rows,
        rows_hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        shards: vec![ShardRange {
            shard: 0,
            rows,
            first: 1,
            last: 39,
            chain_before: String::new(),
            chain_after: String::new(),
        }],
    });
    written.await.unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn any_archive_is_refused_or_read_as_many_rows_as_it_says() {
    let path = scratch_dir().join("fuzzed.parquet");
    let location = path.to_str().unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let good = runtime.block_on(archive(&location));
    let look = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        runtime.block_on(async {
            let object = StoredObject::at(&location, &Access::default()).unwrap();
            let Ok(file) = File::open(object).await else { return };
            for group in &file.groups {
                if let Ok(rows) = file.read(*group).await {
                    assert!(rows.len() as u64 <= group.rows, "{} rows", rows.len());
                }
            }
        });
    };
    // What a footer says is believed first, so each of its bytes is altered once. Its length
    // stands before the last four bytes.
    let (_, length) = good[..good.len() - 4].split_last_chunk::<4>().unwrap();
    let footer = good.len() - 8 - u32::from_le_bytes(*length) as usize;
    for at in footer..good.len() {
        for flipped in [0x01, 0x40, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flipped;
            look(&bytes);
        }
    }
    fuzz(500, &[good], look);
}

#[test]
fn any_token_is_refused_unless_it_is_the_one_that_was_signed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keys = Keys::hs256(SECRET.as_bytes(), Clock::system()).unwrap();
    let claims = json!({
        "iss": "vitals", "aud": "vitals", "sub": "s", "tenant": "t", "scope": "vitals:read",
        "exp": 4_000_000_000_i64,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let good = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    let caller =
        |token: &[u8]| Some(runtime.block_on(keys.caller(std::str::from_utf8(token).ok()?)));
    assert!(caller(good.as_bytes()).unwrap().is_ok());
    fuzz(2_000, &[good.clone().into_bytes()], |token| {
        let Some(caller) = caller(token) else { return };
        let same = token == good.as_bytes();
        assert_eq!(caller.is_ok(), same, "{:?}", String::from_utf8_lossy(token));
    });
}
