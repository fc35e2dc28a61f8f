//! Who the service is in the database: what it may, what it may not, and the wall between
//! tenants behind every `where`. That it may all that it needs is what the whole suite
//! shows: every server of it runs as this role.

use std::time::Duration;

use chrono::TimeDelta;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::cluster::Cluster;
use crate::support::disk::Dir;
use crate::support::postgres::{Database, caught_up};
use crate::support::server::{self, Server, of_service};
use crate::support::{cli, eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(60);
const INSUFFICIENT_PRIVILEGE: &str = "42501";

async fn as_service(database: &Database) -> PgConnection {
    let options: PgConnectOptions = of_service(&database.url).parse().unwrap();
    options.connect().await.expect("the service's login")
}

/// The code that PostgreSQL refuses a statement with.
async fn refusal(connection: &mut PgConnection, sql: &str) -> String {
    let said = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    let error = said.err().unwrap_or_else(|| panic!("it may: {sql}"));
    error.as_database_error().and_then(|error| error.code()).expect("a code").into_owned()
}

/// Two tenants with a patient each, an alert, an endpoint, and readings of several months.
async fn two_tenants() -> (Database, Server) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    for tenant in ["east", "west"] {
        let hospital = Hospital::new(&server, tenant);
        hospital.measure("p", 140.0).await;
        let old = heart_rate("p", 70.0, now() - TimeDelta::days(3_000));
        hospital.store(&[old]).await;
        let endpoint = serde_json::json!({ "url": "http://127.0.0.1:9/hook", "events": ["*"] });
        assert_eq!(hospital.post("/webhooks", &endpoint).await.0, 201);
    }
    caught_up(&database.pool()).await;
    (database, server)
}

#[tokio::test]
async fn who_serves_may_not_change_what_is_recorded_nor_leave_the_database() {
    let (database, server) = two_tenants().await;
    let partition: String = sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'reading'::regclass and c.relname like 'reading\\_2%' limit 1",
    )
    .fetch_one(&database.pool())
    .await
    .unwrap();
    let mut service = as_service(&database).await;
    for role in ["none", "vitals_tenant"] {
        let set = format!("set role {role}");
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut service).await.unwrap();
        for sql in [
            "update reading set value = 1",
            "delete from reading",
            "truncate reading",
            "insert into reading select * from reading limit 1",
            "update series set patient_id = 'x'",
            "delete from series",
            "insert into series select * from series limit 1",
            "update non_reading set data = '{}'",
            "delete from non_reading",
            "insert into non_reading select * from non_reading limit 1",
            "insert into reading_context values (0, 1, '{}')",
            &format!("update {partition} set value = 1"),
            &format!("delete from {partition}"),
            &format!("drop table {partition}"),
            "update log_commit set hash = ''",
            "delete from log_commit",
            "update shard_head set hash = ''",
            "update shard_head set position = 0",
            "update projection set apply_sql = 'select 1'",
            "alter table series disable row level security",
            "alter table reading owner to vitals_service",
            "drop policy own_tenant on series",
            "create table public.shard_head_too (shard smallint)",
            "create or replace function event_data(text, json) returns json language sql \
             return $2",
            "copy (select 1) to program 'true'",
            "create temp table t (line text); copy t from program 'id'",
            "copy (select 1) to '/tmp/never'",
            "select pg_read_file('/etc/passwd')",
            "alter system set fsync = off",
            "set session_replication_role = replica",
            "create role intruder superuser",
            "alter role vitals_service superuser",
            "set role vitals",
            "select share_all()",
        ] {
            assert_eq!(refusal(&mut service, sql).await, INSUFFICIENT_PRIVILEGE, "{role}: {sql}");
        }
    }
    // And none of its own tables stands before the log's in what runs as the owner.
    let shadow = "reset role; create temp table if not exists shard_head (like public.shard_head)";
    let _may_be_refused = sqlx::raw_sql(shadow).execute(&mut service).await;
    let none: Vec<String> = Vec::new();
    let head: i64 = sqlx::query_scalar(
        "select head from append_events(0::smallint, null, null, '{}', '{}', '{}', '{}', '{}', '{}', \
                                        '{}', $1, '{}', $1, $1, $1, '{}', $1, $1, '', false)",
    )
    .bind(none)
    .fetch_one(&mut service)
    .await
    .expect("the head of the log, and not of an empty table");
    assert!(head >= 0);
    assert!(server.terminate().await.0.success());
}

/// The tables that hold rows of tenants, the log's partitions among them.
async fn tables(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid \
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') \
           and a.attname = 'tenant' and not a.attisdropped order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn seen(connection: &mut PgConnection, table: &str) -> Vec<String> {
    let sql = format!("select distinct tenant from {table} order by 1");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn behind_the_wall_there_is_one_tenant_in_every_table_and_nobody_without_one() {
    let (database, server) = two_tenants().await;
    assert!(server.terminate().await.0.success());
    let pool = database.pool();
    let tables = tables(&pool).await;
    for table in
        ["series", "non_reading", "current_vitals", "alert", "endpoint", "delivery", "rule_state"]
    {
        assert!(tables.contains(&table.to_owned()), "{table} is no table with a tenant");
    }
    let mut owner = pool.acquire().await.unwrap();
    let mut service = as_service(&database).await;
    let mut walled = as_service(&database).await;
    sqlx::raw_sql("set role vitals_tenant").execute(&mut walled).await.unwrap();
    let mut filled = 0;
    for table in &tables {
        let all = seen(&mut owner, table).await;
        assert_eq!(seen(&mut service, table).await, all, "{table}: who works sees all");
        for tenant in ["east", "west", ""] {
            sqlx::query("select set_config('vitals.tenant', $1, false)")
                .bind(tenant)
                .execute(&mut walled)
                .await
                .unwrap();
            let theirs: Vec<String> = all.iter().filter(|of| *of == tenant).cloned().collect();
            assert_eq!(seen(&mut walled, table).await, theirs, "{table} for {tenant:?}");
            filled += usize::from(!theirs.is_empty());
        }
    }
    assert!(filled >= 10, "too little is in there to tell");
    sqlx::raw_sql("set vitals.tenant = 'east'").execute(&mut walled).await.unwrap();
    for sql in [
        "update endpoint set tenant = 'west'",
        "insert into parked (shard, consumer, tenant, patient_id, position, reason) \
         values (0, 'rules', 'west', 'p', 1, 'none')",
    ] {
        assert_eq!(refusal(&mut walled, sql).await, INSUFFICIENT_PRIVILEGE, "{sql}");
    }
    let kept = sqlx::raw_sql("delete from endpoint where tenant = 'west'").execute(&mut walled);
    assert_eq!(kept.await.unwrap().rows_affected(), 0);
    walled.close().await.unwrap();
}

#[tokio::test]
async fn behind_the_wall_a_patients_series_are_looked_up_by_the_index() {
    let database = Database::new().await;
    let mut walled = as_service(&database).await;
    let prepare = "set role vitals_tenant; set vitals.tenant = 'east'; set enable_seqscan = off";
    sqlx::raw_sql(prepare).execute(&mut walled).await.unwrap();
    let plan: Vec<String> = sqlx::query_scalar(
        "explain (costs off) select series from series where shard = 0::smallint \
         and tenant = 'east' and patient_id = 'p' and vital = 'heart_rate'",
    )
    .fetch_all(&mut walled)
    .await
    .unwrap();
    let condition = plan.iter().find(|line| line.contains("Index Cond"));
    assert!(condition.is_some_and(|line| line.contains("patient_id = 'p'")), "{plan:#?}");
    assert!(plan.iter().any(|line| line.contains("vitals.tenant")), "no wall: {plan:#?}");
}

#[tokio::test]
async fn questions_of_somebody_are_asked_behind_the_wall() {
    let (database, server) = two_tenants().await;
    let hospital = Hospital::new(&server, "east");
    assert!(hospital.found("/patients/p").await["vitals"]["heart_rate"].is_object());
    // Whoever is behind it sees what it lets through, and it now lets nothing through.
    sqlx::raw_sql("drop policy own_tenant on current_vitals")
        .execute(&database.pool())
        .await
        .unwrap();
    let answer = hospital.found("/patients/p").await;
    assert!(answer["vitals"]["heart_rate"].is_null(), "{answer}");
    // Who folds is not.
    hospital.measure("p", 90.0).await;
    caught_up(&database.pool()).await;
}

#[tokio::test]
async fn verify_tells_of_rights_that_the_service_should_not_have() {
    let (database, server) = two_tenants().await;
    assert!(server.terminate().await.0.success());
    let verify = async || {
        let output = cli(&database, &["verify"]).await;
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (sound, said) = verify().await;
    assert!(sound && said.contains("rights: the service appends and folds"), "{said}");
    for (sql, undo, told) in [
        (
            "grant update on series to vitals_service",
            "revoke update on series from vitals_service",
            "may change rows of series",
        ),
        (
            "grant delete on reading_before_2000 to vitals_tenant",
            "revoke delete on reading_before_2000 from vitals_tenant",
            "may change rows of reading_before_2000",
        ),
        (
            "alter table rule_state disable row level security",
            "alter table rule_state enable row level security",
            "no row-level security on rule_state",
        ),
    ] {
        sqlx::raw_sql(sql).execute(&database.pool()).await.unwrap();
        let (sound, said) = verify().await;
        assert!(!sound && said.contains("rights: WRONG") && said.contains(told), "{sql}: {said}");
        sqlx::raw_sql(undo).execute(&database.pool()).await.unwrap();
    }
    assert!(verify().await.0);
}

#[tokio::test]
async fn a_service_alone_serves_what_its_owner_has_migrated_and_says_what_is_missing() {
    let database = Database::new().await;
    let start = async || {
        let dir = scratch_dir();
        let mut command = server::command(&dir, None);
        command.env("VITALS_DATABASE_URL", of_service(&database.url));
        Server::spawn(command, &dir, &[]).await
    };
    let server = start().await.expect("it starts");
    let hospital = Hospital::new(&server, "ward");
    // A month that nobody has made yet.
    hospital.store(&[heart_rate("p", 70.0, now() - TimeDelta::days(4_000))]).await;
    assert!(!server.logged().contains("could rewrite it"), "{}", server.logged());
    assert!(server.terminate().await.0.success());

    let forget =
        "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)";
    sqlx::raw_sql(forget).execute(&database.pool()).await.unwrap();
    let said = start().await.err().expect("no start");
    assert!(said.contains("vitals migrate") && said.contains("vitals_service"), "{said}");
}

#[tokio::test]
async fn who_serves_as_the_owner_is_told() {
    let database = Database::new().await;
    let dir = scratch_dir();
    let mut command = server::command(&dir, None);
    command.env("VITALS_DATABASE_URL", &database.url);
    let server = Server::spawn(command, &dir, &[]).await.expect("it starts");
    Hospital::new(&server, "ward").measure("p", 80.0).await;
    let said = server.logged();
    assert!(said.contains("could rewrite it") && said.contains("--owner-database-url"), "{said}");
}

#[tokio::test]
async fn the_embedded_database_is_served_by_a_role_that_is_not_its_superuser() {
    let dir = Dir::new("roles");
    let server = Server::start_in(dir.path(), None, &[]).await;
    Hospital::new(&server, "ward").measure("p", 80.0).await;
    let mut cluster = Cluster::of(dir.path());
    cluster.up().await;
    let users = async || {
        let sql =
            "select distinct usename::text from pg_stat_activity where application_name = 'vitals'";
        let mut admin = cluster.connect().await;
        sqlx::query_scalar::<_, String>(sql).fetch_all(&mut admin).await.unwrap()
    };
    eventually("the owner's connections to be closed", SOON, async || {
        (users().await == ["vitals_service"]).then_some(())
    })
    .await;
    assert!(server.terminate().await.0.success());
    drop(cluster);
}
