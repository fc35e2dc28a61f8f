//! Opening the database: the one that was named, or the embedded one.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::Error;
use crate::config::Common;
use crate::embedded::Embedded;
use crate::log::Log;
use crate::projection;

/// How long a connection may take before the database counts as unreachable.
const CONNECT_MS_MAX: u64 = 10_000;
/// Who waits longer for a connection of a pool is told that there is none.
const ACQUIRE_MS_MAX: u64 = 10_000;
/// The longest question.
const STATEMENT_SECONDS_MAX: u32 = 60;

/// How long the embedded database may take to stop before it is left to itself.
const STOP_MS_MAX: u64 = 1_800;
/// The longest pause inside a transaction; ours last milliseconds.
const IDLE_IN_TRANSACTION: &str = "60s";

/// An open database.
pub struct Database {
    options: PgConnectOptions,
    embedded: Option<Embedded>,
}

impl Database {
    /// Connects once, so that what is wrong is said now and clearly.
    pub async fn open(common: &Common) -> Result<Database, Error> {
        let (options, embedded) = match &common.database_url {
            Some(url) => {
                let options = PgConnectOptions::from_str(url)
                    .map_err(|error| format!("the database URL cannot be read: {error}"))?;
                (options, None)
            }
            None => {
                let embedded = Embedded::start(&common.data_dir).await?;
                (embedded.connect_options(), Some(embedded))
            }
        };
        let options = options
            .application_name("vitals")
            // A machine that vanishes in the middle of an append must not keep its shard.
            .options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)])
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5));
        let database = Database { options, embedded };
        let connected =
            tokio::time::timeout(Duration::from_millis(CONNECT_MS_MAX), database.options.connect());
        let why = match connected.await {
            Ok(Ok(_)) => return Ok(database),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {CONNECT_MS_MAX} ms"),
        };
        database.close().await?;
        Err(format!("the database cannot be reached: {why}").into())
    }

    /// Connections for those who ask and append.
    pub fn pool(&self, connections: u32) -> PgPool {
        let limit = format!("{STATEMENT_SECONDS_MAX}s");
        let options = self.options.clone().options([
            ("statement_timeout", limit.as_str()),
            // Whatever the role's or the database's own setting is: it is our promise.
            ("synchronous_commit", "on"),
        ]);
        connect(options, connections)
    }

    /// Connections for what is derived from the log. A crash may undo its last
    /// commits: checkpoint and effect go together, so they are done again.
    pub fn worker_pool(&self, connections: u32) -> PgPool {
        connect(self.options.clone().options([("synchronous_commit", "off")]), connections)
    }

    /// Connections for commands that walk the whole log.
    pub fn patient_pool(&self, connections: u32) -> PgPool {
        connect(self.options.clone(), connections)
    }

    /// The log and its projections, migrated and made.
    pub async fn log(&self, common: &Common, pool: PgPool) -> Result<Log, Error> {
        // A migration or a rebuild may take longer than a question.
        let log = Log::open(self.patient_pool(2), common.shards).await?;
        projection::install(&log).await?;
        Ok(log.with_pool(pool))
    }

    /// Ends our use of it.
    pub async fn close(self) -> Result<(), Error> {
        let Some(embedded) = self.embedded else { return Ok(()) };
        let limit = Duration::from_millis(STOP_MS_MAX);
        match tokio::time::timeout(limit, embedded.stop()).await {
            Ok(stopped) => Ok(stopped?),
            Err(_) => {
                // It goes on stopping by itself, and the next start waits for it.
                tracing::warn!("the embedded database takes its time to stop; not waiting for it");
                Ok(())
            }
        }
    }
}

fn connect(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_millis(ACQUIRE_MS_MAX))
        .connect_lazy_with(options)
}
