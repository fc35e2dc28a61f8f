//! How fast readings get in:
//! `cargo bench --bench ingest -- [--json] [--seconds 10] [--shards 1,2,4,8] [--roles api,workers] [--ids uuid|short] [--loads 8x100,256x1,1x1+8x10000,many]`,
//! where `1x1+8x10000` is what one connection sees while eight of another token send 10,000
//! readings a request, and `many` is 8x1000 of 100,000 devices with 12 vitals each.
//!
//! Everything is on: tokens, limits, deduplication, the hash chain, fsync, and the
//! workers behind the log. The same run inserts readings with the same ids by psql, 2,000 a
//! statement, into one wide table with all texts in each row ("plain SQL"), and into a table
//! like the log's, where a row names its series: what SQL does on this machine at this
//! moment. Prints a table and writes `target/bench/ingest.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vitals::embedded::Embedded;

use support::{Latencies, Measured, PATIENTS, Readings, Server, load, token, uuid_like_sql};

/// Rows of one plain statement, and how many statements.
const PLAIN_BATCH: u32 = 2_000;
const PLAIN_BATCHES: u32 = 200;
const CONNECTIONS_MAX: usize = 256;
const FSYNCS: usize = 200;
const DEVICES: u64 = 100_000;
const VITALS: u64 = 12;

struct Options {
    json: bool,
    seconds: u64,
    /// Nothing: as many as the server chooses.
    shards: Vec<Option<String>>,
    roles: String,
    /// Ids of 36 characters, as hospitals have them.
    uuids: bool,
    loads: Vec<Load>,
}

/// Connections and readings a request.
type Size = (usize, usize);

#[derive(Clone, Copy)]
struct Load {
    measured: Size,
    beside: Option<Size>,
    /// Of many devices.
    many: bool,
}

impl Load {
    fn read(text: &str) -> Load {
        let size = |text: &str| -> Size {
            let (connections, batch) = text.split_once('x').unwrap();
            (connections.parse().unwrap(), batch.parse().unwrap())
        };
        if text == "many" {
            return Load { measured: (8, 1_000), beside: None, many: true };
        }
        let (measured, beside) = text.split_once('+').map_or((text, None), |(m, b)| (m, Some(b)));
        Load { measured: size(measured), beside: beside.map(size), many: false }
    }
}

#[tokio::main]
async fn main() {
    let options = options();
    let mut reports = Vec::new();
    for shards in &options.shards {
        reports.push(run(&options, shards.as_deref()).await);
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("bench");
    std::fs::create_dir_all(&out).unwrap();
    let text = serde_json::to_string_pretty(reports.last().unwrap()).unwrap();
    std::fs::write(out.join("ingest.json"), &text).unwrap();
    if options.json {
        println!("{text}");
    }
}

fn options() -> Options {
    let given: Vec<String> = std::env::args().collect();
    let value =
        |name: &str| given.iter().position(|a| a == name).and_then(|at| given.get(at + 1)).cloned();
    Options {
        json: given.iter().any(|a| a == "--json"),
        seconds: value("--seconds").map_or(10, |s| s.parse().unwrap()),
        shards: value("--shards")
            .map_or(vec![None], |s| s.split(',').map(|n| Some(n.to_owned())).collect()),
        loads: value("--loads")
            .unwrap_or_else(|| "8x100,8x1000,256x1,1x1,1x1+8x10000,many".to_owned())
            .split(',')
            .map(Load::read)
            .collect(),
        uuids: value("--ids").is_none_or(|ids| ids == "uuid"),
        roles: value("--roles").unwrap_or_else(|| "api,workers".to_owned()),
    }
}

fn row(
    what: &str,
    per_second: f64,
    plain: f64,
    latencies: Option<&Latencies>,
    server: Option<(f64, f64)>,
) {
    let ms = |part| latencies.map_or(String::new(), |l| format!("{:.2}", l.ms(part)));
    let server = server.map_or(String::new(), |(mb, us)| format!("{mb:>6.0} {us:>7.1}"));
    println!(
        "{what:<44} {per_second:>11.0} {:>8.2} {:>8} {:>8} {server}",
        per_second / plain,
        ms(0.5),
        ms(0.99)
    );
}

async fn run(options: &Options, shards: Option<&str>) -> serde_json::Value {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-ingest");
    let mut arguments = vec!["--roles", &options.roles];
    arguments.extend(shards.iter().flat_map(|shards| ["--shards", shards]));
    let server = Server::start(&dir, &arguments).await;
    let tokens = tokens(&dir).await;
    let readings = Arc::new(Readings::of(PATIENTS, 1, options.uuids));
    let of_many = Arc::new(Readings::of(DEVICES, VITALS, true));
    let lasting = Duration::from_secs(options.seconds);
    // A share in the server's own database.
    let embedded = Embedded::start(&dir).await.unwrap();
    let psql = Psql {
        socket: embedded.connect_options().get_socket().unwrap().to_owned(),
        uuids: options.uuids,
    };

    let shards = psql.run("select shards from installation").trim().to_owned();
    let fsync = fsync(&dir);
    print_head(&shards, &options.roles, &fsync);
    // Before each load and after the last: the machine is not the same for long.
    let mut plain = psql.plain();
    let mut plains = vec![plain];
    let by_series = psql.by_series();
    row("plain SQL, 2,000 a statement", plain, plain, None, None);
    row("  the same, a row naming its series", by_series, plain, None, None);
    let mut many_devices = serde_json::Value::Null;
    let (mut measured, mut series, mut bytes) = (Vec::new(), vec![by_series], None);
    for &Load { measured: (connections, batch), beside, many } in &options.loads {
        let readings = if many { &of_many } else { &readings };
        let load = (connections, batch, beside);
        let Loaded { found, behind, mb, each_us } =
            one_load(&server, readings, &tokens, lasting, load).await;
        bytes.get_or_insert_with(|| psql.bytes_a_reading());
        let after = psql.plain();
        series.push(psql.by_series());
        let around = f64::midpoint(plain, after);
        plain = after;
        plains.push(after);
        let beside_what =
            beside.map_or(String::new(), |(n, large)| format!(", beside {n} × {large}"));
        let of = if many { ", 100,000 devices" } else { "" };
        let what = format!("{connections} connections, {batch} a request{beside_what}{of}");
        row(&what, found.per_second, around, Some(&found), Some((mb, each_us)));
        if let (Some((n, large)), Some(behind)) = (beside, &behind) {
            row(&format!("  the {n} × {large}"), behind.per_second, around, Some(behind), None);
        }
        if !many {
            measured.push((connections, batch, beside.is_some(), found, mb, around));
            continue;
        }
        let known = psql.run("select count(*) from series").trim().to_owned();
        println!("{:<44} {known:>11} series", "");
        many_devices = serde_json::json!({
            "per_s": found.per_second, "ratio": found.per_second / around, "rss_mb": mb,
            "series": known.parse::<u64>().unwrap(),
        });
    }
    print_averages(&plains, &series, bytes);
    server.stop().await;
    embedded.stop().await.unwrap();
    let mut said = ratios(&measured);
    said["shards"] = shards.into();
    said["roles"] = options.roles.clone().into();
    said["fdatasync_p50_ms"] = fsync.ms(0.5).into();
    let ratio = said["batch_ratio"].as_f64().unwrap_or_default();
    said["series_ratio"] = (ratio * average(&plains) / average(&series)).into();
    said["plain_per_s"] = plains.into();
    said["series_per_s"] = series.into();
    said["bytes_per_reading"] = bytes.into();
    said["many_devices"] = many_devices;
    said
}

/// What came of a load, and of the one beside it; the server's memory, and its own time a
/// reading, PostgreSQL apart: less at the mercy of the neighbours.
struct Loaded {
    found: Measured,
    behind: Option<Measured>,
    mb: f64,
    each_us: f64,
}

async fn one_load(
    server: &Server,
    readings: &Arc<Readings>,
    tokens: &[String],
    lasting: Duration,
    (connections, batch, beside): (usize, usize, Option<Size>),
) -> Loaded {
    let before = server.on_core();
    let foreground = load(server, readings, &tokens[..connections], batch, lasting);
    let (found, behind): (Measured, Option<Measured>) = match beside {
        None => (foreground.await, None),
        Some((many, large)) => {
            let one = vec![tokens[CONNECTIONS_MAX - 1].clone(); many];
            let background = load(server, readings, &one, large, lasting);
            let (found, behind) = tokio::join!(foreground, background);
            (found, Some(behind))
        }
    };
    let count = found.count + behind.as_ref().map_or(0, |behind| behind.count);
    let on_core = (server.on_core() - before).as_secs_f64() * 1e6;
    Loaded { found, behind, mb: server.resident_mb(), each_us: on_core / count as f64 }
}

async fn tokens(dir: &Path) -> Vec<String> {
    let mut tokens = Vec::new();
    for n in 0..CONNECTIONS_MAX {
        tokens.push(token(dir, &format!("gateway-{n}")).await);
    }
    tokens
}

fn average(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

fn print_averages(plains: &[f64], series: &[f64], bytes: Option<f64>) {
    let plain = average(plains);
    row("plain SQL, on average", plain, plain, None, None);
    row("  a row naming its series", average(series), plain, None, None);
    println!("{:<44} {:>11.1} bytes a reading", "", bytes.unwrap_or_default());
}

/// The heads of the table, and what the disk allows.
fn print_head(shards: &str, roles: &str, fsync: &Latencies) {
    println!("{shards} shards, roles {roles}");
    println!(
        "{:<44} {:>11} {:>8} {:>8} {:>8} {:>6} {:>7}",
        "", "readings/s", "of SQL", "p50 ms", "p99 ms", "MB", "CPU µs"
    );
    println!("{:<44} {:>29.2} {:>8.2}", "fdatasync of 8 kB", fsync.ms(0.5), fsync.ms(0.99));
}

/// A load that was measured: connections, readings a request, whether beside another, what
/// came of it, memory, and plain SQL around it.
type Done = (usize, usize, bool, Measured, f64, f64);

fn ratios(measured: &[Done]) -> serde_json::Value {
    let of = |connections, batch, beside| {
        let found = measured.iter().find(|m| (m.0, m.1, m.2) == (connections, batch, beside));
        found.map(|m| (&m.3, m.5))
    };
    let (batch, large) = (of(8, 100, false), of(8, 1_000, false));
    let (single, one, beside) = (of(CONNECTIONS_MAX, 1, false), of(1, 1, false), of(1, 1, true));
    let ms = |of: Option<(&Measured, f64)>, part| of.map(|(m, _)| m.ms(part));
    let per_second = |of: Option<(&Measured, f64)>| of.map(|(m, _)| m.per_second);
    let ratio = |of: Option<(&Measured, f64)>| of.map(|(m, around)| m.per_second / around);
    serde_json::json!({
        "batch_per_s": per_second(batch),
        "batch_ratio": ratio(batch),
        "batch_p99_ms": ms(batch, 0.99),
        "large_batch_per_s": per_second(large),
        "single_per_s": per_second(single),
        "single_ratio": ratio(single),
        "single_p50_ms": ms(single, 0.5),
        "single_p99_ms": ms(single, 0.99),
        "one_conn_p50_ms": ms(one, 0.5),
        "one_conn_p99_ms": ms(one, 0.99),
        "beside_a_backlog_p50_ms": ms(beside, 0.5),
        "beside_a_backlog_p99_ms": ms(beside, 0.99),
        "rss_mb": measured.iter().map(|m| m.4).fold(0.0, f64::max),
    })
}

/// What the disk allows.
fn fsync(dir: &Path) -> Latencies {
    let mut file = std::fs::File::create(dir.join("fsync")).unwrap();
    let block = [0; 8192];
    let ms = (0..FSYNCS)
        .map(|_| {
            file.write_all(&block).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    Latencies::new(ms)
}

/// PostgreSQL's own client on the server's database.
struct Psql {
    socket: PathBuf,
    uuids: bool,
}

impl Psql {
    /// Readings a second into one wide table: every row has all its texts.
    fn plain(&self) -> f64 {
        self.insert(
            "create table plain ( \
                 shard smallint not null, position bigint not null, tenant text not null, \
                 patient_id text not null, type text not null, vital vital, value float8, quality real, \
                 suspect boolean not null, occurred_at timestamptz not null, \
                 recorded_at timestamptz not null, source_id text not null, data json \
             ) partition by range (occurred_at); \
             create unique index on plain (shard, tenant, patient_id, vital, occurred_at, source_id); \
             create index on plain (shard, position); \
             create index on plain (shard, position) where type <> 'reading';",
            "insert into plain (shard, position, tenant, patient_id, type, vital, value, suspect, occurred_at, recorded_at, source_id) \
             select shard, n, 'bench', patient_id, 'reading', 'heart_rate', 80, false, occurred_at, now(), device_id",
        )
    }

    /// The same into a table like the log's.
    fn by_series(&self) -> f64 {
        self.insert(
            "create table plain ( \
                 position bigint not null, occurred_at timestamptz not null, recorded_at timestamptz not null, \
                 value float8 not null, series integer not null, quality real, shard smallint not null, \
                 suspect boolean not null \
             ) partition by range (occurred_at); \
             create unique index on plain (shard, series, occurred_at); \
             create index on plain (shard, position);",
            "insert into plain (position, occurred_at, recorded_at, value, series, shard, suspect) \
             select n, occurred_at, now(), 80, series, shard, false",
        )
    }

    fn insert(&self, table: &str, insert: &str) -> f64 {
        let rows = PLAIN_BATCH * PLAIN_BATCHES;
        let patient = format!("n % {PATIENTS}");
        let (id, device) = match self.uuids {
            true => {
                let of = format!("({patient})");
                (uuid_like_sql(&of, 'a'), uuid_like_sql(&of, 'd'))
            }
            false => (format!("'p' || {patient}"), "'bench'".to_owned()),
        };
        self.run(&format!(
            "set client_min_messages = warning; drop table if exists plain, source; {table} \
             create table plain_now partition of plain default; \
             create unlogged table source as \
             select n, (n % 4)::smallint as shard, {id} as patient_id, {device} as device_id, \
                    ({patient})::integer as series, \
                    now() - interval '2 hours' + n / {PATIENTS} * interval '1 millisecond' as occurred_at \
             from generate_series(1, {rows}) n; \
             create index on source (n); analyze source; checkpoint;"
        ));
        let mut statements = String::new();
        for batch in 0..PLAIN_BATCHES {
            let first = batch * PLAIN_BATCH;
            statements.push_str(&format!(
                "{insert} from source where n > {first} and n <= {first} + {PLAIN_BATCH} on conflict do nothing;\n"
            ));
        }
        let started = Instant::now();
        self.run(&statements);
        let took = started.elapsed();
        self.run("drop table plain, source; checkpoint;");
        f64::from(rows) / took.as_secs_f64()
    }

    /// What the log takes on the disk, all its tables and indexes, for each reading.
    fn bytes_a_reading(&self) -> f64 {
        self.run(
            "select (select sum(pg_total_relation_size(c.oid)) from pg_class c \
                     where c.relname in ('series', 'reading_context', 'non_reading', 'log_commit', 'shard_head') \
                        or c.oid in (select inhrelid from pg_inherits where inhparent = 'reading'::regclass)) \
                    / (select count(*) from reading)",
        )
        .trim()
        .parse()
        .unwrap()
    }

    fn run(&self, sql: &str) -> String {
        let mut psql = Command::new("psql")
            .args(["-qAt", "-v", "ON_ERROR_STOP=1", "-U", "vitals", "-d", "vitals", "-h"])
            .arg(&self.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql is installed");
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let said = psql.wait_with_output().unwrap();
        assert!(said.status.success(), "psql failed");
        String::from_utf8(said.stdout).unwrap()
    }
}
