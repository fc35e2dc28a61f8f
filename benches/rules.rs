//! Rules: twenty at work on readings as they come, and one tried on the history.
//!
//! Starts its own database with durability on. What the consumer does is compared with
//! the pure fold, and a backtest with reading alone, in the same run.
//!
//! `cargo bench --bench rules [-- --readings 400000]`

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench fails loudly")]

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use vitals::clock::Clock;
use vitals::consumer::{self, Consumer, StepResult};
use vitals::embedded::Embedded;
use vitals::event::{Event, READING, Recorded};
use vitals::log::Log;
use vitals::rules::backtest::{self, BacktestQuery, JobHandle};
use vitals::rules::registry::shipped_rules;
use vitals::rules::{Evaluator, Mode, Rule, RuleSnapshot, RulesConsumer};
use vitals::vital::Vital;

const PATIENTS: usize = 500;
const BATCH: usize = 5_000;
const LIVE_PER_SECOND: usize = 20_000;
const LIVE_SECONDS: u64 = 5;

/// The shipped set at work, and thresholds beside it, twenty in all.
fn twenty() -> Vec<Rule> {
    let shipped = shipped_rules().unwrap().into_iter();
    let mut rules: Vec<Rule> = shipped.map(|rule| Rule { mode: Mode::Active, ..rule }).collect();
    for n in rules.len()..20 {
        let text = format!(
            "id = \"more-{n}\"\nevent = \"MORE_{n}\"\npriority = \"medium\"\nmode = \"active\"\n\
             when = {{ vital = \"heart_rate\", op = \">\", value = {} }}\non_delay = \"30s\"\n\
             clear = {{ off_delay = \"60s\" }}",
            130 + n
        );
        rules.push(Rule::parse(&text, 1).unwrap());
    }
    rules
}

/// The shipped thresholds alone, twenty in all: what almost every ward has.
fn thresholds() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        twenty().into_iter().filter(|rule| rule.threshold().is_some()).collect();
    let more = rules.clone();
    for (n, rule) in more.into_iter().enumerate() {
        if rules.len() < 20 {
            rules.push(Rule { id: format!("again-{n}"), ..rule });
        }
    }
    rules
}

/// Readings of a ward: most patients are well, every fiftieth is not.
fn events(first: usize, count: usize, at: DateTime<Utc>) -> Vec<Event> {
    let vitals = [Vital::HeartRate, Vital::Spo2, Vital::RespiratoryRate, Vital::SystolicBp];
    let normal = [80.0, 95.0, 16.0, 125.0];
    (first..first + count)
        .map(|n| {
            let patient = n % PATIENTS;
            let which = n / PATIENTS % vitals.len();
            let ill = patient.is_multiple_of(50) && n / PATIENTS % 400 < 100;
            let value = normal[which] + (n * 7919 % 11) as f64 - 5.0;
            Event {
                tenant: "bench".into(),
                patient_id: format!("p{patient}"),
                kind: READING.to_owned(),
                vital: Some(vitals[which]),
                value: Some(if ill && which == 0 {
                    value + 70.0
                } else {
                    value.min(100.0 + value)
                }),
                quality: None,
                suspect: false,
                occurred_at: at + TimeDelta::microseconds((n - first) as i64),
                source_id: "bench".to_owned(),
                data: None,
            }
        })
        .collect()
}

async fn append(log: &Log, events: Vec<Event>) {
    let mut of: Vec<Vec<Event>> = log.shards().map(|_| Vec::new()).collect();
    for event in events {
        of[log.shard_of(&event.tenant, &event.patient_id) as usize].push(event);
    }
    for (shard, events) in of.into_iter().enumerate() {
        log.append(shard as i16, &events).await.unwrap();
    }
}

/// The fold alone: decoded events in, alerts out, on one core.
fn pure(rules: Vec<Rule>, count: usize) -> f64 {
    let mut book = Arc::new(RuleSnapshot::with_rules(rules).unwrap());
    let mut evaluator = Evaluator::default();
    let now = Clock::system().now();
    let recorded: Vec<Recorded> = events(0, count, now)
        .into_iter()
        .enumerate()
        .map(|(n, event)| Recorded {
            shard: 0,
            position: n as i64 + 1,
            recorded_at: event.occurred_at,
            event,
        })
        .collect();
    let (started, mut said) = (Instant::now(), Vec::new());
    for recorded in &recorded {
        evaluator.event(&mut book, recorded, &mut said).unwrap();
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// The consumer on a log that is full: readings a second, a task a shard as in `serve`.
async fn catch_up(log: &Log, rules: Vec<Rule>, count: usize) -> f64 {
    let raise = Arc::new(RulesConsumer::new(log.clone(), RuleSnapshot::with_rules(rules).unwrap()));
    sqlx::raw_sql("update checkpoint set position = 0; truncate rule_state")
        .execute(log.pool())
        .await
        .unwrap();
    let started = Instant::now();
    let mut shards = tokio::task::JoinSet::new();
    for shard in log.shards() {
        let (pool, raise) = (log.pool().clone(), raise.clone());
        shards.spawn(async move {
            while consumer::step(&pool, &*raise, shard).await.unwrap() == StepResult::Behind {}
        });
    }
    shards.join_all().await;
    count as f64 / started.elapsed().as_secs_f64()
}

/// How far the rules are behind while readings come: the largest of samples, and the
/// median, in readings.
async fn lag(log: &Log, rules: Vec<Rule>) -> (i64, i64) {
    let raise = Arc::new(RulesConsumer::new(log.clone(), RuleSnapshot::with_rules(rules).unwrap()));
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = Vec::new();
    for shard in log.shards() {
        let (log, pool, raise, stop) =
            (log.clone(), log.pool().clone(), raise.clone(), stop.clone());
        tasks.push(tokio::spawn(consumer::run(log, pool, raise, shard, None, stop)));
    }
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut samples = Vec::new();
    let per_tick = LIVE_PER_SECOND / 20;
    for n in 0..LIVE_SECONDS * 20 {
        tick.tick().await;
        append(log, events(n as usize * per_tick, per_tick, Clock::system().now())).await;
        let behind = consumer::lag(log.pool()).await.unwrap();
        samples.push(behind.iter().find(|(name, _)| name == raise.name()).map_or(0, |(_, n)| *n));
    }
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    samples.sort_unstable();
    (samples[samples.len() - 1], samples[samples.len() / 2])
}

/// What a backtest asks of the log, on one connection, by a client that drops it.
async fn reading_alone(log: &Log) -> f64 {
    let started = Instant::now();
    let mut connection = log.pool().acquire().await.unwrap();
    let sql = "copy (select r.shard, r.series, occurred_at, value, position, null, quality \
               from reading r join series s on s.shard = r.shard and s.series = r.series \
               where s.vital = 'heart_rate' and not suspect and s.tenant = 'bench') \
               to stdout (format binary)";
    let mut rows = connection.copy_out_raw(sql).await.unwrap();
    while let Some(row) = rows.next().await {
        row.unwrap();
    }
    started.elapsed().as_secs_f64()
}

async fn tried(log: &Log, rules: Vec<Arc<Rule>>) -> (u64, f64) {
    let question = BacktestQuery {
        tenant: "bench".to_owned(),
        from: DateTime::UNIX_EPOCH,
        to: Clock::system().now() + TimeDelta::days(1),
        rules,
        keeps_times: false,
    };
    let started = Instant::now();
    let found = backtest::run(log, question, &JobHandle::default(), None).await.unwrap();
    (found.readings, started.elapsed().as_secs_f64())
}

/// What is printed and written: a name, a number and a note.
type Row = (&'static str, f64, String);

/// Rules tried over the history.
async fn trials(log: &Log, rows: &mut Vec<Row>) {
    let alone = reading_alone(log).await;
    let rule =
        |id: &str| Arc::new(shipped_rules().unwrap().into_iter().find(|r| r.id == id).unwrap());
    let (readings, seconds) = tried(log, vec![rule("hr-high")]).await;
    let rate = readings as f64 / seconds;
    rows.push((
        "reading alone, one connection, readings/s",
        readings as f64 / alone,
        String::new(),
    ));
    rows.push((
        "backtest of one rule, readings/s",
        rate,
        format!("{:.2} of reading alone", rate * alone / readings as f64),
    ));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    rows.push((
        "  the same, a core",
        rate / cores as f64,
        format!("on {cores} cores, PostgreSQL's part with it"),
    ));
    let each =
        ["hr-high", "low-spo2", "high-respiratory-rate", "low-systolic-bp"].map(rule).to_vec();
    let (whole, seconds_whole) = tried(log, each).await;
    rows.push((
        "backtest of a rule for each vital, readings/s",
        whole as f64 / seconds_whole,
        format!("{:.0} a core", whole as f64 / seconds_whole / cores as f64),
    ));
    let (_, swept) = tried(log, vec![rule("hr-high"); 21]).await;
    rows.push((
        "backtest of 21 settings, readings/s",
        readings as f64 / swept,
        format!("{:.2} of one", seconds / swept),
    ));
}

fn report(rows: &[Row], count: usize) {
    println!("{:<52} {:>12}", "", "");
    for (name, value, note) in rows {
        println!("{name:<52} {value:>12.0}  {note}");
    }
    let all: Vec<Value> = rows
        .iter()
        .map(|(name, value, note)| json!({ "name": name, "value": value, "note": note }))
        .collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("bench");
    std::fs::create_dir_all(&target).unwrap();
    let body = json!({ "bench": "rules", "readings": count, "rows": all });
    std::fs::write(target.join("rules.json"), body.to_string()).unwrap();
}

#[tokio::main]
async fn main() {
    let wanted = std::env::args().skip_while(|arg| arg != "--readings").nth(1);
    let count: usize = wanted.map_or(400_000, |n| usize::from_str(&n).unwrap());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-rules");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    let embedded = Embedded::start(&dir).await.unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .connect_with(embedded.connect_options())
        .await
        .unwrap();
    let log = Log::open(pool, None).await.unwrap();
    vitals::projection::install(&log).await.unwrap();
    let raise = RulesConsumer::new(log.clone(), RuleSnapshot::new().unwrap());
    let mut connection = log.pool().acquire().await.unwrap();
    consumer::register(&mut connection, raise.name(), log.shards()).await.unwrap();
    drop(connection);

    let begin = Clock::system().now() - TimeDelta::seconds(90);
    for first in (0..count).step_by(BATCH) {
        let at = begin + TimeDelta::microseconds(first as i64 * 100);
        append(&log, events(first, BATCH.min(count - first), at)).await;
    }
    sqlx::raw_sql("analyze event").execute(log.pool()).await.unwrap();

    let mut rows: Vec<Row> = Vec::new();
    let fold = pure(thresholds(), count);
    rows.push(("the fold alone, 20 thresholds, readings/s a core", fold, String::new()));
    let whole = pure(twenty(), count);
    rows.push(("the fold alone, 20 rules with score and silence", whole, String::new()));
    let caught = catch_up(&log, thresholds(), count).await;
    rows.push((
        "live, 20 thresholds, readings/s",
        caught,
        format!("{:.2} of the fold", caught / fold),
    ));
    let caught_whole = catch_up(&log, twenty(), count).await;
    rows.push((
        "live, 20 rules with score and silence, readings/s",
        caught_whole,
        format!("{:.2} of the fold", caught_whole / whole),
    ));
    let (worst, median) = lag(&log, thresholds()).await;
    rows.push((
        "lag under 20,000 readings/s, median, readings",
        median as f64,
        format!("worst {worst}"),
    ));
    trials(&log, &mut rows).await;
    report(&rows, count);
    embedded.stop().await.unwrap();
}
