//! `COPY … to stdout (format binary)`, taken apart by hand.
//!
//! Guarantees that whatever bytes come, what is not a row of so many columns is an error and
//! no panic, and that a row that is not whole yet is told from one that is broken. No text of
//! a number or a time is made or read on the way, which is what it is for. Does not know
//! what the columns mean.

/// From 1970 to 2000, PostgreSQL's epoch.
pub const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What a binary COPY begins with, before its flags.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The flags, and the length of what may follow them.
const FLAGS_BYTES: usize = 4;

/// Bytes that are not what PostgreSQL sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("COPY sent what is not its binary form")]
pub struct BadCopy;

impl From<BadCopy> for sqlx::Error {
    fn from(broken: BadCopy) -> sqlx::Error {
        sqlx::Error::Protocol(broken.to_string())
    }
}

/// A column of a row; `None` is null.
pub type Field<'a> = Option<&'a [u8]>;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a, const COLUMNS: usize> {
    /// A row, and how many bytes it takes.
    Row([Field<'a>; COLUMNS], usize),
    /// Bytes that begin a row and do not end it.
    Part,
    /// No more rows.
    End,
}

/// How many bytes come before the rows.
pub fn header(bytes: &[u8]) -> Result<usize, BadCopy> {
    let mut rest = Rest { bytes, at: 0 };
    if rest.take(SIGNATURE.len()) != Some(SIGNATURE) {
        return Err(BadCopy);
    }
    rest.take(FLAGS_BYTES).ok_or(BadCopy)?;
    let extension = rest.array().map(u32::from_be_bytes).ok_or(BadCopy)?;
    rest.take(usize::try_from(extension).map_err(|_| BadCopy)?).ok_or(BadCopy)?;
    Ok(rest.at)
}

/// The row that these bytes begin with.
pub fn row<const COLUMNS: usize>(bytes: &[u8]) -> Result<Next<'_, COLUMNS>, BadCopy> {
    let mut rest = Rest { bytes, at: 0 };
    match rest.array().map(i16::from_be_bytes) {
        None => return Ok(Next::Part),
        Some(-1) => return Ok(Next::End),
        Some(count) if usize::try_from(count) == Ok(COLUMNS) => {}
        Some(_) => return Err(BadCopy),
    }
    let mut fields = [None; COLUMNS];
    for field in &mut fields {
        let Some(length) = rest.array().map(i32::from_be_bytes) else { return Ok(Next::Part) };
        *field = match usize::try_from(length) {
            Ok(length) => match rest.take(length) {
                Some(bytes) => Some(bytes),
                None => return Ok(Next::Part),
            },
            Err(_) if length == -1 => None,
            Err(_) => return Err(BadCopy),
        };
    }
    Ok(Next::Row(fields, rest.at))
}

/// A column of so many bytes.
pub fn fixed<const N: usize>(field: Field<'_>) -> Result<Option<[u8; N]>, BadCopy> {
    field.map(|bytes| bytes.try_into().map_err(|_| BadCopy)).transpose()
}

/// A `bigint` that is never null.
pub fn int8(field: Field<'_>) -> Result<i64, BadCopy> {
    fixed(field)?.map(i64::from_be_bytes).ok_or(BadCopy)
}

/// A `timestamptz` that is never null, in microseconds since 1970.
pub fn micros(field: Field<'_>) -> Result<i64, BadCopy> {
    int8(field)?.checked_add(EPOCH_MICROS).ok_or(BadCopy)
}

/// A text.
pub fn text(field: Field<'_>) -> Result<Option<&str>, BadCopy> {
    field.map(|bytes| std::str::from_utf8(bytes).map_err(|_| BadCopy)).transpose()
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_copys_binary_form_is_an_error_and_no_panic() {
        let mut begin = SIGNATURE.to_vec();
        begin.extend([0; 8]);
        assert_eq!(header(&begin), Ok(begin.len()));
        assert_eq!(header(&begin[..12]), Err(BadCopy));
        assert_eq!(header(b"position,value"), Err(BadCopy));
        for bytes in [&[0, 3, 0, 0][..], &[0, 2, 255, 255, 255, 254]] {
            assert_eq!(row::<2>(bytes), Err(BadCopy), "{bytes:?}");
        }
        for bytes in [&[][..], &[0], &[0, 2], &[0, 2, 0, 0, 0, 8, 1], &[0, 2, 255, 255]] {
            assert_eq!(row::<2>(bytes), Ok(Next::Part), "{bytes:?}");
        }
        assert_eq!(row::<2>(&(-1_i16).to_be_bytes()), Ok(Next::End));
        assert_eq!((fixed::<4>(Some(&[1])), int8(None)), (Err(BadCopy), Err(BadCopy)));
        assert_eq!(micros(Some(&i64::MAX.to_be_bytes())), Err(BadCopy));
        assert_eq!(text(Some(&[0xff])), Err(BadCopy));
    }

    #[test]
    fn a_row_ends_where_the_next_begins() {
        let bytes = [0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255, 0, 2];
        assert_eq!(row::<2>(&bytes), Ok(Next::Row([Some(b"x"), None], 11)));
    }
}
