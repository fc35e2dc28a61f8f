//! Live, replay and backtest say the same.
//!
//! Random streams (late readings, stragglers, suspect ones, corrections, acknowledgements,
//! records, changes of rules, silences) go through the living consumer in random batches, with
//! restarts and clocks in between; then the log is read again and folded without a database.
//! Times are the log's own, so rules with timers of milliseconds tick among the events.

mod acts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use sqlx::PgPool;
use vitals::consumer::{Consumer, StepResult, register, step};
use vitals::event::{Event, READING};
use vitals::log::{Log, Window, read_window};
use vitals::rules::backtest::{self, BacktestError, BacktestOutput, BacktestQuery, JobHandle};
use vitals::rules::evaluate::in_order;
use vitals::rules::past::Past;
use vitals::rules::{Evaluator, Rule, RuleSnapshot, RulesConsumer, ticks};
use vitals::vital::Vital;

use self::acts::{Act, act, events_of, non_reading};
use crate::hospital::now;
use crate::support::postgres::Database;

const CASES: u32 = 24;

/// One rule of each kind, with times that a test lives to see.
const RULES: [&str; 7] = [
    r#"when = { vital = "heart_rate", op = ">", value = 120 }
       bounds = { min = 100, max = 140 }"#,
    r#"when = { vital = "heart_rate", op = ">", value = 110 }
       on_delay = "10s"
       min_samples = 2
       max_gap = "8s"
       clear = { value = 105, off_delay = "9s" }
       escalate = [{ after = "1ms", unless = "acked", event = "ESCALATED" }]"#,
    r#"when = { all = [{ vital = "heart_rate", op = ">", value = 100 }, { not = { vital = "spo2", op = ">=", value = 92 } }] }
       inhibited_by = ["r0"]"#,
    r#"when = { count = { vital = "spo2", op = "<", value = 90, n = 2, of = 4 } }
       scope = { ward = ["w1"] }"#,
    r#"when = { delta = { vital = "heart_rate", op = ">=", value = 25, within = "30s" } }
       latch = true"#,
    r#"when = { score = { at_least = 3, any_single = 3 } }"#,
    r#"when = { suspect = {} }
       min_samples = 2"#,
];

fn rules() -> Vec<Rule> {
    RULES.iter().enumerate().map(|(n, text)| rule(n, text, 1)).collect()
}

fn text_of(n: usize, text: &str) -> String {
    // Devices are judged apart where priority is high.
    let priority = match text {
        _ if text.contains("suspect") => "technical",
        _ if text.contains("on_delay") => "high",
        _ => "medium",
    };
    format!("id = \"r{n}\"\nevent = \"R{n}\"\npriority = \"{priority}\"\nmode = \"active\"\n{text}")
}

fn rule(n: usize, text: &str, version: u32) -> Rule {
    Rule::parse(&text_of(n, text), version).unwrap()
}

/// What was said of whom, in order; without what differs by itself.
type Said = BTreeMap<String, Vec<(String, DateTime<Utc>, Value)>>;

fn note(said: &mut Said, event: &Event) {
    let data = serde_json::from_str(event.data.as_deref().unwrap()).unwrap();
    let of = said.entry(event.patient_id.clone()).or_default();
    of.push((event.kind.clone(), event.occurred_at, data));
}

async fn follow(pool: &PgPool, raise: &Arc<RulesConsumer>, log: &Log) {
    for shard in log.shards() {
        while step(pool, &**raise, shard).await.unwrap() == StepResult::Behind {}
    }
}

/// Until there is nothing left, its own alerts included: the time at which these were recorded
/// is the log's as well, and what is due by then (the end of a silence) is said.
async fn follow_to_the_end(pool: &PgPool, raise: &Arc<RulesConsumer>, log: &Log) {
    for shard in log.shards() {
        while step(pool, &**raise, shard).await.unwrap() != StepResult::Idle {}
    }
}

async fn live_against_replay(log: &Log, acts: &[Act], cuts: &[u8]) {
    sqlx::raw_sql(
        "truncate reading, reading_context, non_reading, log_commit, rule_state, rule_memory; \
         update checkpoint set position = 0; update shard_head set position = 0, \
         recorded_at = '-infinity', hash = decode(repeat('00', 32), 'hex')",
    )
    .execute(log.pool())
    .await
    .unwrap();
    let raise =
        || Arc::new(RulesConsumer::new(log.clone(), RuleSnapshot::with_rules(rules()).unwrap()));
    let (mut living, mut versions) = (raise(), [1; RULES.len()]);
    let mut cuts = cuts.iter().cycle();
    let mut until = 0_u8;
    for act in acts {
        let mut appends = BTreeMap::<i16, Vec<Event>>::new();
        for (shard, event) in events_of(log, act, &mut versions).await {
            appends.entry(shard).or_default().push(event);
        }
        for (shard, events) in appends {
            log.append(shard, &events).await.unwrap();
        }
        if until > 0 {
            until -= 1;
            continue;
        }
        let cut = *cuts.next().unwrap();
        until = cut % 16;
        match cut / 16 % 4 {
            // The process dies and another one goes on.
            0 => living = raise(),
            1 => {
                for shard in log.shards() {
                    ticks::tick(&living, log.pool(), shard).await.unwrap();
                }
            }
            _ => follow(log.pool(), &living, log).await,
        }
    }
    follow_to_the_end(log.pool(), &living, log).await;

    let (mut live, mut replayed) = (Said::new(), Said::new());
    for shard in log.shards() {
        // A shard without events has no time yet.
        let head: Option<(i64, DateTime<Utc>)> = sqlx::query_as(
            "select position, recorded_at from shard_head where shard = $1 and position > 0",
        )
        .bind(shard)
        .fetch_optional(log.pool())
        .await
        .unwrap();
        let Some((head, recorded)) = head else { continue };
        let mut connection = log.pool().acquire().await.unwrap();
        let window = Window::between(&mut connection, shard, 0, head).await.unwrap();
        let book = RuleSnapshot::with_rules(rules()).unwrap();
        let mut book = Arc::new(book.of_installation(log.installation()));
        let (mut evaluator, mut said) = (Evaluator::default(), Vec::new());
        let all = read_window(&mut connection, &window).await.unwrap();
        let alerts = all.iter().filter(|recorded| recorded.event.is_alert());
        alerts.for_each(|alert| note(&mut live, &alert.event));
        let mut ordered = all.clone();
        in_order(&mut ordered);
        for recorded in ordered {
            if Evaluator::needs_past(&book, &recorded).unwrap() {
                evaluator.read_back(Past::of(&all, &recorded));
            }
            evaluator.event(&mut book, &recorded, &mut said).unwrap();
        }
        evaluator.ticks(&book, recorded, &mut said);
        said.iter().for_each(|event| note(&mut replayed, event));
    }
    assert_eq!(live, replayed);
}

fn in_cases<S: Strategy>(strategy: S, check: impl Fn(S::Value)) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let tried = TestRunner::new(config).run(&strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
}

fn database(runtime: &tokio::runtime::Runtime) -> (Database, Log) {
    runtime.block_on(async {
        let database = Database::new().await;
        let log = database.log().await;
        let raise = RulesConsumer::new(log.clone(), RuleSnapshot::new().unwrap());
        let mut connection = log.pool().acquire().await.unwrap();
        register(&mut connection, raise.name(), log.shards()).await.unwrap();
        (database, log)
    })
}

#[test]
fn a_replay_of_the_log_says_what_the_living_rules_said() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_database, log) = database(&runtime);
    let cases = (prop::collection::vec(act(), 1..60), prop::collection::vec(any::<u8>(), 1..10));
    in_cases(cases, |(acts, cuts)| {
        runtime.block_on(live_against_replay(&log, &acts, &cuts));
    });
}

/// The alerts that a backtest raises, with their ids.
async fn tried(log: &Log, rule: Rule) -> Vec<String> {
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let question = BacktestQuery {
        tenant: "ward".to_owned(),
        from: DateTime::UNIX_EPOCH,
        to: now(),
        rules: vec![Arc::new(rule)],
        keeps_times: false,
    };
    let to: BacktestOutput = lines.clone();
    backtest::run(log, question.clone(), &JobHandle::default(), Some(to)).await.unwrap();
    // Without lines less is read, and in small slices: the same is found.
    let progress = JobHandle::default();
    let found = backtest::run_holding(24, log, question, &progress, None).await.unwrap();
    assert_eq!(found.readings, progress.done.load(Ordering::Relaxed));
    let raised: u32 = found.patients.iter().map(|patient| patient.tallies[0].alerts).sum();
    assert_eq!(raised as usize, lines.lock().unwrap().split(|byte| *byte == b'\n').count() - 1);
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    let id = |line: &str| {
        let alert: Value = serde_json::from_str(line).unwrap();
        alert["alertId"].as_str().unwrap().to_owned()
    };
    let mut ids: Vec<String> = text.lines().map(id).collect();
    ids.sort();
    ids
}

async fn live_against_backtest(log: &Log, rows: &[(u8, u8, u8)]) {
    sqlx::raw_sql(
        "truncate reading, reading_context, non_reading, log_commit, rule_state, rule_memory; \
         update checkpoint set position = 0; update shard_head set position = 0, \
         recorded_at = '-infinity', hash = decode(repeat('00', 32), 'hex')",
    )
    .execute(log.pool())
    .await
    .unwrap();
    // In the order of time, as from a device that sends as it measures.
    let mut at = now() - TimeDelta::seconds(100);
    for (patient, step, value) in rows {
        at += TimeDelta::milliseconds(i64::from(*step) * 10);
        let patient = format!("p{patient}");
        let event = Event {
            vital: Some(Vital::HeartRate),
            value: Some(80.0 + f64::from(*value)),
            source_id: "d".to_owned(),
            data: None,
            ..non_reading(&patient, READING, at, Value::Null)
        };
        log.append(log.shard_of("ward", &patient), &[event]).await.unwrap();
    }
    for text in &RULES[..2] {
        let text = text.split("escalate").next().unwrap().replace("s\"", "00ms\"");
        let rule = rule(0, &text, 1);
        sqlx::raw_sql("truncate rule_state; update checkpoint set position = 0")
            .execute(log.pool())
            .await
            .unwrap();
        let book = RuleSnapshot::with_rules(vec![rule.clone()]).unwrap();
        follow(log.pool(), &Arc::new(RulesConsumer::new(log.clone(), book)), log).await;
        let mut live: Vec<String> = sqlx::query_scalar(
            "select distinct data ->> 'alertId' from event \
             where type = 'R0' and data ->> 'state' = 'raised'",
        )
        .fetch_all(log.pool())
        .await
        .unwrap();
        live.sort();
        assert_eq!(tried(log, rule).await, live, "{text}");
        sqlx::raw_sql("delete from non_reading where type = 'R0'")
            .execute(log.pool())
            .await
            .unwrap();
    }
}

#[test]
fn a_backtest_raises_the_very_alerts_that_were_raised() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_database, log) = database(&runtime);
    let rows = prop::collection::vec((0..3_u8, 1..100_u8, 0..70_u8), 1..80);
    in_cases(rows, |rows| runtime.block_on(live_against_backtest(&log, &rows)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_readings_of_one_moment_than_can_be_held_end_a_backtest() {
    let database = Database::new().await;
    let log = database.log().await;
    let at = now() - TimeDelta::seconds(100);
    for n in 0..20 {
        let patient = format!("p{n}");
        let event = Event {
            vital: Some(Vital::HeartRate),
            value: Some(80.0),
            source_id: "d".to_owned(),
            data: None,
            ..non_reading(&patient, READING, at, Value::Null)
        };
        log.append(log.shard_of("ward", &patient), &[event]).await.unwrap();
    }
    let question = BacktestQuery {
        tenant: "ward".to_owned(),
        from: DateTime::UNIX_EPOCH,
        to: now(),
        rules: vec![Arc::new(rule(0, RULES[0], 1))],
        keeps_times: false,
    };
    let tried = async |most| {
        let (question, progress) = (question.clone(), JobHandle::default());
        backtest::run_holding(most, &log, question, &progress, None).await
    };
    assert!(matches!(tried(8).await, Err(BacktestError::TooMany)));
    let whole = 20 * std::thread::available_parallelism().unwrap().get();
    assert_eq!(tried(whole).await.unwrap().readings, 20);
}
