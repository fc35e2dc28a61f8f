//! The plans of the hot statements: each must be able to use the index it was
//! written for, whatever the statistics say today.
//!
//! Sequential scans are forbidden for the session, as far as PostgreSQL lets them
//! be: one that is still in the plan stands there because no index fits.
//!
//! There are 10,000 series and two years of months, and a statement about one month must look
//! into no other. Hot is what runs for each commit, for each step of a consumer, or while somebody
//! waits for an answer; what commands do once is not.

use std::collections::BTreeSet;

use chrono::{DateTime, Months, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use vitals::event::{Event, PATIENT_REGISTERED};
use vitals::projection;

use crate::log::{reading, time};
use crate::support::postgres::Database;

/// How many there are.
const MONTHS: u32 = 24;

const WINDOW: &str = "smallint, bigint, bigint, timestamptz, timestamptz";
/// What of `relevant.sql` is about comparisons.
const COMPARED: &str = "text[], float8[], float8[], float8";
const COMPARED_AT: &str = "'{heart_rate}', '{10}', '{0}', 120";
const WINDOW_AT: &str = "0::smallint, 10, 20, '2026-03-15T11:00Z', '2026-03-15T12:00Z'";
/// All months, so that a sequential scan of any of them is seen.
pub const TWO_YEARS: &str = "'2024-01-01T00:00Z', '2026-04-01T00:00Z'";
pub const PATIENT: &str = "smallint, text, text";
pub const PATIENT_AT: &str = "0::smallint, 't', 'p'";

/// The generic plan, which is the one that a busy connection settles on.
pub async fn plan(connection: &mut PgConnection, types: &str, values: &str, sql: &str) -> String {
    planned(connection, "generic", types, values, sql).await
}

async fn planned(
    connection: &mut PgConnection,
    kind: &str,
    types: &str,
    values: &str,
    sql: &str,
) -> String {
    let prepare = format!("prepare hot ({types}) as {}", sql.trim_end());
    for sql in [
        "set enable_seqscan = off".to_owned(),
        format!("set plan_cache_mode = force_{kind}_plan"),
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
pub fn uses(plan: &str, index: &str, table: &str) {
    assert!(plan.contains(index), "not by {index}:\n{plan}");
    assert!(!plan.contains(&format!("Seq Scan on {table}")), "all of {table}:\n{plan}");
}

/// Readings of a patient: by their series, and by the natural key of each.
#[track_caller]
pub fn by_series(plan: &str) {
    uses(plan, "series_identity", "series");
    uses(plan, "_shard_series_occurred_at_idx", "reading");
}

/// The middle of each month, the newest one last.
pub fn months() -> Vec<DateTime<Utc>> {
    let newest = time("2026-03-15T12:00:00Z");
    let ago = |n| newest.checked_sub_months(Months::new(MONTHS - 1 - n)).unwrap();
    (0..MONTHS).map(ago).collect()
}

pub async fn connect(database: &Database) -> PgConnection {
    let log = database.log().await;
    log.ensure_partitions(months().into_iter()).await.unwrap();
    let series = "insert into series (shard, series, tenant, patient_id, vital, source_id) \
                  select 0, n, 't', 'p' || n / 12, (enum_range(null::vital))[1 + n % 12], 'd' || n / 12 \
                  from generate_series(1, 10000) n; \
                  analyze series";
    sqlx::raw_sql(series).execute(log.pool()).await.unwrap();
    PgConnection::connect(&database.url).await.unwrap()
}

/// The months that a generic plan really looked into.
pub async fn looked_into(
    connection: &mut PgConnection,
    types: &str,
    values: &str,
    sql: &str,
) -> BTreeSet<String> {
    fn collect(node: &Value, found: &mut BTreeSet<String>) {
        let ran = node["Actual Loops"].as_f64().is_some_and(|loops| loops > 0.0);
        if let (Some(table), true) = (node["Relation Name"].as_str(), ran)
            && table.starts_with("reading_")
            && !table.ends_with("context")
        {
            found.insert(table.to_owned());
        }
        node["Plans"].as_array().into_iter().flatten().for_each(|child| collect(child, found));
    }
    let prepare = format!("prepare looked ({types}) as {}", sql.trim_end());
    let force = "set plan_cache_mode = force_generic_plan".to_owned();
    for sql in [force, "begin".to_owned(), prepare] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
    }
    let explain = format!("explain (analyze, format json) execute looked ({values})");
    let said: sqlx::types::Json<Value> = sqlx::query_scalar(AssertSqlSafe(explain))
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    sqlx::raw_sql("rollback; deallocate looked").execute(&mut *connection).await.unwrap();
    let mut found = BTreeSet::new();
    collect(&said.0[0]["Plan"], &mut found);
    found
}

#[tokio::test]
async fn consumers_read_a_shard_by_its_positions() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let window = include_str!("../../src/log/read_window.sql");
    let found = plan(&mut connection, WINDOW, WINDOW_AT, window).await;
    uses(&found, "_shard_position_idx", "reading");
    uses(&found, "non_reading_pkey", "non_reading");

    let relevant = include_str!("../../src/rules/relevant.sql");
    let types =
        format!("{WINDOW}, text[], float8[], float8[], bool, text[], timestamptz, {COMPARED}");
    let values = format!(
        "{WINDOW_AT}, '{{heart_rate}}', '{{120}}', '{{0}}', false, '{{heart_rate}}', now(), {COMPARED_AT}"
    );
    let found = plan(&mut connection, &types, &values, relevant).await;
    uses(&found, "_shard_position_idx", "reading");
    uses(&found, "rule_state_pkey", "rule_state");
    // Its readings are taken only if they concern somebody.
    assert!(found.contains("HashAggregate") && found.contains("One-Time Filter"), "{found}");

    let claim = include_str!("../../src/consumer/claim.sql");
    let types = "smallint, text, bigint, bigint, text, bool";
    let values = "0::smallint, 'rules', 100, 100, '0', true";
    let found = plan(&mut connection, types, values, claim).await;
    uses(&found, "log_commit_pkey", "log_commit");
}

#[tokio::test]
async fn sums_of_a_window_are_made_by_hashing_whatever_is_known_of_its_size() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let apply = include_str!("../../projections/rollup/apply.sql");
    let found = plan(&mut connection, WINDOW, WINDOW_AT, apply).await;
    let part = found.lines().skip_while(|line| !line.contains("CTE part")).nth(1);
    assert!(part.is_some_and(|line| line.contains("HashAggregate")), "{found}");
}

/// Called for each reading, it would cost more than the reading.
#[tokio::test]
async fn rests_are_a_part_of_the_filter_of_a_fold() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    for apply in [
        include_str!("../../projections/current_vitals/apply.sql"),
        include_str!("../../projections/rollup/apply.sql"),
    ] {
        let found = plan(&mut connection, WINDOW, WINDOW_AT, apply).await;
        assert!(found.contains("pg_sleep") && !found.contains("rested"), "{found}");
    }
}

#[tokio::test]
async fn what_is_no_reading_is_found_in_its_own_table_and_by_its_keys() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let caught_up = include_str!("../../src/projection/caught_up.sql");
    let types = "smallint[], bigint[], text[], text[]";
    let found = plan(&mut connection, types, "'{0}', '{5}', '{a}', '{b}'", caught_up).await;
    uses(&found, "non_reading_pkey", "non_reading");
    for apply in [
        include_str!("../../projections/alert/apply.sql"),
        include_str!("../../projections/shadow/apply.sql"),
    ] {
        let found = plan(&mut connection, WINDOW, WINDOW_AT, apply).await;
        uses(&found, "non_reading_pkey", "non_reading");
    }
    let place = include_str!("../../src/query/rollup_place.sql");
    let types = format!("{PATIENT}, text");
    let found = plan(&mut connection, &types, &format!("{PATIENT_AT}, 'c'"), place).await;
    uses(&found, "non_reading_", "non_reading");
    let held_back = include_str!("../../src/rules/held_back.sql");
    let values = "'{0}', 't', 's', 10";
    let found = plan(&mut connection, "smallint[], text, text, bigint", values, held_back).await;
    uses(&found, "non_reading_patient", "non_reading");
}

#[tokio::test]
async fn every_question_about_a_patient_goes_by_their_series_and_the_natural_key() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let as_of = include_str!("../../src/query/state_as_of.sql");
    let types = format!("{PATIENT}, timestamptz, timestamptz, text");
    let values = format!("{PATIENT_AT}, '2026-04-01T00:00Z', now(), null");
    by_series(&plan(&mut connection, &types, &values, as_of).await);

    let known = include_str!("../../src/rules/known.sql");
    let (types, values) = (format!("{PATIENT}, text"), format!("{PATIENT_AT}, 'x'"));
    let found = plan(&mut connection, &types, &values, known).await;
    uses(&found, "series_identity", "series");
    uses(&found, "non_reading_patient", "non_reading");

    let alerts = include_str!("../../src/query/alerts_as_of.sql");
    let types = format!("{PATIENT}, timestamptz, timestamptz");
    let values = format!("{PATIENT_AT}, '2026-04-01T00:00Z', now()");
    let found = plan(&mut connection, &types, &values, alerts).await;
    uses(&found, "non_reading_patient", "non_reading");

    let page = include_str!("../../src/query/history_page.sql");
    let types = format!(
        "{PATIENT}, text[], timestamptz, timestamptz, timestamptz, text, text, text, bigint, bigint"
    );
    let values = format!("{PATIENT_AT}, '{{spo2}}', {TWO_YEARS}, null, null, null, null, 10, null");
    by_series(&plan(&mut connection, &types, &values, page).await);

    let retract = include_str!("../../src/record/retract.sql");
    let types = format!("{PATIENT}, text, timestamptz, text");
    let values = format!("{PATIENT_AT}, 'spo2', '2026-03-15T12:00Z', 'd'");
    by_series(&plan(&mut connection, &types, &values, retract).await);

    // What a correction reads again, however long the history is.
    let past = include_str!("../../src/rules/past.sql");
    let types = format!("{PATIENT}, bigint, text[], bigint, bigint, bigint");
    let values = format!("{PATIENT_AT}, 1000, '{{spo2}}', 10, 10, 10");
    let found = plan(&mut connection, &types, &values, past).await;
    by_series(&found);
    uses(&found, "non_reading_patient", "non_reading");
    assert!(!found.contains("_shard_position_idx") && !found.contains("_pkey"), "{found}");

    let archived = include_str!("../../src/query/archived.sql");
    let types = format!(
        "{PATIENT}, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, text[], text"
    );
    let values =
        format!("{PATIENT_AT}, {TWO_YEARS}, '2024-01-01T00:00Z', now(), now(), '{{spo2}}', null");
    by_series(&plan(&mut connection, &types, &values, archived).await);

    let said = include_str!("../../src/query/alert_said.sql");
    let types = format!("{PATIENT}, text, bigint");
    let found = plan(&mut connection, &types, &format!("{PATIENT_AT}, 'a', 10"), said).await;
    uses(&found, "non_reading_patient", "non_reading");

    let replay = include_str!("../../src/query/replay_page.sql");
    let types = format!(
        "{PATIENT}, timestamptz, timestamptz, timestamptz, timestamptz, bigint, bigint, bigint"
    );
    let values = format!("{PATIENT_AT}, {TWO_YEARS}, now(), '2024-01-01T00:00Z', 0, 10, null");
    by_series(&plan(&mut connection, &types, &values, replay).await);
}

/// Two years of one patient: each month some readings and something that is none.
pub async fn two_years(database: &Database) -> (i16, Vec<(i64, i64)>) {
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let mut windows = Vec::new();
    for month in months() {
        let at = |n: i64| month + TimeDelta::minutes(n);
        let mut events: Vec<Event> = (0..30).map(|n| reading("p", at(n))).collect();
        let non_reading = Event { vital: None, value: None, ..reading("p", at(40)) };
        events.push(Event {
            kind: PATIENT_REGISTERED.into(),
            data: Some("{}".into()),
            ..non_reading
        });
        let appended = log.append(shard, &events).await.unwrap();
        let first = appended.positions[0].unwrap();
        windows.push((first - 1, appended.positions.last().unwrap().unwrap()));
    }
    sqlx::raw_sql("analyze").execute(log.pool()).await.unwrap();
    (shard, windows)
}

/// Planned for its values, as `check` asks for it: of all patients, and of some.
#[tokio::test]
async fn a_check_reads_the_log_once_and_of_some_patients_no_others() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let types = "smallint, bigint, text[], text[]";
    for projection in &projection::ALL {
        let all = "0::smallint, 100, null, null";
        let found = planned(&mut connection, "custom", types, all, projection.check_sql()).await;
        let again = |line: &str| line.contains("Index Cond") && line.contains("patient_id = m");
        assert!(!found.lines().any(again), "the log again for each of its rows:\n{found}");
    }
    // Found by their series, where they are many.
    let many = "insert into reading (position, occurred_at, recorded_at, value, series, shard, suspect) \
                select n, '2026-03-01T00:00Z'::timestamptz + n * interval '1 second', now(), 80, 1 + n % 10000, 0, false \
                from generate_series(1, 50000) n; \
                analyze reading";
    sqlx::raw_sql(many).execute(&mut connection).await.unwrap();
    // So few of the others as here are found by their positions as well.
    let sql =
        "drop index reading_position; alter table non_reading drop constraint non_reading_pkey";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    for projection in &projection::ALL {
        let some = "0::smallint, 100, array['t'], array['p']";
        let found = planned(&mut connection, "custom", types, some, projection.check_sql()).await;
        uses(&found, "non_reading_patient", "non_reading");
        let lines: Vec<&str> = found.lines().collect();
        let of_one = |pair: &[&str]| {
            pair[1].contains("patient_id = ANY") || pair[1].contains("series = c.series")
        };
        let looks = [" on non_reading", " on reading_", " on series "];
        let mut looks = lines
            .windows(2)
            .filter(|pair| looks.iter().any(|on| pair[0].contains(on)) && pair[1].contains("Cond"));
        assert!(looks.all(of_one), "of all:\n{found}");
    }
}

#[tokio::test]
async fn what_is_about_one_month_of_two_years_looks_into_no_other() {
    let database = Database::new().await;
    let (shard, windows) = two_years(&database).await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let month = months()[17];
    let (after, to) = windows[17];
    let (since, until) = (month - TimeDelta::days(1), month + TimeDelta::days(1));
    let only = BTreeSet::from([month.format("reading_%Y_%m").to_string()]);

    let read_window = include_str!("../../src/log/read_window.sql");
    let of_tenant =
        format!("select * from ({read_window}) w where tenant = 'ward' order by position");
    let at = format!("{shard}::smallint, {after}, {to}, '{since}', '{until}'");
    let mut statements = vec![read_window, &of_tenant];
    for projection in [&projection::CURRENT_VITALS, &projection::ROLLUP] {
        statements.push(projection.apply_sql());
    }
    for sql in statements {
        assert_eq!(looked_into(&mut connection, WINDOW, &at, sql).await, only, "{sql}");
    }
    let relevant = include_str!("../../src/rules/relevant.sql");
    let types =
        format!("{WINDOW}, text[], float8[], float8[], bool, text[], timestamptz, {COMPARED}");
    let values = format!(
        "{at}, '{{heart_rate}}', '{{10}}', '{{0}}', false, '{{heart_rate}}', null, {COMPARED_AT}"
    );
    assert_eq!(looked_into(&mut connection, &types, &values, relevant).await, only);

    let patient = format!("{shard}::smallint, 'ward', 'p'");
    let page = include_str!("../../src/query/history_page.sql");
    let types = format!(
        "{PATIENT}, text[], timestamptz, timestamptz, timestamptz, text, text, text, bigint, bigint"
    );
    let values = format!(
        "{patient}, '{{heart_rate}}', '{since}', '{until}', null, null, null, null, 100, null"
    );
    assert_eq!(looked_into(&mut connection, &types, &values, page).await, only);

    let buckets = include_str!("../../src/query/history_buckets.sql");
    let types = format!("{PATIENT}, text, timestamptz, timestamptz, float8, text, bigint");
    let values = format!("{patient}, 'heart_rate', '{since}', '{until}', 60, null, 100");
    assert_eq!(looked_into(&mut connection, &types, &values, buckets).await, only);

    let retract = include_str!("../../src/record/retract.sql");
    let types = format!("{PATIENT}, text, timestamptz, text");
    let values = format!("{patient}, 'heart_rate', '{month}', 'watch'");
    assert_eq!(looked_into(&mut connection, &types, &values, retract).await, only);

    let replay = include_str!("../../src/query/replay_page.sql");
    let types = format!(
        "{PATIENT}, timestamptz, timestamptz, timestamptz, timestamptz, bigint, bigint, bigint"
    );
    let values = format!("{patient}, '{since}', '{until}', now(), '{since}', 0, 100, null");
    assert_eq!(looked_into(&mut connection, &types, &values, replay).await, only);
}

#[tokio::test]
async fn the_newest_value_at_a_moment_is_not_searched_for_in_older_months_than_needed() {
    let database = Database::new().await;
    let (shard, _) = two_years(&database).await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let as_of = include_str!("../../src/query/state_as_of.sql");
    let types = format!("{PATIENT}, timestamptz, timestamptz, text");
    let moment = months()[17] + TimeDelta::days(3);
    let values = format!("{shard}::smallint, 'ward', 'p', '{moment}', now(), null");
    let looked = looked_into(&mut connection, &types, &values, as_of).await;
    assert_eq!(looked, BTreeSet::from([months()[17].format("reading_%Y_%m").to_string()]));
}

#[tokio::test]
async fn what_a_step_and_a_list_ask_of_small_tables_goes_by_their_keys() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let due = include_str!("../../src/rules/load_due.sql");
    let found = plan(&mut connection, "smallint, timestamptz", "0::smallint, now()", due).await;
    uses(&found, "rule_state_pkey", "rule_state");

    let save = include_str!("../../src/rules/save_states.sql");
    let types = "smallint, text[], text[], text[], text[], timestamptz[]";
    let values = "0::smallint, '{t}', '{p}', '{r}', '{null}', '{null}'";
    let found = plan(&mut connection, types, values, save).await;
    uses(&found, "rule_state_pkey", "rule_state");

    let book = include_str!("../../src/rules/keep_rule.sql");
    let values = "0::smallint, 't', 'rule', '{}', 1";
    let found = plan(&mut connection, "smallint, text, text, json, bigint", values, book).await;
    uses(&found, "rule_memory_pkey", "rule_memory");

    let caught_up = include_str!("../../src/projection/caught_up_whole.sql");
    let types = "smallint[], bigint[], text[]";
    let found = plan(&mut connection, types, "'{0}', null, '{a}'", caught_up).await;
    uses(&found, "checkpoint_pkey", "checkpoint");
    uses(&found, "non_reading_pkey", "non_reading");
    assert!(!found.contains("on reading"), "no month is planned for:\n{found}");

    let open = include_str!("../../src/delivery/open.sql");
    let types = "uuid, text, float8, float8, float8, float8";
    let values = "gen_random_uuid(), 'why', 5, 60, 1, 0";
    let found = plan(&mut connection, types, values, open).await;
    uses(&found, "endpoint_id", "endpoint");

    let devices = include_str!("../../src/query/devices.sql");
    let types = "smallint[], text, text, text, text, text, bigint, float8, int, bigint, text[]";
    let values = "'{0}', 't', null, null, null, null, 10, 24, 30, 10, null";
    let found = plan(&mut connection, types, values, devices).await;
    uses(&found, "device_pkey", "device");
    uses(&found, "device_hour_pkey", "device_hour");

    let buckets = include_str!("../../src/query/history_buckets.sql");
    let types = format!("{PATIENT}, text, timestamptz, timestamptz, float8, text, bigint");
    let values = format!("{PATIENT_AT}, 'spo2', {TWO_YEARS}, 60, null, 10");
    by_series(&plan(&mut connection, &types, &values, buckets).await);
}
