//! The plans of the statements that every delivery goes through, with many endpoints and
//! deliveries: none of them may look at all of either.

use sqlx::PgConnection;

use crate::plans::{connect, plan, uses};
use crate::support::postgres::Database;

const CLAIM: &str = "uuid[], bigint[], bigint, float8, bigint, uuid[]";

/// 1,000 endpoints of 100 tenants, 20,000 deliveries; for some of the endpoints some wait.
async fn many() -> (Database, PgConnection) {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    sqlx::raw_sql(
        "insert into endpoint (tenant, id, url, events, secret, state, created_at) \
         select 't' || n % 100, md5(n::text)::uuid, 'u', '{*}', 's', 'active', now() \
         from generate_series(1, 1000) n; \
         insert into endpoint_sequence (endpoint_id, last) select id, 20 from endpoint; \
         insert into delivery (shard, position, endpoint_id, id, tenant, webhook_id, event, body, \
                               state, due_at, created_at, sequence, alert_id, priority) \
         select n % 4, n, md5((n % 1000 + 1)::text)::uuid, gen_random_uuid(), 't', n, 'E', '', \
                case when n % 50 = 0 then 'pending' else 'delivered' end, now(), now(), n / 1000 + 1, \
                gen_random_uuid(), 'high' \
         from generate_series(1, 20000) n; \
         analyze endpoint, endpoint_sequence, delivery",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    (database, connection)
}

#[tokio::test]
async fn due_deliveries_are_found_among_many_that_are_not() {
    let (_database, mut connection) = many().await;
    let claim = include_str!("../../src/delivery/claim.sql");
    let values = "'{}', '{}', 128, 20, 512, '{}'";
    let found = plan(&mut connection, CLAIM, values, claim).await;
    uses(&found, "delivery_due", "delivery");
    uses(&found, "delivery_pkey", "delivery");
    uses(&found, "delivery_of_alert", "delivery");
    // Endpoints that nothing waits for are hopped over, and not looked at.
    assert!(found.contains("Recursive Union"), "{found}");
    assert!(!found.contains("Seq Scan on endpoint"), "{found}");
    // The time is part of the index's condition: a volatile clock would only filter.
    let condition =
        found.lines().find(|line| line.contains("Index Cond") && line.contains("due_at"));
    assert!(condition.is_some(), "{found}");

    let probe = include_str!("../../src/delivery/probe.sql");
    uses(&plan(&mut connection, "float8", "10", probe).await, "delivery_due", "delivery");
    let due = include_str!("../../src/delivery/due.sql");
    uses(&plan(&mut connection, "bigint", "100", due).await, "delivery_due", "delivery");
}

#[tokio::test]
async fn what_is_made_recorded_and_given_back_goes_by_keys() {
    let (_database, mut connection) = many().await;
    let record = include_str!("../../src/delivery/record.sql");
    let types = "smallint[], bigint[], uuid[], int[], uuid[], timestamptz[], int[], int[], text[], \
                 text[], boolean[], float8[], text[]";
    let found = plan(&mut connection, types, &["'{}'"; 13].join(", "), record).await;
    uses(&found, "delivery_pkey", "delivery");

    let release = include_str!("../../src/delivery/release.sql");
    let types = "smallint[], bigint[], uuid[], int[], uuid[]";
    let found = plan(&mut connection, types, &["'{}'"; 5].join(", "), release).await;
    uses(&found, "delivery_pkey", "delivery");

    let insert = include_str!("../../src/delivery/insert_deliveries.sql");
    let types = "smallint, bigint[], text[], text[], text[], text[], timestamptz[], boolean[], \
                 uuid[], text[], text[], boolean[], uuid[], uuid[], bigint[], bigint, float8, text[], text[]";
    let values = format!("0::smallint, {}, 128, 20, '{{}}', '{{}}'", ["'{}'"; 14].join(", "));
    let found = plan(&mut connection, types, &values, insert).await;
    uses(&found, "endpoint_pkey", "endpoint");
    uses(&found, "delivery_of_alert", "delivery");

    let endpoint = "'c4ca4238-a0b9-2382-0dcc-509a6f75849b'";
    let fail_over = include_str!("../../src/delivery/fail_over.sql");
    let values = format!("{endpoint}, 900");
    let found = plan(&mut connection, "uuid, float8", &values, fail_over).await;
    uses(&found, "endpoint_pkey", "endpoint");
    assert!(!found.contains("Seq Scan on delivery"), "{found}");
}

/// On the day that a server is new, plans are made before there is anything to plan for, and
/// stay until the table is analysed.
#[tokio::test]
async fn plans_made_while_the_table_was_empty_go_by_the_key_as_well() {
    let database = Database::new().await;
    let mut connection = connect(&database).await;
    let record = include_str!("../../src/delivery/record.sql");
    let types = "smallint[], bigint[], uuid[], int[], uuid[], timestamptz[], int[], int[], text[], \
                 text[], boolean[], float8[], text[]";
    let found = plan(&mut connection, types, &["'{}'"; 13].join(", "), record).await;
    uses(&found, "delivery_pkey", "delivery");
    let claim = include_str!("../../src/delivery/claim.sql");
    let found = plan(&mut connection, CLAIM, "'{}', '{}', 128, 20, 512, '{}'", claim).await;
    uses(&found, "delivery_pkey", "delivery");
    assert!(
        !found.contains("delivery_of_endpoint") && !found.contains("delivery_sequence"),
        "{found}"
    );
}
