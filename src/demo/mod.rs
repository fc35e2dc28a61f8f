//! The parts of the demo: a ward that never was, the bedside that sends its
//! readings, a receiver that believes nothing unverified, and the account at the
//! end.

pub mod account;
pub mod bedside;
pub mod receiver;
pub mod ward;
