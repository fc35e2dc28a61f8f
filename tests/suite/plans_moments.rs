//! The plans of the statements that compare moments and draw charts, as [`crate::plans`].

use std::collections::BTreeSet;

use chrono::TimeDelta;
use sqlx::{Connection, PgConnection};

use crate::plans::{
    PATIENT, PATIENT_AT, TWO_YEARS, by_series, connect, looked_into, months, plan, two_years, uses,
};
use crate::support::postgres::Database;

const CHART: &str = include_str!("../../src/query/chart.sql");
const CHART_TYPES: &str = "text, timestamptz, timestamptz, text";
const DIFF: &str = include_str!("../../src/query/diff_readings.sql");
const DIFF_TYPES: &str =
    "timestamptz, timestamptz, timestamptz, timestamptz, text, text, text, bigint";
const MISSED: &str = include_str!("../../src/query/diff_missed.sql");
const MISSED_TYPES: &str = "timestamptz, timestamptz, timestamptz";

#[tokio::test]
async fn charts_and_differences_go_by_the_natural_key() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let chart = format!("{PATIENT_AT}, 'spo2', {TWO_YEARS}, null");
    let diff = format!("{PATIENT_AT}, {TWO_YEARS}, now(), null, null, null, null, 10");
    for (sql, types, values) in [(CHART, CHART_TYPES, chart), (DIFF, DIFF_TYPES, diff)] {
        let types = format!("{PATIENT}, {types}");
        let plan = plan(&mut connection, &types, &values, sql).await;
        by_series(&plan);
    }
    let (types, values) =
        (format!("{PATIENT}, {MISSED_TYPES}"), format!("{PATIENT_AT}, {TWO_YEARS}, now()"));
    let missed = plan(&mut connection, &types, &values, MISSED).await;
    uses(&missed, "non_reading_patient", "non_reading");
}

#[tokio::test]
async fn buckets_go_by_the_keys_of_what_is_folded_and_of_the_log() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let rollup = include_str!("../../src/query/rollup.sql");
    let types = format!(
        "{PATIENT}, text, timestamptz, timestamptz, float8, timestamptz, timestamptz, bigint, \
         timestamptz, timestamptz, bigint"
    );
    let values = format!(
        "{PATIENT_AT}, 'spo2', {TWO_YEARS}, 3600, '2024-01-02T00:00Z', '2026-03-01T00:00Z', 10, \
         '2026-03-15T11:00Z', '2026-03-15T12:00Z', 100"
    );
    let plan = plan(&mut connection, &types, &values, rollup).await;
    by_series(&plan);
    uses(&plan, "series_minute_pkey", "series_minute");
}

/// That nobody retracted the newest value costs one look, and no search.
#[tokio::test]
async fn the_newest_value_at_a_moment_is_found_in_its_month() {
    let database = Database::new().await;
    let (shard, _) = two_years(&database).await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let newest = include_str!("../../src/query/state_newest.sql");
    let types = format!("{PATIENT}, timestamptz, timestamptz, text");
    let moment = months()[17] + TimeDelta::days(3);
    let values = format!("{shard}::smallint, 'ward', 'p', '{moment}', now(), null");
    let looked = looked_into(&mut connection, &types, &values, newest).await;
    assert_eq!(looked, BTreeSet::from([months()[17].format("reading_%Y_%m").to_string()]));
    let plan = plan(&mut connection, &types, &values, newest).await;
    by_series(&plan);
}

#[tokio::test]
async fn charts_and_differences_of_one_month_look_into_no_other() {
    let database = Database::new().await;
    let (shard, _) = two_years(&database).await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let month = months()[17];
    let only = BTreeSet::from([month.format("reading_%Y_%m").to_string()]);
    let (since, until) = (month - TimeDelta::days(1), month + TimeDelta::days(1));
    let patient = format!("{shard}::smallint, 'ward', 'p'");
    let chart = format!("{patient}, 'heart_rate', '{since}', '{until}', null");
    let diff = format!("{patient}, '{since}', '{until}', '{since}', null, null, null, null, 100");
    for (sql, types, values) in [(CHART, CHART_TYPES, chart), (DIFF, DIFF_TYPES, diff)] {
        let types = format!("{PATIENT}, {types}");
        assert_eq!(looked_into(&mut connection, &types, &values, sql).await, only, "{sql}");
    }
}

#[tokio::test]
async fn who_lies_in_a_ward_is_found_by_each_patients_own_events() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let wards = include_str!("../../src/query/wards.sql");
    let types = "smallint[], text, text[], text";
    let values = "'{0}', 't', '{icu}', 'patient_registered'";
    let found = plan(&mut connection, types, values, wards).await;
    uses(&found, "patient_pkey", "patient");
    uses(&found, "non_reading_patient", "non_reading");
    let lying = include_str!("../../src/log/lying_in.sql");
    let types = "smallint[], text, text[], text, text[]";
    let values = "'{0}', 't', '{p}', 'patient_registered', '{icu}'";
    uses(&plan(&mut connection, types, values, lying).await, "non_reading_patient", "non_reading");
}
