//! How fast the past is asked for:
//! `cargo bench --bench temporal -- [--json] [--readings 1000000] [--asks 1000]`.
//!
//! One patient with a million readings of 40 series (five vitals, eight monitors) over 22 months of partitions, one in
//! a hundred recorded two hours late, on the real binary and an embedded PostgreSQL with
//! durability on. Beside each answer the same run asks the bare SQL of it, prepared, on a
//! connection of its own; beside the replay psql copies the same events out. Prints a table
//! and writes `target/bench/temporal.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench may fail loudly"
)]

mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use vitals::clock::{Clock, rfc3339};
use vitals::embedded::Embedded;
use vitals::log::Log;

use support::{Client, Latencies, Server, token, vitals};

const TENANT: &str = "bench";
const PATIENT: &str = "p";
/// Five vitals by eight monitors.
const SERIES: usize = 40;
/// From the first reading to the last.
const DAYS: i64 = 660;
/// Answers that are thrown away: plans are made, pages are read.
const WARM_UP: usize = 300;
/// Of age's own documentation: nobody needs to read what is measured.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// Times that a whole history is taken.
const WHOLE: usize = 3;

fn option(name: &str, default: usize) -> usize {
    let given: Vec<String> = std::env::args().collect();
    let value = given.iter().position(|a| a == name).and_then(|at| given.get(at + 1));
    value.map_or(default, |value| value.parse().unwrap())
}

#[tokio::main]
async fn main() {
    let (readings, asks) = (option("--readings", 1_000_000), option("--asks", 1_000));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-temporal");
    let server = Server::start(&dir, &[]).await;
    let embedded = Embedded::start(&dir).await.unwrap();
    let bench = Bench::fill(&embedded.connect_options(), readings).await;
    println!("{readings} readings of one patient over {DAYS} days");
    let mut report = Map::new();
    let mut client = Client::connect(&server.address, &token(&dir, "bench").await).await;
    println!("{:<40} {:>8} {:>8} {:>8} {:>8}", "", "p50 ms", "p99 ms", "SQL p50", "SQL p99");
    for question in QUESTIONS {
        bench.measure(&mut client, question, asks, &mut report).await;
    }
    println!("{:<40} {:>12} {:>8} {:>8}", "", "readings/s", "of COPY", "MB");
    bench.whole(&dir, &server, &embedded, readings, &mut report).await;
    bench.pool.close().await;
    server.stop().await;
    embedded.stop().await.unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("bench");
    std::fs::create_dir_all(&out).unwrap();
    let text = serde_json::to_string_pretty(&Value::Object(report)).unwrap();
    std::fs::write(out.join("temporal.json"), &text).unwrap();
    if std::env::args().any(|a| a == "--json") {
        println!("{text}");
    }
}

/// What is asked of a random moment.
#[derive(Clone, Copy)]
enum Question {
    AsOf,
    AsOfKnownAt,
    Diff,
    Page,
    Minutes,
    Days,
    Points,
}

const QUESTIONS: [Question; 7] = [
    Question::AsOf,
    Question::AsOfKnownAt,
    Question::Diff,
    Question::Page,
    Question::Minutes,
    Question::Days,
    Question::Points,
];

impl Question {
    /// The row of the table, and the key in the report.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Question::AsOf => ("state, asOf", "as_of"),
            Question::AsOfKnownAt => ("state, asOf and knownAt", "known_at"),
            Question::Diff => ("diff, a day back", "diff"),
            Question::Page => ("history, a page of 500", "history_page"),
            Question::Minutes => ("history, a day by every=5m", "history_minutes"),
            Question::Days => ("history, 90 days by every=1d", "history_days"),
            Question::Points => ("history, 30 days in points=500", "history_points"),
        }
    }

    fn path(self, at: DateTime<Utc>) -> String {
        let before = |days| rfc3339(at - TimeDelta::days(days));
        let at = rfc3339(at);
        let query = match self {
            Question::AsOf => format!("?asOf={at}"),
            Question::AsOfKnownAt => format!("?asOf={at}&knownAt={at}"),
            Question::Diff => format!("/diff?asOf={at}"),
            Question::Page => format!("/readings?from={at}&limit=500"),
            Question::Minutes => {
                format!("/readings?vital=heart_rate&from={}&to={at}&every=5m", before(1))
            }
            Question::Days => {
                format!("/readings?vital=heart_rate&from={}&to={at}&every=1d", before(90))
            }
            Question::Points => {
                format!("/readings?vital=heart_rate&from={}&to={at}&points=500", before(30))
            }
        };
        format!("/api/v1/patients/{PATIENT}{query}")
    }
}

/// A filled database.
struct Bench {
    pool: PgPool,
    shard: i16,
    end: DateTime<Utc>,
}

impl Bench {
    async fn fill(options: &PgConnectOptions, readings: usize) -> Bench {
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options.clone());
        let log = Log::open(pool.clone(), None).await.unwrap();
        let shard = log.shard_of(TENANT, PATIENT);
        let end = Clock::system().now() - TimeDelta::hours(3);
        let days = (0..=DAYS).map(|day| end - TimeDelta::days(day));
        log.ensure_partitions(days).await.unwrap();
        // Not by appends: they would all be recorded today.
        let fill = format!(
            "insert into series (shard, series, tenant, patient_id, vital, source_id) \
             select {shard}, 1 + n, '{TENANT}', '{PATIENT}', \
                    ('{{heart_rate,respiratory_rate,spo2,systolic_bp,body_temperature}}'::vital[])[1 + n % 5], \
                    'monitor-' || n / 5 \
             from generate_series(0, {SERIES} - 1) n; \
             insert into reading (shard, position, series, value, suspect, occurred_at, recorded_at) \
             select {shard}, row_number() over (order by recorded_at, n), 1 + n % {SERIES}, \
                    (array[80, 16, 96, 120, 37])[1 + n % 5] + (n::bigint * 7919 % 40) / 10.0, false, \
                    occurred_at, recorded_at \
             from (select n, occurred_at, \
                          occurred_at + case when n % 100 = 99 then interval '2 hours' \
                                             else interval '800 ms' end as recorded_at \
                   from (select n, timestamptz '{}' - (({readings} - n) / 5) * \
                                   (interval '{} seconds' / {readings}) as occurred_at \
                         from generate_series(1, {readings}) n) t) r; \
             insert into log_commit (shard, position_from, position_to, events, series_to, occurred_min, \
                                     occurred_max, recorded_at, hash) \
             select {shard}, min(position), max(position), count(*), {SERIES}, min(occurred_at), \
                    max(occurred_at), max(recorded_at), '' \
             from reading group by (position - 1) / 5000; \
             update shard_head set position = {readings}, series = {SERIES}, series_committed = {SERIES}, \
                                   recorded_at = (select max(recorded_at) from reading) \
             where shard = {shard}",
            end.to_rfc3339(),
            DAYS * 86_400 * 5,
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&pool).await.unwrap();
        sqlx::raw_sql("vacuum analyze").execute(&pool).await.unwrap();
        // The workers' folding is not to be measured.
        let behind = "select count(*) from checkpoint c join shard_head h using (shard) \
                      where c.position < h.position";
        while sqlx::query_scalar::<_, i64>(behind).fetch_one(&pool).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Nor what comes after a million rows: vacuum, and pages that are still to be written.
        sqlx::raw_sql("vacuum analyze").execute(&pool).await.unwrap();
        sqlx::raw_sql("checkpoint").execute(&pool).await.unwrap();
        Bench { pool, shard, end }
    }

    async fn measure(
        &self,
        client: &mut Client,
        question: Question,
        asks: usize,
        report: &mut Map<String, Value>,
    ) {
        let mut random = StdRng::seed_from_u64(7);
        // Of some moments there is nothing: no reading came late that day.
        let (mut ours, mut bare, mut found) = (Vec::new(), Vec::new(), false);
        for n in 0..asks + WARM_UP {
            let back = TimeDelta::seconds(random.random_range(0..(DAYS - 100) * 86_400));
            let at = self.end - back;
            let path = question.path(at);
            let began = Instant::now();
            assert_eq!(client.get(&path).await, 200, "{path}");
            let answered = began.elapsed().as_secs_f64() * 1e3;
            let began = Instant::now();
            found |= !self.bare(question, at).await.is_empty();
            let asked = began.elapsed().as_secs_f64() * 1e3;
            if n >= WARM_UP {
                ours.push(answered);
                bare.push(asked);
            }
        }
        assert!(found, "nothing was ever found");
        let (ours, bare) = (Latencies::new(ours), Latencies::new(bare));
        let (name, key) = question.name();
        let row = [ours.ms(0.5), ours.ms(0.99), bare.ms(0.5), bare.ms(0.99)];
        let [a, b, c, d] = row;
        println!("{name:<40} {a:>8.2} {b:>8.2} {c:>8.2} {d:>8.2}");
        for (what, ms) in ["p50_ms", "p99_ms", "sql_p50_ms", "sql_p99_ms"].into_iter().zip(row) {
            report.insert(format!("{key}_{what}"), ms.into());
        }
        report.insert(format!("{key}_p99_of_sql"), (b / d).into());
    }

    /// The least that PostgreSQL can be asked for the same.
    async fn bare(&self, question: Question, at: DateTime<Utc>) -> Vec<PgRow> {
        let newest = "select distinct on (s.vital) s.vital, e.* from series s \
                      cross join lateral ( \
                          select value, suspect, occurred_at, recorded_at, s.source_id from reading r \
                          where r.shard = $1 and r.series = s.series \
                            and occurred_at <= $4 and recorded_at <= $5 \
                          order by occurred_at desc limit 1) e \
                      where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 \
                      order by s.vital, e.occurred_at desc";
        let late = "select vital, value, occurred_at, recorded_at, source_id \
                    from series s join reading r on r.shard = $1 and r.series = s.series \
                    where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 \
                      and occurred_at > $4 - interval '1 day' and occurred_at <= $4 and recorded_at > $5 \
                    order by occurred_at limit 500";
        let page = "select vital, value, occurred_at, recorded_at, source_id \
                    from series s join reading r on r.shard = $1 and r.series = s.series \
                    where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 \
                      and occurred_at >= $4 and occurred_at < $5 order by occurred_at limit 500";
        let buckets = "select date_bin($6, occurred_at, 'epoch'), min(value), max(value), avg(value), count(*) \
                       from series s join reading r on r.shard = $1 and r.series = s.series \
                       where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = 'heart_rate' \
                         and occurred_at >= $4 and occurred_at < $5 group by 1 order by 1";
        let all = "select value, occurred_at, recorded_at, source_id \
                   from series s join reading r on r.shard = $1 and r.series = s.series \
                   where s.shard = $1 and s.tenant = $2 and s.patient_id = $3 and s.vital = 'heart_rate' \
                     and occurred_at >= $4 and occurred_at < $5 order by occurred_at";
        let day = |days| at - TimeDelta::days(days);
        let (sql, from, to, every) = match question {
            Question::AsOf => (newest, at, vitals::query::END_OF_TIME, None),
            Question::AsOfKnownAt => (newest, at, at, None),
            Question::Diff => (late, at, at, None),
            Question::Page => (page, at, at + TimeDelta::days(2), None),
            Question::Minutes => (buckets, day(1), at, Some(TimeDelta::minutes(5))),
            Question::Days => (buckets, day(90), at, Some(TimeDelta::days(1))),
            Question::Points => (all, day(30), at, None),
        };
        let query =
            sqlx::query(sql).bind(self.shard).bind(TENANT).bind(PATIENT).bind(from).bind(to);
        let query = match every {
            Some(every) => query.bind(every),
            None => query,
        };
        query.fetch_all(&self.pool).await.unwrap()
    }

    /// All of it: by command, by HTTP, and by psql.
    async fn whole(
        &self,
        dir: &Path,
        server: &Server,
        embedded: &Embedded,
        readings: usize,
        report: &mut Map<String, Value>,
    ) {
        let options = embedded.connect_options();
        let columns = "position, recorded_at, type, vital, value, quality, suspect, occurred_at, source_id, data";
        let copy = format!(
            "copy (select {columns} from event where shard = {} and tenant = '{TENANT}' \
             and patient_id = '{PATIENT}' order by occurred_at, position) to stdout",
            self.shard
        );
        let mut psql = Command::new("psql");
        psql.args(["-q", "-X", "-U", "vitals", "-d", "vitals", "-c", &copy, "-h"]);
        psql.arg(options.get_socket().unwrap());
        let mut reference = None;
        let mut row = |name: &str, key: &str, seconds: f64, mb: Option<f64>| {
            let rate = readings as f64 / seconds;
            let of = rate / *reference.get_or_insert(rate);
            let mb = mb.map_or(String::new(), |mb| format!("{mb:.0}"));
            println!("{name:<40} {rate:>12.0} {of:>8.2} {mb:>8}");
            report.insert(format!("{key}_per_s"), rate.into());
            report.insert(format!("{key}_of_copy"), of.into());
        };
        row("psql, COPY TO", "copy", best(|| lines_of(&mut psql, readings).0), None);
        let mut replay = vitals(dir);
        replay.args(["replay", "--tenant", TENANT, "--patient", PATIENT]);
        let mut replay = replay.into_std();
        let mut mb = 0.0_f64;
        let took = best(|| {
            let (took, peak) = lines_of(&mut replay, readings);
            mb = mb.max(peak);
            took
        });
        row("vitals replay, NDJSON", "replay", took, Some(mb));
        let token = token(dir, "bench").await;
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        for (name, key, accept, path) in [
            ("HTTP, replay at max", "http_replay", "*/*", "replay?speed=max"),
            ("HTTP, history as CSV", "http_csv", "text/csv", "readings"),
            ("HTTP, history as NDJSON", "http_ndjson", "application/x-ndjson", "readings"),
            (
                "HTTP, history as Parquet",
                "http_parquet",
                "application/vnd.apache.parquet",
                "readings",
            ),
        ] {
            let began = Instant::now();
            let url = format!("http://{}/api/v1/patients/{PATIENT}/{path}", server.address);
            let mut answer = reqwest::Client::builder()
                .no_proxy()
                .build()
                .unwrap()
                .get(url)
                .bearer_auth(&token)
                .header("accept", accept)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 200);
            let mut bytes = 0;
            while let Some(part) = answer.chunk().await.unwrap() {
                bytes += part.len();
            }
            assert!(bytes > readings, "{bytes} bytes");
            row(name, key, began.elapsed().as_secs_f64(), Some(server.resident_mb()));
        }
        for (name, key, asked) in [
            ("export as CSV", "export_csv", json!({ "format": "csv" })),
            ("export as NDJSON", "export_ndjson", json!({ "format": "ndjson" })),
            ("export as Parquet", "export_parquet", json!({ "format": "parquet" })),
            (
                "export as NDJSON, encrypted",
                "export_sealed",
                json!({ "format": "ndjson", "recipients": [RECIPIENT] }),
            ),
        ] {
            let seconds = exported(server, &token, &asked).await;
            row(name, key, seconds, Some(server.resident_mb()));
        }
    }
}

/// From the question to its end, in seconds.
async fn exported(server: &Server, token: &str, asked: &Value) -> f64 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{}{path}", server.address);
    let began = Instant::now();
    let asked = client.post(url("/api/v1/exports")).bearer_auth(token).json(asked).send().await;
    let job: Value = asked.unwrap().error_for_status().unwrap().json().await.unwrap();
    let place = url(job["_links"]["self"].as_str().unwrap());
    loop {
        let told = client.get(&place).bearer_auth(token).send().await.unwrap();
        let told: Value = told.json().await.unwrap();
        if told["state"] == "done" {
            return began.elapsed().as_secs_f64();
        }
        assert!(told["error"].is_null(), "{told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The quickest of some.
fn best(mut seconds: impl FnMut() -> f64) -> f64 {
    (0..WHOLE).map(|_| seconds()).fold(f64::INFINITY, f64::min)
}

/// Runs a command and counts its lines; how long it took, and its peak memory in MB.
fn lines_of(command: &mut Command, expect: usize) -> (f64, f64) {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it is installed");
    let status = format!("/proc/{}/status", child.id());
    let mut out = child.stdout.take().unwrap();
    let (mut part, mut lines, mut peak) = (vec![0; 1 << 20], 0, 0.0);
    loop {
        let length = out.read(&mut part).unwrap();
        if length == 0 {
            break;
        }
        // It is gone when the pipe is empty: the last look is the one before.
        let seen = std::fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = seen.lines().find(|line| line.starts_with("VmHWM:")) {
            let kb: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            peak = kb / 1024.0;
        }
        lines += part[..length].iter().filter(|byte| **byte == b'\n').count();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(lines, expect);
    (began.elapsed().as_secs_f64(), peak)
}
