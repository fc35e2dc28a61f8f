//! `vitals serve`: the API and the workers.
//!
//! Guarantees that `ready` is printed when requests are answered, and that SIGTERM
//! ends it within [`STOP_MS_MAX`]: requests under way are answered, what was handed
//! in is written, steps under way are finished.

use std::future::IntoFuture;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::{Error, secret};
use crate::api::auth::Keys;
use crate::api::{Api, operators, router};
use crate::clock::Clock;
use crate::config::{Common, Role, Serving};
use crate::consumer::{self, Consumer};
use crate::ingest::Ingest;
use crate::log::Log;
use crate::projection;
use crate::query::live::Live;
use crate::rules::{Raise, default_rules};
use crate::tasks::Tasks;
use crate::telemetry;
use crate::webhook::deliver::Deliverer;
use crate::webhook::guard::Guard;
use crate::webhook::{Bell, Fanout};

/// How long the end may take; the contract says 10 s, the database needs the rest.
const STOP_MS_MAX: u64 = 8_000;
/// Connections for questions.
const QUESTION_CONNECTIONS_MAX: u32 = 16;
/// Connections for workers: more shards than this take turns.
const WORKER_CONNECTIONS_MAX: u32 = 24;
/// How often the metrics forget what nobody scraped.
const METRICS_UPKEEP_MS: u64 = 5_000;

/// Options of `vitals serve`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    serving: Serving,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let served = serve(common, &options.serving, &database).await;
    database.close().await?;
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(common: &Common, serving: &Serving, database: &Database) -> Result<(), Error> {
    // First of all: whoever stops it while it migrates gets an orderly end, too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let keys = secret::keys(common)?;
    let server = tokio::select! {
        started = Server::start(common, serving, database, keys) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    println!("ready http://{}", server.address);
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        which = server.tasks.failed() => {
            // Not stopped but ended: what is left of this process is not to be trusted.
            return Err(format!("{which} panicked; the log has what was acknowledged").into());
        }
    }
    tracing::info!("stopping");
    server.stop().await
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    stop: CancellationToken,
    tasks: Tasks,
    http: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Starts the roles that are asked for.
    pub async fn start(
        common: &Common,
        serving: &Serving,
        database: &Database,
        keys: Keys,
    ) -> Result<Server, Error> {
        // Before anything that takes time, so that a taken port is said at once.
        let listener = TcpListener::bind(serving.listen)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", serving.listen))?;
        let address = listener.local_addr()?;
        let metrics = telemetry::metrics()?;
        let log = database.log(common, database.pool(QUESTION_CONNECTIONS_MAX)).await?;
        let (stop, tasks) = (CancellationToken::new(), Tasks::default());
        tasks.spawn_until("the metrics' upkeep", &stop, upkeep(metrics.clone()));
        let relay = log.clone();
        let relay_pool = database.worker_pool(2);
        tasks.spawn_until("the relay", &stop, async move { relay.wake().relay(relay_pool).await });

        let guard = Guard::new(&serving.allow_webhook_net);
        if serving.roles.contains(&Role::Workers) {
            let pool = database.worker_pool(WORKER_CONNECTIONS_MAX);
            start_workers(&log, &pool, &guard, &serving.public_url, &stop, &tasks).await?;
        }
        let router = if serving.roles.contains(&Role::Api) {
            // One connection a writer: an append never waits for a question.
            let connections = u32::try_from(log.shards().count())? + 1;
            let ingest = Ingest::start(&log.with_pool(database.pool(connections)), &tasks);
            let live = Live::start(&log, &tasks, &stop);
            let (clock, stop) = (Clock::system(), stop.clone());
            router(Api { log, ingest, live, keys, clock, guard, metrics, stop })
        } else {
            operators(log, metrics)
        };
        let listener = listener.tap_io(|stream| {
            // An answer is one small packet: it must not wait for a second one.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was not set");
            }
        });
        let until = stop.clone().cancelled_owned();
        let served = axum::serve(listener, router).with_graceful_shutdown(until);
        let http = tokio::spawn(served.into_future());
        Ok(Server { address, stop, tasks, http })
    }

    /// Stops: no new work, then what is under way.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        let all = async {
            // The router goes first, and with it the last door to the writers.
            let served = self.http.await;
            self.tasks.ended().await;
            served
        };
        match tokio::time::timeout(Duration::from_millis(STOP_MS_MAX), all).await {
            Ok(served) => Ok(served??),
            Err(_) => {
                // What is not finished was not acknowledged, or is in the log.
                tracing::warn!("some work did not end in time; the log has what it acknowledged");
                Ok(())
            }
        }
    }
}

async fn start_workers(
    log: &Log,
    pool: &PgPool,
    guard: &Guard,
    public_url: &str,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    let bell = Bell::default();
    let rules = Raise::new(log.clone(), default_rules()?);
    follow(log, pool, rules, stop, tasks).await?;
    follow(log, pool, Fanout::new(bell.clone(), public_url), stop, tasks).await?;
    for projection in &projection::ALL {
        follow(log, pool, projection::Apply(projection), stop, tasks).await?;
    }
    let deliverer = Deliverer::new(log, pool.clone(), guard.clone(), Clock::system(), bell)?;
    tasks.spawn("the deliverer", deliverer.run(stop.clone()));
    Ok(())
}

/// One task a shard.
async fn follow<C: Consumer>(
    log: &Log,
    pool: &PgPool,
    consumer: C,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    consumer::register(&mut *pool.acquire().await?, consumer.name(), log.shards()).await?;
    let consumer = Arc::new(consumer);
    for shard in log.shards() {
        let (log, pool, stop) = (log.clone(), pool.clone(), stop.clone());
        tasks.spawn("a consumer", consumer::run(log, pool, consumer.clone(), shard, stop));
    }
    Ok(())
}

async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_millis(METRICS_UPKEEP_MS)).await;
        metrics.run_upkeep();
    }
}
