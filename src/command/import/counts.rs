//! What became of everything that was read.
//!
//! Guarantees that each line or message is counted once, that what was passed over is
//! counted by its name, and a bounded memory of names.

use std::collections::BTreeMap;
use std::fmt;

use crate::intake::file::FileError;

/// Rejected lines that are told one by one.
const REJECTED_TOLD_MAX: u64 = 20;
/// Names under which something was passed over that are told one by one.
const NAMES_TOLD_MAX: usize = 40;

/// What was passed over, by its name.
#[derive(Default)]
pub(super) struct Skipped {
    total: u64,
    names: BTreeMap<String, u64>,
}

impl Skipped {
    /// So many of one name.
    pub(super) fn add(&mut self, name: String, count: u64) {
        if count == 0 {
            return;
        }
        self.total += count;
        if self.names.len() < NAMES_TOLD_MAX || self.names.contains_key(&name) {
            *self.names.entry(name).or_default() += count;
        }
    }

    /// These too.
    pub(super) fn add_all(&mut self, others: Skipped) {
        let named: u64 = others.names.values().sum();
        for (name, count) in others.names {
            self.add(name, count);
        }
        // Of more names than are told.
        self.total += others.total - named;
    }

    /// How many.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<String> =
            self.names.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let named: u64 = self.names.values().sum();
        f.write_str(&told.join(", "))?;
        match self.total - named {
            0 => Ok(()),
            others => write!(f, ", {others} of other names"),
        }
    }
}

/// What became of the lines.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) stored: usize,
    pub(super) duplicates: usize,
    pub(super) rejected: u64,
    pub(super) skipped: Skipped,
    /// Files that could not be read, or not to their end.
    pub(super) unread: u64,
}

impl Counts {
    pub(super) fn reject(&mut self, line: u64, code: &str, detail: &str) {
        self.rejected += 1;
        if self.rejected <= REJECTED_TOLD_MAX {
            eprintln!("line {line}: {code}: {detail}");
        } else if self.rejected == REJECTED_TOLD_MAX + 1 {
            eprintln!("more lines are rejected; they are counted");
        }
    }

    pub(super) fn unread(&mut self, error: &FileError) {
        self.unread += 1;
        eprintln!("{error}");
    }

    /// Says the sums: those of what was passed over and not read for people, the rest last
    /// and for programs.
    pub(super) fn say(&self, tenant: &str) {
        if self.skipped.total() > 0 {
            eprintln!("passed over: {}", self.skipped);
        }
        match self.unread {
            0 => {}
            1 => eprintln!("1 file was not read to its end; it is named above"),
            n => eprintln!("{n} files were not read to their end; they are named above"),
        }
        let Counts { stored, duplicates, rejected, skipped, .. } = self;
        let skipped = skipped.total();
        println!("tenant={tenant}");
        println!("stored={stored} duplicates={duplicates} rejected={rejected} skipped={skipped}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_passed_over_is_counted_whatever_it_is_called() {
        let (mut all, mut some) = (Skipped::default(), Skipped::default());
        for n in 0..100 {
            some.add(format!("kind {n:03}"), 2);
        }
        all.add("kind 001".to_owned(), 1);
        all.add_all(some);
        assert_eq!(all.total(), 201);
        let said = all.to_string();
        assert!(said.starts_with("2 kind 000, 3 kind 001, 2 kind 002"), "{said}");
        assert!(said.ends_with("2 kind 039, 120 of other names"), "{said}");
    }
}
