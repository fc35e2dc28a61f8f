//! Lines of a file, plain or gzipped, in constant memory.
//!
//! Guarantees that no line takes more than [`LINE_BYTES_MAX`] of memory and that the
//! lines are counted as an editor counts them. Does not know what is in them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

/// The longest line that is read; a longer one is skipped and said to be bad.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// How much is read from the file at once.
const READ_BYTES: usize = 64 * 1024;

/// What gzip begins with.
pub const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What [`FileLines::advance`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum FileLine {
    /// A line; [`FileLines::text`] has it.
    Text,
    /// A line beyond [`LINE_BYTES_MAX`], passed over.
    TooLong,
    /// Nothing more.
    End,
}

/// The lines of some bytes, one at a time.
pub struct FileLines {
    input: Box<dyn BufRead + Send>,
    text: Vec<u8>,
    number: u64,
}

impl FileLines {
    /// Gzip is told by its first bytes, not by the file's name. The bytes taken
    /// from `file` are added to `bytes_read`.
    pub fn of_file(file: File, bytes_read: Arc<AtomicU64>) -> io::Result<FileLines> {
        let mut raw = BufReader::with_capacity(READ_BYTES, Counted { file, bytes_read });
        let input: Box<dyn BufRead + Send> = if raw.fill_buf()?.starts_with(&GZIP_MAGIC) {
            Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        Ok(FileLines { input, text: Vec::new(), number: 0 })
    }

    /// Goes to the next line.
    pub fn advance(&mut self) -> io::Result<FileLine> {
        self.text.clear();
        // One more than allowed, so that "too long" and "just fits" differ.
        let mut limited = self.input.by_ref().take(LINE_BYTES_MAX as u64 + 1);
        if limited.read_until(b'\n', &mut self.text)? == 0 {
            return Ok(FileLine::End);
        }
        self.number += 1;
        if self.text.last() == Some(&b'\n') {
            self.text.pop();
        } else if self.text.len() > LINE_BYTES_MAX {
            self.skip_rest_of_line()?;
            return Ok(FileLine::TooLong);
        }
        if self.number == 1 && self.text.starts_with(BYTE_ORDER_MARK) {
            self.text.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(FileLine::Text)
    }

    /// The line, without its end (a carriage return counts as part of the end).
    pub fn text(&self) -> &[u8] {
        self.text.strip_suffix(b"\r").unwrap_or(&self.text)
    }

    /// The line's number, counted from 1; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    fn skip_rest_of_line(&mut self) -> io::Result<()> {
        loop {
            let buffered = self.input.fill_buf()?;
            if buffered.is_empty() {
                return Ok(());
            }
            let (length, found) = match buffered.iter().position(|&b| b == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffered.len(), false),
            };
            self.input.consume(length);
            if found {
                return Ok(());
            }
        }
    }
}

/// A file that counts what was taken from it.
struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.file.read(buffer)?;
        self.bytes_read.fetch_add(taken as u64, Ordering::Relaxed);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> FileLines {
        FileLines { input: Box::new(io::Cursor::new(bytes.to_vec())), text: Vec::new(), number: 0 }
    }

    #[test]
    fn line_ends_and_byte_order_marks_are_not_text() {
        let mut lines = lines("\u{feff}one\r\n\ntwo\u{feff}".as_bytes());
        for (number, text) in [(1, "one"), (2, ""), (3, "two\u{feff}")] {
            assert_eq!(lines.advance().unwrap(), FileLine::Text);
            assert_eq!((lines.number(), lines.text()), (number, text.as_bytes()));
        }
        assert_eq!(lines.advance().unwrap(), FileLine::End);
        assert_eq!(lines.number(), 3);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_takes_no_memory() {
        for (length, expect) in [
            (LINE_BYTES_MAX, FileLine::Text),
            (LINE_BYTES_MAX + 1, FileLine::TooLong),
            (50 * LINE_BYTES_MAX, FileLine::TooLong),
        ] {
            let mut bytes = vec![b'x'; length];
            bytes.extend_from_slice(b"\nnext");
            let mut lines = lines(&bytes);
            assert_eq!(lines.advance().unwrap(), expect, "{length}");
            assert!(lines.text.capacity() <= 2 * (LINE_BYTES_MAX + 1));
            assert_eq!(lines.advance().unwrap(), FileLine::Text);
            assert_eq!((lines.number(), lines.text()), (2, b"next".as_slice()), "{length}");
        }
    }
}
