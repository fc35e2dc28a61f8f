//! Exports: a tenant's readings as one table, written by a job and kept for a while.
//!
//! Guarantees that an export shows what was known as it began, whoever finishes it and whatever
//! is recorded or taken back meanwhile; that its bytes are rows, so that every instance hands
//! them out; that with each part goes the place from which another instance goes on, and that
//! only who holds the job writes any; and that what is kept is bounded, for a tenant and in all.
//!
//! Does not guarantee that Parquet and what is encrypted goes on where it was left: its writers
//! cannot be taken up again, so it begins again, from the same positions of the log.

mod output;
mod store;
mod stored;
mod work;
mod writer;

pub use output::{BadRecipient, RECIPIENTS_MAX, recipients};
pub use store::{
    Begun, EXPORT_BYTES_MAX, ExportStore, Hold, INSTALLATION_BYTES_MAX, Part, Place, Put,
    TENANT_BYTES_MAX,
};
pub use stored::StoredExports;
pub use work::{EXPORT_CONNECTIONS_MAX, Exports, PATIENTS_NAMED_MAX};
