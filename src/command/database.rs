//! Opening the database: the one that was named, or the embedded one.
//!
//! Guarantees that where there is an owner of the log beside the service, only migrations,
//! rebuilds and archives run as it, on connections that are closed soon after; and that
//! questions of somebody see the rows of their tenant only.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::timeout;

use super::error::Error;
use super::reach;
use crate::config::Common;
use crate::embedded::{Away, Embedded, Watch};
use crate::log::roles::{self, Identity, SERVICE, TENANT};
use crate::log::row_security::set_tenant;
use crate::log::{Incarnations, Log, is_idle};
use crate::projection;

/// Who waits longer for a connection of a pool is told that there is none.
const ACQUIRE_MS_MAX: u64 = 10_000;
/// A connection that was idle for longer is asked whether it still lives.
const UNTESTED_MS_MAX: u64 = 1_000;
/// The longest question.
const STATEMENT_SECONDS_MAX: u32 = 60;

/// An owner's connection that is not used is closed after this.
const OWNER_IDLE_MS_MAX: u64 = 5_000;
/// How long the embedded database may take to stop before it is left to itself.
const STOP_MS_MAX: u64 = 1_800;
/// How much of that may pass until all connections are given back.
const PARTING_MS_MAX: u64 = 300;
/// The longest pause inside a transaction; ours last milliseconds. Whoever is frozen while
/// its rules append holds up a shard's readings for so long, and not longer than a
/// request waits.
const IDLE_IN_TRANSACTION: &str = "10s";

/// Of connections that say the same few statements over and over, and whose statements are
/// written for an index each (`tests/suite/plans.rs` holds them to it, with the same
/// settings): planned once, by no statistics of a table that was still empty. Planning
/// anew took longer than all else that a fan-out does.
const STEADY: [(&str, &str); 2] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")];

/// An open database.
pub struct Database {
    /// The service's.
    options: PgConnectOptions,
    /// Of who migrates; the service's, if there is no other.
    owner: PgConnectOptions,
    /// Who the service is.
    service: Option<Identity>,
    /// All that were made, to be closed before the server stops.
    pools: Mutex<Vec<PgPool>>,
    /// Of the log, once it is open: every connection is made in the incarnation that is known.
    incarnations: Arc<OnceLock<Incarnations>>,
    embedded: Option<(Arc<Embedded>, Watch)>,
}

impl Database {
    /// Connects once, so that what is wrong is said now and clearly.
    pub async fn open(common: &Common) -> Result<Database, Error> {
        let (owner, embedded) = match &common.database_url {
            Some(url) => (reach::options(common.owner_database_url.as_ref().unwrap_or(url))?, None),
            None if common.owner_database_url.is_some() => {
                return Err(
                    "--owner-database-url goes with --database-url, which the service uses".into(),
                );
            }
            None => {
                let embedded = Arc::new(Embedded::start(&common.data_dir).await?);
                let watch = embedded.watch(common.database_away);
                (embedded.connect_options(), Some((embedded, watch)))
            }
        };
        let service = match &common.database_url {
            None => owner.clone().username(SERVICE),
            Some(url) => reach::options(url)?,
        };
        let has_owner = embedded.is_some() || common.owner_database_url.is_some();
        let (options, owner) = (of_ours(service), of_ours(owner));
        let (pools, incarnations) = (Mutex::default(), Arc::default());
        let mut database =
            Database { options, owner, service: None, pools, incarnations, embedded };
        match database.meet(has_owner, common.database_wait.unwrap_or_default()).await {
            Ok(service) => {
                database.service = Some(service);
                Ok(database)
            }
            Err(error) => {
                database.close().await?;
                Err(error)
            }
        }
    }

    /// Reaches the database as the owner, makes the service's role where that may be done
    /// and is missing, and reaches it as the service. Who that is.
    async fn meet(&self, has_owner: bool, wait: Duration) -> Result<Identity, Error> {
        let owner = reach::reach(&self.owner, wait).await?;
        if !has_owner {
            return Ok(owner);
        }
        if owner.makes_roles {
            roles::make(&mut self.owner.connect().await?).await?;
        }
        reach::reach(&self.options, wait).await
    }

    /// Says so if the service could do more than it has to.
    pub fn warn_of_rights(&self) {
        if let Some(service) = self.service.as_ref().filter(|service| service.may_rewrite) {
            tracing::warn!(
                role = service.name,
                "the database role of this service owns the log, and could rewrite it: give it one \
                 of its own (--owner-database-url; docs/operations.md)"
            );
        }
    }

    /// Why the embedded database does not answer, at any time; a named one never says why.
    pub fn away(&self) -> Away {
        let nobody = || tokio::sync::watch::channel(None).1;
        self.embedded.as_ref().map_or_else(nobody, |(_, watch)| watch.away())
    }

    /// Waits until the embedded database is lost; why.
    pub async fn lost(&self) -> String {
        match &self.embedded {
            Some((_, watch)) => watch.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Connections for those who ask and append.
    pub fn pool(&self, connections: u32) -> PgPool {
        self.connect(self.prompt_options(), connections)
    }

    /// Connections for questions of somebody: behind the wall, where there is one.
    pub fn tenant_pool(&self, connections: u32) -> PgPool {
        let walled = |service: &Identity| service.is_walled && !service.may_rewrite;
        if !self.service.as_ref().is_some_and(walled) {
            return self.pool(connections);
        }
        let options = self.prompt_options().options([("role", TENANT)]);
        let incarnations = self.incarnations.clone();
        let pool = tested(connections, incarnations.clone())
            .after_connect(move |connection, _| {
                let incarnations = incarnations.clone();
                Box::pin(async move {
                    look(&incarnations, connection).await?;
                    set_tenant(connection).await
                })
            })
            .before_acquire(|connection, used| {
                Box::pin(async move {
                    if used.idle_for >= Duration::from_millis(UNTESTED_MS_MAX) {
                        is_idle(connection).await?;
                    }
                    set_tenant(connection).await.map(|()| true)
                })
            });
        self.kept(pool.connect_lazy_with(options))
    }

    /// Connections as the owner of the log, for who migrates, rebuilds and archives.
    pub fn owner_pool(&self, connections: u32) -> PgPool {
        let pool = tested(connections, self.incarnations.clone());
        let pool = pool.idle_timeout(Duration::from_millis(OWNER_IDLE_MS_MAX));
        self.kept(pool.connect_lazy_with(self.owner.clone()))
    }

    /// Connections for those who do nothing but append; they keep theirs while there is
    /// something to append.
    pub fn writer_pool(&self, connections: u32) -> PgPool {
        self.connect(self.prompt_options().options(STEADY), connections)
    }

    fn prompt_options(&self) -> PgConnectOptions {
        let limit = format!("{STATEMENT_SECONDS_MAX}s");
        self.options.clone().options([
            ("statement_timeout", limit.as_str()),
            // Whatever the role's or the database's own setting is: it is our promise.
            ("synchronous_commit", "on"),
        ])
    }

    /// Connections for what is derived from the log. A crash may undo its last
    /// commits: checkpoint and effect go together, so they are done again.
    pub fn worker_pool(&self, connections: u32) -> PgPool {
        self.connect(self.worker_options(), connections)
    }

    /// The same for those who page: few small statements, each one waited for. Folds
    /// are planned each time, by how much there is to fold.
    pub fn alerting_pool(&self, connections: u32) -> PgPool {
        self.connect(self.worker_options().options(STEADY), connections)
    }

    fn worker_options(&self) -> PgConnectOptions {
        self.options.clone().options([("synchronous_commit", "off")])
    }

    /// Connections for commands that walk the whole log.
    pub fn enduring_pool(&self, connections: u32) -> PgPool {
        self.connect(self.options.clone(), connections)
    }

    fn connect(&self, options: PgConnectOptions, connections: u32) -> PgPool {
        self.kept(tested(connections, self.incarnations.clone()).connect_lazy_with(options))
    }

    fn kept(&self, pool: PgPool) -> PgPool {
        self.pools.lock().push(pool.clone());
        pool
    }

    /// The log and its projections, migrated and made. Those whose SQL has changed are
    /// rebuilt by the workers, while the old ones serve.
    pub async fn log(&self, common: &Common, pool: PgPool) -> Result<Log, Error> {
        // A migration may take longer than a question.
        let owner = self.owner_pool(2);
        let log = Log::open(owner.clone(), common.shards).await?;
        self.incarnations.get_or_init(|| log.incarnations().clone());
        projection::create(&log).await.map_err(|error| self.lacking(error))?;
        let owner = roles::identity(&mut *owner.acquire().await?).await?;
        if owner.may_rewrite {
            roles::share(log.pool()).await?;
        }
        Ok(log.with_pool(pool))
    }

    /// What the service may not do, its owner has to.
    fn lacking(&self, error: sqlx::Error) -> Error {
        const INSUFFICIENT_PRIVILEGE: &str = "42501";
        let code = error.as_database_error().and_then(|error| error.code());
        if code.as_deref() != Some(INSUFFICIENT_PRIVILEGE) {
            return error.into();
        }
        let why = "this version has projections that the database lacks, and its service's role may not \
                   make them: run vitals migrate --owner-database-url URL as the owner of the log";
        why.into()
    }

    /// Ends our use of it.
    pub async fn close(self) -> Result<(), Error> {
        let Database { pools, embedded, .. } = self;
        let pools = pools.into_inner();
        let stopped = async {
            // A server that stops while a connection is being given back is one more warning
            // that says nothing.
            let parting = join_all(pools.iter().map(PgPool::close));
            if timeout(Duration::from_millis(PARTING_MS_MAX), parting).await.is_err() {
                tracing::debug!("some connections are still in use");
            }
            let Some((embedded, watch)) = embedded else { return Ok(()) };
            watch.end().await;
            match Arc::into_inner(embedded) {
                Some(embedded) => embedded.stop().await,
                None => Ok(()),
            }
        };
        match timeout(Duration::from_millis(STOP_MS_MAX), stopped).await {
            Ok(stopped) => Ok(stopped?),
            Err(_) => {
                // It goes on stopping by itself, and the next start waits for it.
                tracing::warn!("the embedded database takes its time to stop; not waiting for it");
                Ok(())
            }
        }
    }
}

/// What all connections have.
fn of_ours(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name("vitals")
        .options([
            // A machine that vanishes in the middle of an append must not keep its shard.
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
            // Compiling our statements takes longer than running them.
            ("jit", "off"),
        ])
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5))
}

/// Before it is used: once the log is open, a connection may lead to no other incarnation.
async fn look(
    incarnations: &OnceLock<Incarnations>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    match incarnations.get() {
        Some(incarnations) => incarnations.check(connection).await,
        None => Ok(()),
    }
}

/// A pool that also tests what is given back: whoever asked may have stopped waiting, and
/// the pool would wait for that connection instead, for ever. A new connection first looks
/// which incarnation of the log it leads to.
fn tested(connections: u32, incarnations: Arc<OnceLock<Incarnations>>) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_millis(ACQUIRE_MS_MAX))
        .after_connect(move |connection, _| {
            let incarnations = incarnations.clone();
            Box::pin(async move { look(&incarnations, connection).await })
        })
        // Not at every use, as is the default: it would double the round trips.
        .test_before_acquire(false)
        .before_acquire(|connection, used| {
            Box::pin(async move {
                if used.idle_for >= Duration::from_millis(UNTESTED_MS_MAX) {
                    is_idle(connection).await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move { is_idle(connection).await.map(|()| true) })
        })
}
