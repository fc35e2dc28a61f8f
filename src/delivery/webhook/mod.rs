//! The webhook: a transport by HTTP, as Standard Webhooks has it.
//!
//! Guarantees that all that delivers by HTTP is in this folder: the guard against addresses
//! that lead inwards, signatures, headers, TLS and client certificates, and what an answer
//! means. Does not know of claims, schedules, breakers or records.

mod builder;
mod certificate;
pub mod client;
pub mod guard;
mod headers;
pub mod key;
pub mod pem;
mod retry_after;
mod send;
pub mod sign;

pub use certificate::{Certificate, CertificateError};
pub use client::EndpointClients;
pub use headers::{Headers, HeadersError};
