//! `vitals serve`: the API and the workers.
//!
//! Guarantees that `ready` is printed when requests are answered, and that SIGTERM
//! ends it: first it says that it goes away, while requests are still answered; then it
//! listens no more, requests under way are answered, what was handed in is written, steps
//! under way are finished. With the usual `--drain` that takes less than ten seconds. Ends
//! by itself, with an error, when a task of its own panics and when the embedded database
//! does not come back.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::error::Error;
use super::listen::Listening;
use super::rebuilds::{REBUILD_CONNECTIONS_MAX, renew};
use super::revoked::Follower;
use super::{api_keys, audited, descriptors, incarnation, jobs, limits, secret, signin, traces};
use crate::adapter::http::availability::Availability;
use crate::adapter::http::connections::tls::Tls;
use crate::adapter::http::cors::Origins;
use crate::adapter::http::{Api, connections, operators, router};
use crate::auth::Keys;
use crate::clock::Clock;
use crate::config::{Common, Role, Serving};
use crate::consumer::{self, Consumer};
use crate::delivery::ack::AckLinks;
use crate::delivery::deliver::Deliverer;
use crate::delivery::heartbeat::Heartbeats;
use crate::delivery::webhook::EndpointClients;
use crate::delivery::webhook::guard::Guard;
use crate::delivery::{DeliveryQueue, Fanout, gauges, secrets};
use crate::intake::{Intake, Writers};
use crate::jobs::Jobs;
use crate::limits::shares::Shares;
use crate::log::Log;
use crate::projection;
use crate::query::live::Live;
use crate::rules::{RuleSnapshot, RulesConsumer, ticks};
use crate::tasks::Tasks;
use crate::telemetry;

/// How long the end may take; the contract says 10 s, the database needs the rest.
const STOP_MS_MAX: u64 = 8_000;
/// How much of that is left in any case when it has been said that this process goes away.
const STOP_MS_MIN: u64 = 2_500;
/// How long a start waits for a database that is away, unless an option says otherwise.
const DATABASE_WAIT_SECONDS: u64 = 30;
/// Connections for questions of somebody.
const QUESTION_CONNECTIONS_MAX: u32 = 16;
/// Connections for what is asked for no caller, or for all: streams, health, backtests.
const COMMON_CONNECTIONS_MAX: u32 = 8;
/// Connections for those who page: the deliverer, heartbeats, clocks, gauges. The rules and
/// the fan-out of each shard have one of their own, which has said all they say before.
const ALERTING_CONNECTIONS_MAX: u32 = 4;
/// Connections for folds, which take turns: no page waits for one of these.
const FOLD_CONNECTIONS_MAX: u32 = 3;
/// How often the coming months are made sure of.
const AHEAD_SECONDS: u64 = 3_600;
/// How long a month that came back is still refused, at most.
const ARCHIVED_SECONDS: u64 = 10;
/// How often the metrics forget what was not scraped.
const METRICS_UPKEEP_MS: u64 = 5_000;

/// Options of `vitals serve`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    serving: Serving,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    // First of all: whoever stops it while it waits or migrates gets an orderly end, too.
    let mut ends = Ends::listen()?;
    let common = &with_long_wait(common);
    let database = tokio::select! {
        opened = Database::open(common) => opened?,
        _ = ends.next() => return Ok(ExitCode::SUCCESS),
    };
    let served = serve(common, &options.serving, &database, &mut ends).await;
    database.close().await?;
    served.map(|()| ExitCode::SUCCESS)
}

/// The same options, with time for a database that starts beside this process.
pub fn with_long_wait(common: &Common) -> Common {
    let wait = common.database_wait.unwrap_or(Duration::from_secs(DATABASE_WAIT_SECONDS));
    Common { database_wait: Some(wait), ..common.clone() }
}

async fn serve(
    common: &Common,
    serving: &Serving,
    database: &Database,
    ends: &mut Ends,
) -> Result<(), Error> {
    let lost = async || format!("the embedded database is lost: {}", database.lost().await);
    let keys = secret::serving_keys(common, serving).await?;
    let server = tokio::select! {
        started = Server::start(common, serving, database, keys) => started?,
        _ = ends.next() => return Ok(()),
        why = lost() => return Err(why.into()),
    };
    println!("ready {}", server.url);
    std::io::stdout().flush()?;
    let end = tokio::select! {
        end = ends.next() => end,
        why = lost() => return Err(why.into()),
        which = server.tasks.failed() => {
            // Not stopped but ended: what is left of this process is not to be trusted.
            return Err(format!("{which} panicked; the log has what was acknowledged").into());
        }
    };
    // Whoever sits before it wants it to end now.
    let drain = if end == End::Asked { serving.drain } else { Duration::ZERO };
    tracing::info!("going away: requests are answered for another {} s", drain.as_secs_f64());
    server.draining.cancel();
    tokio::select! {
        () = tokio::time::sleep(drain) => {}
        _ = ends.next() => {}
    }
    tracing::info!("stopping");
    let left = Duration::from_millis(STOP_MS_MAX).saturating_sub(drain);
    server.stop_within(left.max(Duration::from_millis(STOP_MS_MIN))).await
}

/// How this process is told to end.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By who supervises it.
    Asked,
    /// At a terminal.
    Interrupted,
}

impl Ends {
    fn listen() -> std::io::Result<Ends> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Ends { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Asked,
            _ = self.interrupt.recv() => End::Interrupted,
        }
    }
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is reached there.
    pub url: String,
    /// Says that it goes away.
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: Tasks,
    http: JoinHandle<()>,
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
        let listening = Listening::open(serving, keys.revocations()).await?;
        let (address, url, metrics) = (listening.address, listening.url(), telemetry::metrics()?);
        let connections_max = descriptors::connections(serving.connections as usize);
        let log = database.log(common, database.pool(COMMON_CONNECTIONS_MAX)).await?;
        database.warn_of_rights();
        let (stop, tasks) = (CancellationToken::new(), Tasks::default());
        let draining = CancellationToken::new();
        traces::start(serving, &log, &stop, &tasks)?;
        let Listening { listener, tls, .. } = listening;
        tasks.spawn_until("the certificates' upkeep", &stop, keep_certificates(tls.clone()));
        let (away, certificate) = (database.away(), tls.clone());
        let availability = Availability { away, draining: draining.clone(), certificate };
        start_upkeep(&log, database, &metrics, &stop, &tasks);
        incarnation::keep(&log, database, serving, &stop, &tasks).await?;

        let keys = start_keys(keys, &log, &stop, &tasks).await?;
        let webhooks = Webhooks::open(common, serving, &log).await?;
        let jobs = Jobs::new(log.pool().clone());
        audited::tell(&log, database, serving, &stop, &tasks)?;
        if serving.roles.contains(&Role::Workers) {
            start_folds(&log, database, serving.self_check_pause, &stop, &tasks).await?;
            jobs::start(&log, database, &jobs, &stop, &tasks);
            start_alerting(&log, database, &webhooks, &serving.public_url, &stop, &tasks).await?;
        }
        let service = if serving.roles.contains(&Role::Api) {
            // One connection a writer: an append never waits for a question.
            let pool = database.writer_pool(u32::try_from(log.shards().count())? + 1);
            let writers = Writers::start(&log.with_pool(pool), &tasks);
            let audit = audited::record(&log, database, serving, &tasks);
            let live = Live::start(&log, &tasks, &stop);
            let limits = limits::start(database, serving, &stop, &tasks).await?;
            let shares = Arc::new(Shares::new(connections_max));
            let clock = Clock::system();
            let intake = Intake::new(writers, Some(limits.clone()), clock.clone());
            let sign_in = signin::start(
                (common, serving),
                &log,
                &keys,
                &webhooks.links,
                &audit,
                (&stop, &tasks),
            )?;
            let Webhooks { clients, links } = webhooks;
            router(Api {
                questions: log.with_pool(database.tenant_pool(QUESTION_CONNECTIONS_MAX)),
                log,
                intake,
                live,
                keys,
                audit,
                limits,
                shares,
                clock,
                jobs,
                clients,
                tickets: links.seal("tickets")?,
                links,
                sign_in,
                metrics,
                availability,
                stop: stop.clone(),
                origins: Origins::new(&serving.cors_origin),
                is_simulated: serving.is_simulated,
            })
        } else {
            operators(log, Clock::system(), metrics, availability).into()
        };
        let http =
            tokio::spawn(connections::serve(listener, tls, service, connections_max, stop.clone()));
        Ok(Server { address, url, draining, stop, tasks, http })
    }

    /// Stops: no new work, then what is under way.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop_within(Duration::from_millis(STOP_MS_MAX)).await
    }

    async fn stop_within(self, limit: Duration) -> Result<(), Error> {
        self.draining.cancel();
        self.stop.cancel();
        let all = async {
            // The router goes first, and with it the last sender to the writers.
            let served = self.http.await;
            self.tasks.ended().await;
            served
        };
        match tokio::time::timeout(limit, all).await {
            Ok(served) => Ok(served?),
            Err(_) => {
                // What is not finished was not acknowledged, or is in the log.
                tracing::warn!("some work did not end in time; the log has what it acknowledged");
                Ok(())
            }
        }
    }
}

/// What the API and the workers know of webhooks.
struct Webhooks {
    clients: EndpointClients,
    links: AckLinks,
}

impl Webhooks {
    /// Opens every secret first, so that a missing key is said now.
    async fn open(common: &Common, serving: &Serving, log: &Log) -> Result<Webhooks, Error> {
        let (pool, seal) = (log.pool(), secret::seal(common)?);
        let taken = secrets::take_over(pool, &seal).await?;
        if taken > 0 {
            tracing::info!(webhooks = taken, key = seal.key_name(), "sealed their secrets");
        }
        let links = AckLinks::new(&secrets::ack_key(pool, &seal).await?);
        let guard = Guard::new(&serving.allow_webhook_net);
        Ok(Webhooks { clients: EndpointClients::new(log, guard, seal)?, links })
    }
}

/// What any server does beside its roles.
fn start_upkeep(
    log: &Log,
    database: &Database,
    metrics: &PrometheusHandle,
    stop: &CancellationToken,
    tasks: &Tasks,
) {
    tasks.spawn_until("the metrics' upkeep", stop, upkeep(metrics.clone()));
    let of_worker = log.with_pool(database.worker_pool(1));
    tasks.spawn_until("the months", stop, months(of_worker, Clock::system()));
    let (relay, relay_pool) = (log.clone(), database.worker_pool(2));
    tasks.spawn_until("the relay", stop, async move { relay.wake().relay(relay_pool).await });
}

/// Who may call, as far as the log and its tables know: known before anybody is answered.
async fn start_keys(
    keys: Keys,
    log: &Log,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<Keys, Error> {
    let keys = keys.with_api_keys(api_keys::start(log, stop, tasks));
    tasks.spawn_until("the keys' upkeep", stop, keys.clone().keep());
    let follower = Follower::open(log.clone(), keys.revocations()).await?;
    tasks.spawn_until("who follows what is revoked", stop, follower.follow());
    Ok(keys)
}

/// Starts what folds the log into tables, and looks whether they are right.
async fn start_folds(
    log: &Log,
    database: &Database,
    self_check_pause: Duration,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    let folds = database.worker_pool(FOLD_CONNECTIONS_MAX);
    let of_rebuilds = log.with_pool(database.owner_pool(REBUILD_CONNECTIONS_MAX));
    tasks.spawn_until("the rebuilds", stop, renew(of_rebuilds));
    let of_check = log.with_pool(database.enduring_pool(1));
    let check = projection::check_always(of_check, self_check_pause);
    tasks.spawn_until("the self-check", stop, check);
    let turns = Arc::new(Semaphore::new(folds_at_once()));
    for projection in &projection::ALL {
        let fold = Arc::new(projection::Apply(projection));
        let turns = Some(turns.clone());
        follow(log, &folds, || folds.clone(), fold, turns, stop, tasks).await?;
    }
    Ok(())
}

/// Those who page: rules, fan-out, deliverer.
async fn start_alerting(
    log: &Log,
    database: &Database,
    webhooks: &Webhooks,
    public_url: &str,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    let (queue, pool) =
        (DeliveryQueue::default(), &database.alerting_pool(ALERTING_CONNECTIONS_MAX));
    let own = || database.alerting_pool(1);
    let rules = Arc::new(RulesConsumer::new(log.clone(), RuleSnapshot::new()?));
    follow(log, pool, own, rules.clone(), None, stop, tasks).await?;
    for shard in log.shards() {
        let (rules, pool, stop) = (rules.clone(), pool.clone(), stop.clone());
        tasks.spawn("the rules' clock", ticks::run(rules, pool, shard, stop));
    }
    let fanout = Arc::new(Fanout::new(queue.clone(), webhooks.links.clone(), public_url));
    follow(log, pool, own, fanout, None, stop, tasks).await?;
    let heartbeats = Heartbeats::new(log, pool.clone(), queue.clone());
    tasks.spawn("the heartbeats", heartbeats.run(stop.clone()));
    let clients = webhooks.clients.clone();
    let deliverer = Deliverer::new(log, pool.clone(), clients, Clock::system(), queue);
    tasks.spawn("the deliverer", deliverer.run(stop.clone()));
    tasks.spawn_until("the webhooks' gauges", stop, gauges::keep(pool.clone()));
    Ok(())
}

/// Folds that are not waited for have half of the cores at most, for what comes in meanwhile
/// waits for them (decision 0009); and leave a connection to those that
/// somebody waits for.
fn folds_at_once() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, FOLD_CONNECTIONS_MAX as usize - 1)
}

/// One task a shard, with the connections that `of_shard` says.
async fn follow<C: Consumer>(
    log: &Log,
    pool: &PgPool,
    of_shard: impl Fn() -> PgPool,
    consumer: Arc<C>,
    turns: Option<Arc<Semaphore>>,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    consumer::register(&mut *pool.acquire().await?, consumer.name(), log.shards()).await?;
    for shard in log.shards() {
        let (log, pool, consumer) = (log.clone(), of_shard(), consumer.clone());
        let run = consumer::run(log, pool, consumer, shard, turns.clone(), stop.clone());
        tasks.spawn("a consumer", run);
    }
    tasks.spawn("who resumes", consumer::resume_asked(pool.clone(), consumer, stop.clone()));
    Ok(())
}

/// Months are made before they are needed; on demand stays, for other times. What was
/// archived, or has come back, by another process is learned.
async fn months(log: Log, clock: Clock) {
    let mut made: Option<Instant> = None;
    loop {
        let due = made.is_none_or(|at| at.elapsed() >= Duration::from_secs(AHEAD_SECONDS));
        if due {
            match log.ensure_partitions_ahead(clock.now()).await {
                Ok(()) => made = Some(Instant::now()),
                Err(error) => tracing::error!(%error, "the coming months have no partitions yet"),
            }
        }
        if let Err(error) = log.reload_archived().await {
            tracing::debug!(%error, "not known which months are archived; they refuse all the same");
        }
        tokio::time::sleep(Duration::from_secs(ARCHIVED_SECONDS)).await;
    }
}

async fn keep_certificates(tls: Option<Arc<Tls>>) {
    match tls {
        Some(tls) => tls.keep().await,
        None => std::future::pending().await,
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_millis(METRICS_UPKEEP_MS)).await;
        metrics.run_upkeep();
    }
}
