//! The archive: months that leave the database as Parquet files, and come back.
//!
//! Guarantees that a month leaves only after its file was read back from where it lies
//! and was found equal, row by row; that what is asked of the present and of every
//! moment after it stays exactly as it was; that the chain covers archived rows as it
//! did; and that a run which is killed anywhere leaves the full month or the archived
//! one, and is finished by the next run. Memory is constant: a row group.
//!
//! Does not delete files, and does not archive the partition of the times before 2000.

mod back;
mod columns;
mod file;
mod out;
mod reader;
mod store;

pub use back::{BackError, Brought, bring_back};

pub use columns::{ArchiveRow, ROWS_PER_GROUP_MAX};
pub use file::{About, ArchiveFileError, File, Group, ShardRange, Writer, WrittenFile};
pub use out::{ArchiveError, ArchiveProgress, archive};
pub use reader::Archives;
pub use store::{Access, ArchiveStore, PlaceError, StoredObject, Upload};
