//! The plans of the hot statements: each must be able to use the index it was
//! written for, whatever the statistics say today.
//!
//! Sequential scans are forbidden for the session, as far as PostgreSQL lets them
//! be: one that is still in the plan stands there because no index fits.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use vitals::clock::Clock;

use crate::support::postgres::Database;

const WINDOW: &str = "smallint, bigint, bigint, timestamptz, timestamptz";
const WINDOW_AT: &str = "0::smallint, 10, 20, now() - interval '1 hour', now()";
const PATIENT: &str = "smallint, text, text";
const PATIENT_AT: &str = "0::smallint, 't', 'p'";

/// The generic plan, which is the one that a busy connection settles on.
async fn plan(connection: &mut PgConnection, types: &str, values: &str, sql: &str) -> String {
    let prepare = format!("prepare hot ({types}) as {}", sql.trim_end());
    for sql in [
        "set enable_seqscan = off".to_owned(),
        "set plan_cache_mode = force_generic_plan".to_owned(),
        prepare,
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
    }
    let explain = format!("explain execute hot ({values})");
    let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    sqlx::raw_sql("deallocate hot").execute(&mut *connection).await.unwrap();
    lines.join("\n")
}

#[track_caller]
fn uses(plan: &str, index: &str, table: &str) {
    assert!(plan.contains(index), "not by {index}:\n{plan}");
    assert!(!plan.contains(&format!("Seq Scan on {table}")), "all of {table}:\n{plan}");
}

async fn connect(database: &Database) -> PgConnection {
    let log = database.log().await;
    // Two months, so that there is something to choose from.
    let now = Clock::system().now();
    let months = [now, now - chrono::TimeDelta::days(40)];
    log.ensure_partitions(months.into_iter()).await.unwrap();
    PgConnection::connect(&database.url).await.unwrap()
}

#[tokio::test]
async fn consumers_read_a_shard_by_its_positions() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let window = include_str!("../../src/log/read_window.sql");
    let found = plan(&mut connection, WINDOW, WINDOW_AT, window).await;
    uses(&found, "_shard_position_idx", "event");

    let relevant = include_str!("../../src/rules/relevant.sql");
    let types = format!("{WINDOW}, text[], text[], float8[]");
    let values = format!("{WINDOW_AT}, '{{heart_rate}}', '{{>}}', '{{120}}'");
    let found = plan(&mut connection, &types, &values, relevant).await;
    uses(&found, "_shard_position_idx", "event");
    uses(&found, "rule_state_pkey", "rule_state");

    let claim = include_str!("../../src/consumer/claim.sql");
    let types = "smallint, text, bigint, bigint";
    let found = plan(&mut connection, types, "0::smallint, 'rules', 100, 100", claim).await;
    uses(&found, "log_commit_pkey", "log_commit");
}

#[tokio::test]
async fn what_is_no_reading_is_found_by_an_index_of_its_own() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let caught_up = include_str!("../../src/projection/caught_up.sql");
    let types = "smallint[], bigint[], text[], text[]";
    let found = plan(&mut connection, types, "'{0}', '{5}', '{a}', '{b}'", caught_up).await;
    uses(&found, "_shard_position_idx", "event");
    let apply = include_str!("../../projections/alert/apply.sql");
    let found = plan(&mut connection, WINDOW, WINDOW_AT, apply).await;
    uses(&found, "_shard_position_idx", "event");
}

#[tokio::test]
async fn every_question_about_a_patient_goes_by_the_natural_key() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let key = "tenant_patient_id_vital";
    let as_of = include_str!("../../src/query/state_as_of.sql");
    let types = format!("{PATIENT}, timestamptz, timestamptz, text");
    let values = format!("{PATIENT_AT}, now(), now(), null");
    uses(&plan(&mut connection, &types, &values, as_of).await, key, "event");

    let alerts = include_str!("../../src/query/alerts_as_of.sql");
    let types = format!("{PATIENT}, timestamptz, timestamptz");
    let values = format!("{PATIENT_AT}, now(), now()");
    uses(&plan(&mut connection, &types, &values, alerts).await, key, "event");

    let page = include_str!("../../src/query/history_page.sql");
    let types = format!(
        "{PATIENT}, text[], timestamptz, timestamptz, timestamptz, text, text, text, bigint"
    );
    let values = format!("{PATIENT_AT}, '{{spo2}}', now(), now(), null, null, null, null, 10");
    uses(&plan(&mut connection, &types, &values, page).await, key, "event");

    let replay = include_str!("../../src/query/replay_page.sql");
    let types =
        format!("{PATIENT}, timestamptz, timestamptz, timestamptz, timestamptz, bigint, bigint");
    let values = format!("{PATIENT_AT}, now(), now(), now(), now(), 0, 10");
    uses(&plan(&mut connection, &types, &values, replay).await, key, "event");
}

#[tokio::test]
async fn due_deliveries_are_found_among_many_that_are_not() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let claim = include_str!("../../src/webhook/claim.sql");
    let types = "uuid[], bigint[], bigint, float8, bigint";
    let found = plan(&mut connection, types, "'{}', '{}', 16, 20, 512", claim).await;
    uses(&found, "delivery_due", "delivery");
    // The time is part of the index's condition: a volatile clock would only filter.
    let condition =
        found.lines().find(|line| line.contains("Index Cond") && line.contains("due_at"));
    assert!(condition.is_some(), "{found}");
}
