//! Whether a process answers, and whether it can keep its promises.

use serde::Serialize;

use super::Members;

/// How a process is.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// `live` or `ready`.
    pub status: &'static str,
    /// What was found.
    #[serde(flatten)]
    pub found: Option<Found>,
}

/// What is told of one that is ready.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// How far each consumer is behind the log.
    pub lag: Members<i64>,
    /// What somebody should look at although everything else goes on.
    pub warnings: Vec<String>,
    /// Those of the warnings that no ward needs to know of.
    pub can_wait: Vec<String>,
}
