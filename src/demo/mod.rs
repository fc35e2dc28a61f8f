//! The parts of the demo: a ward that never was, and a receiver that believes
//! nothing unverified.

pub mod receiver;
pub mod ward;
