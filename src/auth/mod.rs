//! Who is calling, and what they may do.
//!
//! Guarantees that a [`Caller`] comes from a token signed with our key, for us, not
//! expired, of one tenant. Does not decide what is needed: whoever does something names
//! its scope. Knows no protocol: where a token stands is the adapter's to know, and how a
//! [`Denied`] is said.

mod acceptance;
pub mod api_key;
pub mod api_keys;
mod caller;
mod certificate;
mod claims;
mod denied;
pub mod file;
pub mod giving;
pub mod jwks;
mod keys;
pub mod oidc;
mod revocations;
mod roles;
mod scope;
pub mod sessions;
pub mod strength;
mod ticket;
mod token_cache;
pub mod wards;

pub use acceptance::{Acceptance, RoleFileError};
pub use caller::{Caller, Narrowing, Subject, is_subject};
pub use certificate::{Certificate, ClientMap, ClientMapError, UnreadableCertificate};
pub use claims::{AUDIENCE, Claims, ISSUER};
pub use denied::Denied;
pub use keys::{Keys, SECRET_BYTES_MIN, WeakSecret};
pub use revocations::Revocations;
pub use roles::{RoleMap, RoleMapError};
pub use scope::{Role, Scope, Scopes};
pub use ticket::{TICKET_SECONDS, Ticket};
pub use wards::Wards;
