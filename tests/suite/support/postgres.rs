//! A database of its own for every test, cloned from a template that is migrated
//! once a run.
//!
//! The server is the one of VITALS_TEST_DATABASE_URL, or a private one that all
//! tests of the run share. It runs without fsync: what these tests kill is vitals.
//! The tests that kill PostgreSQL start one of their own.

use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;
use vitals::consumer;
use vitals::embedded::Embedded;
use vitals::log::{Log, roles};
use vitals::projection;

use super::eventually;

/// Databases of runs that did not end well are removed after this long.
const STALE_SECONDS: u64 = 2 * 3600;
/// Consumers have read an imported recording within this, also on a busy machine.
const FOLLOWED: Duration = Duration::from_secs(120);

/// The server of all tests.
struct Shared {
    runtime: tokio::runtime::Runtime,
    server: PgConnectOptions,
    /// Holds our share of the private server.
    _embedded: Option<Embedded>,
    template: String,
}

static SHARED: OnceLock<Shared> = OnceLock::new();

fn shared() -> &'static Shared {
    SHARED.get_or_init(|| {
        // A thread of its own: the caller is inside a test's runtime.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let (server, embedded, template) = runtime.block_on(prepare());
            Shared { runtime, server, _embedded: embedded, template }
        })
        .join()
        .expect("a server and a template")
    })
}

async fn prepare() -> (PgConnectOptions, Option<Embedded>, String) {
    let (server, embedded) = match std::env::var("VITALS_TEST_DATABASE_URL") {
        Ok(url) => (PgConnectOptions::from_str(&url).expect("a database URL"), None),
        Err(_) => {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres");
            let settings = [("fsync", "off"), ("max_connections", "500")];
            let embedded = Embedded::start_with(&dir, &settings).await.expect("PostgreSQL");
            (embedded.connect_options(), Some(embedded))
        }
    };
    let mut admin = PgConnection::connect_with(&server).await.expect("a connection");
    remove_stale(&mut admin).await;
    let template = name("template");
    run(&mut admin, format!("create database {template}")).await;
    let pool = PgPoolOptions::new().connect_lazy_with(server.clone().database(&template));
    let log = Log::open(pool.clone(), None).await.expect("migrations");
    projection::install(&log).await.expect("projections");
    // What a service of the tests has, whichever of them starts first.
    roles::make(&mut pool.acquire().await.expect("a connection")).await.expect("roles");
    roles::share(&pool).await.expect("rights");
    // A copy is another history than its original; here each copy is a new database.
    sqlx::query("delete from incarnation").execute(&pool).await.expect("no history yet");
    pool.close().await;
    (server, embedded, template)
}

fn name(what: &str) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    // PostgreSQL cuts names off at 63 bytes.
    format!("vitals_test_{now}_{what}_{:016x}", Uuid::new_v4().as_u64_pair().0)
}

async fn remove_stale(admin: &mut PgConnection) {
    let names: Vec<String> = sqlx::query_scalar(
        "select datname::text from pg_database where datname like 'vitals\\_test\\_%'",
    )
    .fetch_all(&mut *admin)
    .await
    .expect("the databases");
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    for name in names {
        let made = name.split('_').nth(2).and_then(|made| made.parse::<u64>().ok());
        if made.is_some_and(|made| made + STALE_SECONDS < now) {
            run(admin, format!("drop database if exists {name} with (force)")).await;
        }
    }
}

async fn run(admin: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.expect("SQL of our own");
}

/// Waits until every consumer has read all of the log. The rules append in the step that
/// reads, so nobody has anything left to say of what was stored before.
pub async fn caught_up(pool: &PgPool) {
    eventually("everybody to have followed the log", FOLLOWED, || async {
        let lag = consumer::lag(pool).await.expect("the lags");
        assert!(!lag.is_empty(), "nobody follows");
        lag.iter().all(|(_, behind)| *behind == 0).then_some(())
    })
    .await;
}

/// A database for one test; gone when it is dropped.
pub struct Database {
    /// How to reach it, also for the binary.
    pub url: String,
    name: String,
}

impl Database {
    /// A new one, migrated.
    pub async fn new() -> Database {
        let database = tokio::task::spawn_blocking(|| {
            let shared = shared();
            let name = name("db");
            let sql = format!("create database {name} template {}", shared.template);
            shared.runtime.block_on(async {
                let mut admin = PgConnection::connect_with(&shared.server).await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
                admin.close().await
            })?;
            Ok::<_, sqlx::Error>(Database { url: url_of(&shared.server, &name), name })
        });
        database.await.expect("no panic").expect("a database")
    }

    /// Connections to it, for the test's own looks.
    pub fn pool(&self) -> PgPool {
        let options = PgConnectOptions::from_str(&self.url).expect("a database URL");
        PgPoolOptions::new().max_connections(20).connect_lazy_with(options)
    }

    /// The log on it.
    pub async fn log(&self) -> Log {
        Log::open(self.pool(), None).await.expect("a log")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("drop database if exists {} with (force)", self.name);
        let dropped = std::thread::spawn(move || {
            let shared = shared();
            shared.runtime.block_on(async {
                let mut admin = PgConnection::connect_with(&shared.server).await?;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await
            })
        });
        if !matches!(dropped.join(), Ok(Ok(_))) {
            eprintln!("database {} was left behind", self.name);
        }
    }
}

/// A URL, because the binary takes nothing else.
fn url_of(server: &PgConnectOptions, database: &str) -> String {
    match server.get_socket() {
        Some(_) => url_of_server(&server.clone().database(database)),
        None => {
            let url = std::env::var("VITALS_TEST_DATABASE_URL").expect("no socket, so a URL");
            let mut url = reqwest::Url::parse(&url).expect("a URL");
            url.set_path(database);
            url.into()
        }
    }
}

/// A URL for a server that is reached through its socket.
pub fn url_of_server(server: &PgConnectOptions) -> String {
    let socket = server.get_socket().expect("a socket").to_string_lossy().replace('/', "%2F");
    let (user, port) = (server.get_username(), server.get_port());
    let database = server.get_database().expect("a database");
    format!("postgres://{user}@localhost:{port}/{database}?host={socket}")
}
