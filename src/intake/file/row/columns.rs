//! Comma-separated lines, taken apart: quoted fields are understood, line breaks in them
//! are not.
//!
//! Guarantees as many columns as were asked for, trimmed, in memory that is used again.

use csv_core::{Reader, ReaderBuilder, Terminator};

use super::fields::{RowFault, not_utf8};

/// The most columns that any format has.
pub const COLUMNS_MAX: usize = 10;

/// Takes a comma-separated line apart, in memory that is used again.
pub struct Splitter {
    reader: Reader,
    fields: Vec<u8>,
    ends: Vec<usize>,
}

impl Splitter {
    /// With no memory yet.
    pub fn new() -> Splitter {
        // A carriage return within a line would otherwise end it, and hide what follows.
        let reader = ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
        Splitter { reader, fields: Vec::new(), ends: Vec::new() }
    }

    /// The first columns of `line`, trimmed, and how many there are: all of them, or one
    /// more than there may be.
    pub fn all<'a>(&'a mut self, line: &[u8]) -> Result<([&'a str; COLUMNS_MAX], usize), RowFault> {
        // Unquoting never lengthens a field. One end more than needed shows an extra column.
        self.fields.resize(line.len(), 0);
        self.ends.resize(COLUMNS_MAX + 1, 0);
        self.reader.reset();
        let (_, _, mut written, mut count) =
            self.reader.read_record(line, &mut self.fields, &mut self.ends);
        // An empty input is the end of the line, also within an unclosed quote.
        let (_, _, more, last) =
            self.reader.read_record(&[], &mut self.fields[written..], &mut self.ends[count..]);
        written += more;
        count += last;
        let fields = std::str::from_utf8(&self.fields[..written]).map_err(|_| not_utf8())?;
        let mut columns = [""; COLUMNS_MAX];
        let mut start = 0;
        for (column, &end) in columns.iter_mut().zip(&self.ends).take(count) {
            // A cut within a character is possible only where a column was no UTF-8.
            *column = fields.get(start..end).ok_or_else(not_utf8)?.trim();
            start = end;
        }
        Ok((columns, count))
    }

    /// The columns of `line`, as many as `header` names; a fault unless it has so many.
    pub fn split<'a>(
        &'a mut self,
        line: &[u8],
        header: &[&str],
    ) -> Result<[&'a str; COLUMNS_MAX], RowFault> {
        let (columns, count) = self.all(line)?;
        if count == header.len() {
            return Ok(columns);
        }
        let code = if count < header.len() { "missing_column" } else { "extra_column" };
        let names = header.join(",");
        let detail = format!("write these columns: {names} (a comma within a field needs quotes)");
        Err(RowFault::new(code, detail))
    }
}
