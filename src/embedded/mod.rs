//! A private PostgreSQL for those who did not bring one.
//!
//! Guarantees: the same engine as in production, with durability on; no open port,
//! only a socket in a directory that nobody else may enter; any number of vitals
//! on one data directory share one server, and the last one out stops it; a server
//! or a vitals that was killed is recovered from at the next start; a cluster is
//! never started by two servers, by the wrong version, or as root.
//!
//! Does not guarantee that the server ends with vitals: an [`Embedded`] that is
//! dropped, or killed, without [`Embedded::stop`] leaves it running for the next
//! one. Watches the server only for who asks for it ([`Embedded::watch`]). Does not
//! protect a data directory on a network file system from a second machine.

mod cluster;
mod dirs;
mod download;
mod error;
mod locate;
mod lock;
mod pidfile;
mod program;
mod server;
mod session;
mod share;
mod watch;

pub use error::EmbeddedError;
pub use share::Embedded;
pub use watch::{Away, Watch};
