//! The first start of a log on a database, and every later one: its schema and its shards.
//!
//! Guarantees that a database is migrated by who owns it, and that its number of shards is
//! fixed once. Does not look into what the log holds.

use std::ops::RangeInclusive;

use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use uuid::Uuid;

/// The schema, embedded in the binary.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How many shards a new database gets, unless the operator says otherwise: as many as
/// there are cores, within these bounds. Measured (decision 0003).
const SHARDS_DEFAULT: RangeInclusive<usize> = 2..=4;

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogOpenError {
    /// The schema could not be brought up to date.
    #[error("migrating the database: {0}")]
    Migrate(#[from] MigrateError),
    /// PostgreSQL said no.
    #[error("reading the installation: {0}")]
    Database(#[from] sqlx::Error),
    /// What is in it was never released.
    #[error(
        "this database was made by a version of vitals before the first release, and its log is laid \
         out otherwise: start on an empty database (or an empty --data-dir) and send the readings again"
    )]
    BeforeRelease,
    /// Who migrates is somebody else, and has not.
    #[error(
        "the schema of this database lacks {0} of our migrations, and {1} may not make them: run vitals \
         migrate --owner-database-url URL as its owner"
    )]
    Behind(usize, String),
    /// The number of shards is fixed when the database is initialised.
    #[error(
        "this database was initialised with {stored} shards, not {asked}: start with --shards {stored} (or leave it out)"
    )]
    Shards {
        /// What the database has.
        stored: i16,
        /// What was asked for.
        asked: i16,
    },
}

fn shards_by_default() -> i16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.clamp(*SHARDS_DEFAULT.start(), *SHARDS_DEFAULT.end()) as i16
}

/// Migrates, and makes what a log begins with.
pub(super) async fn install(pool: &PgPool, shards: Option<i16>) -> Result<(), LogOpenError> {
    MIGRATIONS.run(pool).await?;
    // Months from the year before on: what is older comes from clocks that run wild,
    // and from old recordings.
    sqlx::query(
        "insert into installation (id, shards, months_from) \
         values ($1, $2, extract(year from clock_timestamp() at time zone 'UTC') - 1) \
         on conflict do nothing",
    )
    .bind(Uuid::now_v7())
    .bind(shards.unwrap_or_else(shards_by_default))
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into shard_head (shard) select generate_series(0, shards - 1) from installation \
         on conflict do nothing",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// How many of our migrations were not made yet.
pub(super) async fn migrations_ahead(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let made: Vec<i64> = sqlx::query_scalar("select version from _sqlx_migrations where success")
        .fetch_all(pool)
        .await?;
    Ok(MIGRATIONS.iter().filter(|migration| !made.contains(&migration.version)).count())
}

/// Refuses a database of before the first release: its log is a table, and not a view.
pub(super) async fn refuse_unreleased(pool: &PgPool) -> Result<(), LogOpenError> {
    let is_unreleased: bool = sqlx::query_scalar(
        "select exists (select from pg_class \
                        where oid = to_regclass('public.event') and relkind = 'p')",
    )
    .fetch_one(pool)
    .await?;
    if is_unreleased { Err(LogOpenError::BeforeRelease) } else { Ok(()) }
}
