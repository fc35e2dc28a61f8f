//! Readings a line, judged as they come: NDJSON without an end.
//!
//! Guarantees that a line is judged as an item of an array is, by the same code; that
//! what is wrong with a line is said of that line and spares the others; and that no
//! line takes more than [`LINE_BYTES_MAX`] of memory. An index counts from 0 the lines
//! that are not blank. Lines end with `\n` or `\r\n`; a blank line is none, so it can
//! keep a connection awake. Does not read or wait.

use super::file::LINE_BYTES_MAX;
use super::parse::{RawReading, parse_line};
use super::reading::ReadingFault;
use super::submit::Batch;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The lines of one stream of bytes.
#[derive(Default)]
pub struct NdjsonLines {
    /// What has come of a line that has not ended.
    begun: Vec<u8>,
    too_long: bool,
    /// Lines that ended, blank ones too.
    ended: u64,
    /// Lines that were added to a batch.
    added: usize,
}

impl NdjsonLines {
    /// Takes the next line off the front of `bytes` and adds it to a batch. `false`: there is
    /// no end of a line in them any more, and what has begun is kept.
    pub fn next(&mut self, bytes: &mut &[u8], batch: &mut Batch<'_>) -> bool {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let line = &bytes[..end];
            *bytes = &bytes[end + 1..];
            let added = if self.begun.is_empty() && !self.too_long {
                self.add(line, batch)
            } else {
                self.keep(line);
                self.add_begun(batch)
            };
            if added {
                return true;
            }
        }
        self.keep(bytes);
        *bytes = &[];
        false
    }

    /// Adds what has begun as a line: the bytes are over, and all of them came. Whether it
    /// was one.
    pub fn last(&mut self, batch: &mut Batch<'_>) -> bool {
        self.add_begun(batch)
    }

    /// How many lines were added to a batch: the next one's index.
    pub fn added(&self) -> usize {
        self.added
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.too_long |= self.begun.len() + bytes.len() > LINE_BYTES_MAX;
        if self.too_long {
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn add_begun(&mut self, batch: &mut Batch<'_>) -> bool {
        let mut line = std::mem::take(&mut self.begun);
        let added = self.add(&line, batch);
        line.clear();
        (self.begun, self.too_long) = (line, false);
        added
    }

    fn add(&mut self, line: &[u8], batch: &mut Batch<'_>) -> bool {
        self.ended += 1;
        let line = match self.ended {
            1 => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line),
            _ => line,
        };
        if self.too_long || line.len() > LINE_BYTES_MAX {
            let detail = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            batch.add(Err(ReadingFault::new("line_too_long", "", detail)));
        } else if line.trim_ascii().is_empty() {
            return false;
        } else {
            let reading = parse_line(line);
            batch.add(reading.as_ref().map_err(ReadingFault::clone).and_then(RawReading::draft));
        }
        self.added += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Caller;
    use crate::log::Archived;

    const GOOD: &str = r#"{"patientId":"101","deviceId":"watch-7","vital":"heart_rate","value":82,"measuredAt":"2025-10-20T10:20:00Z"}"#;

    /// What became of each line when the bytes came in parts of this size: `good`, or
    /// index, code and pointer.
    fn judged(bytes: &[u8], part: usize) -> Vec<String> {
        let now = "2025-10-20T10:20:00Z".parse().unwrap();
        let caller = Caller::operator("t".into());
        let mut batch = Batch::new(&caller, now, Archived::default());
        let mut lines = NdjsonLines::default();
        for mut bytes in bytes.chunks(part) {
            while lines.next(&mut bytes, &mut batch) {}
            assert!(bytes.is_empty());
            assert!(lines.begun.capacity() <= 2 * LINE_BYTES_MAX);
        }
        lines.last(&mut batch);
        assert_eq!(lines.added(), batch.items());
        let mut said = vec!["good".to_owned(); batch.items()];
        for r in batch.rejected() {
            said[r.index] = format!("{} {} {}", r.index, r.code, r.pointer);
        }
        said
    }

    #[track_caller]
    fn check(bytes: impl AsRef<[u8]>, expected: &[&str]) {
        for part in [1, 7, 100, LINE_BYTES_MAX, usize::MAX] {
            assert_eq!(judged(bytes.as_ref(), part), expected, "in parts of {part}");
        }
    }

    #[test]
    fn lines_end_in_any_way_and_blank_ones_are_none() {
        check("", &[]);
        check("\n\r\n \t\n", &[]);
        check(GOOD, &["good"]);
        check(format!("\u{feff}{GOOD}\r\n\r\n\n{GOOD}\n  {GOOD}  \n"), &["good"; 3]);
        check(format!("\n{GOOD}\n{{}}"), &["good", "1 missing_field /1/patientId"]);
    }

    #[test]
    fn what_is_wrong_with_a_line_spares_its_neighbours() {
        for (line, expected) in [
            ("{", "1 unreadable_json /1"),
            ("{} {}", "1 unreadable_json /1"),
            ("\u{feff}{}", "1 unreadable_json /1"),
            ("7", "1 not_an_object /1"),
            ("[]", "1 not_an_object /1"),
            (
                r#"["1","w","heart_rate",82,null,"2025-10-20T10:20:00Z",null,null]"#,
                "1 not_an_object /1",
            ),
            (&GOOD.replace("82", "1e999"), "1 not_a_number /1/value"),
            (&GOOD.replace("82", "900"), "1 value_out_of_range /1/value"),
            (&GOOD.replace("00Z", "00"), "1 invalid_time /1/measuredAt"),
        ] {
            check(format!("{GOOD}\n{line}\n{GOOD}\n"), &["good", expected, "good"]);
        }
        let not_utf8 = [GOOD.as_bytes(), b"\n{\"\xff\"}\n", GOOD.as_bytes()].concat();
        check(not_utf8, &["good", "1 not_utf8 /1", "good"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_takes_no_memory() {
        let fits = format!("{GOOD}{}", " ".repeat(LINE_BYTES_MAX - GOOD.len()));
        check(format!("{fits}\n{GOOD}"), &["good", "good"]);
        for length in [LINE_BYTES_MAX + 1, 5 * LINE_BYTES_MAX] {
            let long = "x".repeat(length);
            check(format!("{GOOD}\n{long}\n{GOOD}"), &["good", "1 line_too_long /1", "good"]);
            check(format!("{GOOD}\n{long}"), &["good", "1 line_too_long /1"]);
        }
    }
}
