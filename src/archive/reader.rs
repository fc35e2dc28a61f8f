//! Archived rows, for whoever walks along the chain.
//!
//! Guarantees that each file is read once in a walk over all shards, a row group at a
//! time: memory is bounded by the row groups that lie around one place, one a month.

use std::collections::VecDeque;

use super::columns::ArchiveRow;
use super::file::{ArchiveFileError, File, Group};
use super::store::{Access, StoredObject};
use crate::log::ArchivedMonth;
use crate::log::archive_reader::{ArchiveReader, ArchivedRow, Unreadable};
use crate::log::partition::Span;

/// A month's file, opened, and how far it was read.
struct Reader {
    span: Span,
    location: String,
    file: Result<File, String>,
    /// Row groups that are still to be read.
    groups: VecDeque<Group>,
    /// Rows that were read and not yet asked for.
    rows: VecDeque<ArchiveRow>,
    /// Shard and position up to which no row is asked for any more.
    passed: (i16, i64),
}

impl Reader {
    fn new(span: Span, location: String, file: Result<File, ArchiveFileError>) -> Reader {
        let file = file.map_err(|error| error.to_string());
        let groups = file.as_ref().map(|file| file.groups.iter().copied().collect());
        let groups = groups.unwrap_or_default();
        Reader { span, location, file, groups, rows: VecDeque::new(), passed: (0, i64::MIN) }
    }

    fn unreadable(&self, why: impl ToString) -> Unreadable {
        // Most errors begin with the location already.
        let why = why.to_string();
        let why = why.strip_prefix(&format!("{}: ", self.location)).unwrap_or(&why).to_owned();
        Unreadable { span: self.span, location: self.location.clone(), why }
    }

    /// Forgets what lies at or before a place.
    fn skip_to(&mut self, shard: i16, after: i64) {
        self.passed = (shard, after);
        while self.groups.front().is_some_and(|g| (g.shard, g.last) <= self.passed) {
            self.groups.pop_front();
        }
        let passed = self.passed;
        while self.rows.front().is_some_and(|row| place(row) <= passed) {
            self.rows.pop_front();
        }
    }

    /// Takes the rows of a shard up to a position.
    async fn take(
        &mut self,
        shard: i16,
        to: i64,
        into: &mut Vec<ArchivedRow>,
    ) -> Result<(), Unreadable> {
        let file = match &self.file {
            Ok(file) => file,
            Err(why) => return Err(self.unreadable(why)),
        };
        loop {
            let due = |row: &ArchiveRow| row.recorded.shard == shard && row.recorded.position <= to;
            while let Some(row) = self.rows.pop_front_if(|row| due(row)) {
                into.push(ArchivedRow { span: self.span, recorded: row.recorded, kept: row.kept });
            }
            let next = self.groups.front().copied();
            let Some(group) = next.filter(|g| g.shard == shard && g.first <= to) else { break };
            if !self.rows.is_empty() {
                break;
            }
            let rows = file.read(group).await.map_err(|error| self.unreadable(error))?;
            // A group may begin before the place that was skipped to.
            self.rows.extend(rows.into_iter().filter(|row| place(row) > self.passed));
            self.groups.pop_front();
        }
        Ok(())
    }
}

fn place(row: &ArchiveRow) -> (i16, i64) {
    (row.recorded.shard, row.recorded.position)
}

/// The files of all archived months.
pub struct Archives(Vec<Reader>);

impl Archives {
    /// Opens the files of these months where they are, or all of them at `moved`. A file
    /// that cannot be opened is an error only when its rows are asked for.
    pub async fn open(months: &[ArchivedMonth], moved: Option<&str>, access: &Access) -> Archives {
        let mut readers = Vec::with_capacity(months.len());
        for month in months {
            let location = match moved {
                Some(place) => {
                    format!("{}/{}", place.trim_end_matches('/'), month.span.file_name())
                }
                None => month.location.clone(),
            };
            let file = match StoredObject::at(&location, access) {
                Ok(object) => File::open(object).await,
                Err(error) => Err(error.into()),
            };
            readers.push(Reader::new(month.span, location, file));
        }
        Archives(readers)
    }

    /// Uses this file for its month.
    pub fn replace(&mut self, span: Span, file: File) {
        self.0.retain(|reader| reader.span != span);
        self.0.push(Reader::new(span, file.location().to_owned(), Ok(file)));
    }

    /// The file of a month.
    pub fn file(&self, span: Span) -> Result<&File, Unreadable> {
        let reader = self.0.iter().find(|reader| reader.span == span);
        let missing = || Unreadable {
            span,
            location: span.file_name(),
            why: "it is not among the archived months".to_owned(),
        };
        let reader = reader.ok_or_else(missing)?;
        reader.file.as_ref().map_err(|why| reader.unreadable(why))
    }

    /// Takes the file of a month out.
    pub fn into_file(self, span: Span) -> Result<File, Unreadable> {
        self.file(span)?;
        let missing =
            || Unreadable { span, location: span.file_name(), why: "not here".to_owned() };
        let reader = self.0.into_iter().find(|reader| reader.span == span);
        reader.and_then(|reader| reader.file.ok()).ok_or_else(missing)
    }
}

impl ArchiveReader for Archives {
    fn skip_to(&mut self, shard: i16, after: i64) {
        self.0.iter_mut().for_each(|reader| reader.skip_to(shard, after));
    }

    async fn take(&mut self, shard: i16, to: i64) -> Result<Vec<ArchivedRow>, Unreadable> {
        let mut rows = Vec::new();
        for reader in &mut self.0 {
            reader.take(shard, to, &mut rows).await?;
        }
        // Stable, and each month's rows are in order.
        rows.sort_by_key(|row| row.recorded.position);
        Ok(rows)
    }

    fn holds(&self, t: chrono::DateTime<chrono::Utc>) -> Option<Span> {
        let mut spans = self.0.iter().map(|reader| reader.span);
        spans.find(|span| (span.since()..span.until()).contains(&t))
    }
}
