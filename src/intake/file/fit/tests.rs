//! FIT files made by hand, byte by byte as the profile says.

use proptest::prelude::*;

use super::*;
use crate::clock::rfc3339;

/// 2026-11-20T08:00:00Z in seconds of FIT.
const TIME: u32 = 0x4562_b200;

/// A definition of little-endian fields: number, size, base type.
fn define(local: u8, number: u16, fields: &[[u8; 3]]) -> Vec<u8> {
    let mut bytes = vec![0x40 | local, 0, 0];
    bytes.extend(number.to_le_bytes());
    bytes.push(fields.len() as u8);
    bytes.extend(fields.concat());
    bytes
}

/// A part of a file, with a header of 12 bytes and its checksum.
fn part(records: &[u8]) -> Vec<u8> {
    let mut bytes = vec![12, 0x20, 0x54, 0x08];
    bytes.extend((records.len() as u32).to_le_bytes());
    bytes.extend(SIGNATURE);
    bytes.extend(records);
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

fn rows(bytes: &[u8]) -> Vec<Result<FileRow, FileError>> {
    let name = format!("vitals-fit-{}-{}", std::process::id(), uuid::Uuid::new_v4());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let wearer = Wearer { patient_id: "p".into(), device_id: "d".into() };
    let opened = Fit::open(&path, File::open(&path).unwrap(), &wearer, &AtomicU64::new(0));
    std::fs::remove_file(&path).unwrap();
    match opened {
        Ok(fit) => fit.collect(),
        Err(error) => vec![Err(error)],
    }
}

/// What each row says, shortly.
fn said(bytes: &[u8]) -> Vec<String> {
    let say = |row: Result<FileRow, FileError>| match row {
        Ok(FileRow::Reading(r)) => format!("{} {}", r.value, rfc3339(r.measured_at)),
        Ok(FileRow::Bad { code, .. }) => code.to_owned(),
        Ok(FileRow::Skipped(name)) => name,
        Ok(other) => panic!("{other:?}"),
        Err(error) => format!("error: {}", error.to_string().split(": ").last().unwrap()),
    };
    rows(bytes).into_iter().map(say).collect()
}

/// `record` with a time and a heart rate, and two of them.
fn two_records() -> Vec<u8> {
    let mut records = define(0, 20, &[[253, 4, 0x86], [3, 1, 2]]);
    for (n, rate) in [(0, 70), (1, 71)] {
        records.push(0);
        records.extend((TIME + n).to_le_bytes());
        records.push(rate);
    }
    records
}

const TWO: [&str; 2] = ["70 2026-11-20T08:00:00Z", "71 2026-11-20T08:00:01Z"];

#[test]
fn a_strap_tells_its_beats_by_its_own_clock() {
    // A time and a half, at tick 1000 of the strap; then rates at ticks of it.
    let mut records = define(0, 132, &[[253, 4, 0x86], [0, 2, 0x84], [9, 4, 0x86], [6, 1, 2]]);
    records.push(0);
    records.extend(TIME.to_le_bytes());
    records.extend(0x4000_u16.to_le_bytes());
    records.extend(1_000_u32.to_le_bytes());
    records.push(60);
    records.extend(define(1, 132, &[[6, 3, 2], [9, 12, 0x86]]));
    records.push(1);
    records.extend([61, 62, 0xff]);
    for ticks in [1_000 + 1_024_u32, 1_000 + 2_560, 0] {
        records.extend(ticks.to_le_bytes());
    }
    // Twelve bits of them, which begin again: 3560 is 0xde8, then 0xfff and 0x001.
    records.extend(define(2, 132, &[[6, 2, 2], [10, 3, 0x0d]]));
    records.extend([2, 63, 64, 0xff, 0x1f, 0x00]);
    let mut expected = vec![
        "60 2026-11-20T08:00:00.500Z".to_owned(),
        "61 2026-11-20T08:00:01.500Z".to_owned(),
        "62 2026-11-20T08:00:03Z".to_owned(),
    ];
    // The third place has no rate, but its tick is the last that was told: from 0 on.
    let at = |ticks: i64| {
        let micros = (i64::from(TIME) + 631_065_600) * 1_000_000
            + 500_000
            + (ticks - 1_000) * 1_000_000 / 1_024;
        rfc3339(chrono::DateTime::from_timestamp_micros(micros).unwrap())
    };
    expected.extend([format!("63 {}", at(4_095)), format!("64 {}", at(4_097))]);
    assert_eq!(said(&part(&records)), expected);

    // Without a clock nobody knows when it was; without rates nothing was said.
    let mut records = define(1, 132, &[[6, 2, 2], [9, 8, 0x86]]);
    records.extend([1, 61, 0xff, 1, 0, 0, 0, 2, 0, 0, 0]);
    records.extend([1, 0xff, 0xff, 1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(said(&part(&records)), ["missing_field", "hr without a heart rate"]);
}

#[test]
fn times_are_whole_short_or_the_lower_half_of_one() {
    let mut records = two_records();
    // Five bits: 0x00 + 30 is half a minute on, and 2 is after that.
    records.extend(define(1, 20, &[[3, 1, 2]]));
    records.extend([0x80 | 1 << 5 | 30, 72, 0x80 | 1 << 5 | 2, 73, 1, 74]);
    // Sixteen bits, which begin again after 18 hours; big-endian.
    records.extend([0x42, 0, 1, 0, 55, 2, 26, 2, 0x84, 27, 1, 2]);
    records.extend([2, 0xb2, 0x3c, 75, 2, 0x00, 0x00, 76, 2, 0xff, 0xfe, 77]);
    let mut expected = TWO.map(str::to_owned).to_vec();
    expected.extend([
        "72 2026-11-20T08:00:30Z".to_owned(),
        "73 2026-11-20T08:00:34Z".to_owned(),
        "missing_field".to_owned(),
        "75 2026-11-20T08:01:00Z".to_owned(),
    ]);
    let at = |time: u32| {
        let seconds = i64::from(time) + 631_065_600;
        rfc3339(chrono::DateTime::from_timestamp(seconds, 0).unwrap())
    };
    expected.extend([format!("76 {}", at(0x4563_0000)), format!("77 {}", at(0x4563_fffe))]);
    assert_eq!(said(&part(&records)), expected);
    // A half before any time is no time.
    let lone = [define(0, 55, &[[26, 2, 0x84], [27, 1, 2]]), vec![0, 1, 0, 75]].concat();
    assert_eq!(said(&part(&lone)), ["missing_field"]);
}

#[test]
fn what_can_be_read_is_kept_and_what_cannot_is_named() {
    let whole = part(&two_records());
    assert_eq!(said(&whole), TWO);
    // A file after a file is one more part, with definitions of its own.
    assert_eq!(said(&[&*whole, &whole].concat()), [TWO, TWO].concat());
    let rest = |bytes: &[u8]| said(&[&*whole, bytes].concat())[2..].to_vec();
    assert_eq!(rest(&[0; 4]), ["end that is 4 zeros"]);
    assert_eq!(rest(b"more"), ["error: that is no header of FIT"]);
    assert_eq!(rest(&whole[..30]), ["error: its header says 38 bytes, and 30 are there"]);
    let mut wrong = whole.clone();
    wrong[20] ^= 1;
    assert_eq!(rest(&wrong), ["error: its checksum is wrong"]);
    assert_eq!(said(&wrong), ["error: its checksum is wrong"]);
    // The checksum is right, and the records are not.
    let mut records = two_records();
    records.extend([5, 1, 2]);
    assert_eq!(said(&part(&records))[2..], ["error: a record that nothing has described"]);
    let mut records = two_records();
    records.extend([0, 1]);
    assert_eq!(said(&part(&records))[2..], ["error: a record that goes beyond the end"]);
    assert_eq!(said(&part(&define(0, 20, &[[3, 1, 2]]))), ["part without messages"]);
    // A heart rate that is a text, one without a value, and what is none.
    let mut records = define(0, 20, &[[3, 2, 7]]);
    records.extend([0, b'7', b'0']);
    records.extend(define(0, 20, &[[3, 1, 2]]));
    records.extend([0, 0xff]);
    records.extend(define(0, 18, &[]));
    records.extend(define(1, 999, &[]));
    records.extend([0, 1, 1]);
    assert_eq!(
        said(&part(&records)),
        ["not_a_number", "record without a heart rate", "session", "message 999", "message 999"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// The checksum is made right again, so that what lies behind it is reached.
    #[test]
    fn no_bytes_make_it_panic_and_its_rows_are_bounded_by_them(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        more in proptest::collection::vec(any::<u8>(), 0..200),
        is_right in any::<bool>(),
    ) {
        let mut records = two_records();
        records.extend(define(1, 132, &[[253, 4, 0x86], [6, 3, 2], [9, 12, 0x86]]));
        records.extend([1; 20]);
        records.extend(more);
        for (index, byte) in &changes {
            let at = index.index(records.len());
            records[at] = *byte;
        }
        let mut bytes = part(&records);
        if !is_right && let Some((index, byte)) = changes.first() {
            let at = index.index(bytes.len());
            bytes[at] = *byte;
        }
        let rows = rows(&bytes);
        // One message says no more than it has bytes, and something.
        prop_assert!(!rows.is_empty() && rows.len() <= bytes.len());
        prop_assert!(rows.iter().rev().skip(1).all(Result::is_ok));
    }
}
