//! What a consumer is, and why one stops.

use std::time::Duration;

use sqlx::PgConnection;

use crate::log::{AppendError, Window};

/// Why a step failed. Nothing of it happened.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The log refused what the consumer wanted to append.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// An event that cannot be understood.
    #[error("shard {shard}, position {position}: {source}")]
    Event {
        /// Where.
        shard: i16,
        /// The event's position.
        position: i64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A saved state that cannot be understood.
    #[error("the rules' state of {patient}: {source}")]
    State {
        /// Whose.
        patient: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Something that is kept for all of a shard, and that another version of the program
    /// wrote. No event is wrong and nobody is parked: it stops until it can be read.
    #[error("{what}, as it is stored, cannot be read by this version: {why}")]
    Stored {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A projection's tables are of another text, which is not known any more.
    #[error("the tables of {0} were made by an unknown version: they wait for their rebuild")]
    Outdated(&'static str),
}

impl ConsumerError {
    /// Whether it is an event, or what is remembered of its patient, that is wrong, so that
    /// others can go on. What this version of the program does not know at all (a vital)
    /// is no such error: a newer one will go on with it by itself.
    pub fn is_of_an_event(&self) -> bool {
        match self {
            ConsumerError::Event { .. } | ConsumerError::State { .. } => true,
            ConsumerError::Database(sqlx::Error::Database(error)) => {
                // Cardinality, data and integrity: what values can bring about.
                let class = error.code().and_then(|code| code.get(..2).map(str::to_owned));
                matches!(class.as_deref(), Some("21" | "22" | "23"))
            }
            _ => false,
        }
    }
}

/// The name of the consumer that evaluates rules.
pub const RULES: &str = "rules";

/// What of the log a consumer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Every event.
    Everything,
    /// What is no reading: alerts, acknowledgements, registrations. Readings only
    /// move its checkpoint, by the timer, so that they cost it next to nothing.
    NonReadings,
}

/// Something that follows the log.
pub trait Consumer: Send + Sync + 'static {
    /// What a step leaves for [`Consumer::committed`].
    type Done: Send;

    /// The checkpoint's name.
    fn name(&self) -> &str;

    /// What it waits for.
    fn follows(&self) -> Follows;

    /// How many positions one step takes at most.
    fn window_positions_max(&self) -> i64;

    /// How long it lets work come in before a step: longer means fewer, larger
    /// transactions; zero means at once. Whoever waits for it cuts that short.
    fn pace(&self) -> Duration;

    /// How long at most it lets work come in while its steps are long.
    fn pace_max(&self) -> Duration {
        self.pace()
    }

    /// How long its scan of a window rests at a time (`rested`, in the database) while it
    /// is not waited for, so that it gives way to what comes in; nothing for who does not rest.
    fn rest(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a window ends only where an append ends; it is longer than
    /// [`Consumer::window_positions_max`] only if one append is.
    fn whole_appends(&self) -> bool {
        false
    }

    /// Whether readings that somebody waits for cut the pace short.
    fn hurries(&self) -> bool {
        false
    }

    /// Acts on a window, inside the transaction that moves the checkpoint.
    fn act(
        &self,
        tx: &mut PgConnection,
        window: &Window,
    ) -> impl Future<Output = Result<Self::Done, ConsumerError>> + Send;

    /// Told after the commit, for wake-ups.
    fn committed(&self, _window: &Window, _done: Self::Done) {}
}
