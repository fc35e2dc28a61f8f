//! What people say: that they have seen an alert, that it is over, that a reading was wrong,
//! where a patient lies, whom a device measures.
//!
//! Guarantees that each is an event in the stream of its patient, or of the tenant, in the name
//! of who said it; what was said stays said, and a later word only comes after it. Does not ask
//! whether they may: the adapter does. What a tenant orders (rules, silences) is the
//! rules' own to write.

pub mod answer;
pub mod api_key;
pub mod devices;
pub mod reassign;
pub mod register;
pub mod retract;
pub mod revoke;
