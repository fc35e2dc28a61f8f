//! Which moment is asked for, on two axes.

use chrono::{DateTime, Utc};

/// Which moment is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// As it was true then; `None` is now.
    pub as_of: Option<DateTime<Utc>>,
    /// As far as it was known then; `None` is now.
    pub known_at: Option<DateTime<Utc>>,
}
