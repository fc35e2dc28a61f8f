//! An instance that dies or freezes in the middle of an export: another one finishes it, and
//! nobody writes who does not hold it.

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;
use vitals::export::{ExportStore, Hold, Part, Put};

use super::{
    OCTETS, SOON, bytes_of, exported, held, id_of, let_go, part, parts, reading, retract, started,
    until, with_much,
};
use crate::hospital::Hospital;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// Two servers, and an export of which the first has written a part, and waits to write the
/// next one: the second is frozen.
struct Begun {
    first: Server,
    second: Server,
    hospital: Hospital,
    /// Who is in the way.
    lock: PgConnection,
    job: String,
    /// The bytes of the same export, of which nothing was in the way.
    undisturbed: Bytes,
}

async fn begun(database: &Database, asked: &Value) -> Begun {
    let (first, second) = (Server::start(database).await, Server::start(database).await);
    let hospital = Hospital::new(&first, "ward");
    with_much(&hospital).await;
    second.signal(Signal::STOP);
    let undisturbed = exported(&hospital, asked.clone()).await;
    let pool = database.pool();
    // Where its second part begins the other's will, and somebody else has a row there.
    let second_part = "select first from export_part order by first offset 1 limit 1";
    let place: i64 = sqlx::query_scalar(second_part).fetch_one(&pool).await.unwrap();
    let table = held(database, "export in exclusive mode").await;
    let job = started(&hospital, asked.clone()).await;
    let mut lock = held(database, "export_part in row exclusive mode").await;
    let row = "insert into export_part (job, first, tenant, data) values ($1, $2, 'ward', '')";
    sqlx::query(row).bind(id_of(&job)).bind(place).execute(&mut lock).await.unwrap();
    let_go(table).await;
    eventually("a part", SOON, || async { (parts(&pool, &job).await == 1).then_some(()) }).await;
    assert_eq!(hospital.get(&job).await.1["state"], "running");
    Begun { first, second, hospital, lock, job, undisturbed }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_killed_half_way_is_finished_by_another_instance_to_the_letter() {
    for format in ["ndjson", "csv"] {
        let database = Database::new().await;
        let asked = json!({ "format": format });
        let Begun { first, second, hospital, lock, job, undisturbed } =
            begun(&database, &asked).await;
        // What is learned from now on was not known when it began, also of what is not written.
        retract(&hospital, "101", 7).await;
        retract(&hospital, "102", 7).await;
        hospital.store(&[reading("103", 1, 1), reading("101", 3_000, 1)]).await;
        hospital.store(&[reading("102", 3_000, 1)]).await;
        first.kill().await;
        second.signal(Signal::CONT);
        let hospital = hospital.after_restart(&second);
        assert_eq!(hospital.get(&job).await.1["state"], "running", "every instance tells of it");
        let_go(lock).await;
        let finished = bytes_of(&hospital, &job).await;
        assert!(finished == undisturbed, "{format}: {} {}", finished.len(), undisturbed.len());
        assert!(parts(&database.pool(), &job).await > 3);
        let counts = "select claim, lost from job where id = $1";
        let counts: (i32, i16) =
            sqlx::query_as(counts).bind(id_of(&job)).fetch_one(&database.pool()).await.unwrap();
        assert_eq!(counts, (2, 1));
        assert_eq!(Hospital::new(&second, "other").get(&job).await.0, 404);
        // And what is asked for now has what is known now.
        assert!(exported(&hospital, asked).await != undisturbed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_up_begins_again_and_shows_the_same() {
    let database = Database::new().await;
    let key = age::x25519::Identity::generate();
    let asked = json!({ "format": "csv", "recipients": [key.to_public().to_string()] });
    let Begun { first, second, hospital, lock, job, undisturbed } = begun(&database, &asked).await;
    retract(&hospital, "101", 7).await;
    first.kill().await;
    second.signal(Signal::CONT);
    let_go(lock).await;
    let hospital = hospital.after_restart(&second);
    let sealed = bytes_of(&hospital, &job).await;
    let open = |bytes: &[u8]| age::decrypt(&key, bytes).unwrap();
    assert!(open(&sealed) == open(&undisturbed) && sealed != undisturbed);
    assert!(!sealed.windows(7).any(|some| some == b"watch-0"), "plain text is stored");
    let answer = part(&hospital, &job, &[]).await;
    assert_eq!(answer.headers()["content-type"], OCTETS);
    let disposition = answer.headers()["content-disposition"].to_str().unwrap().to_owned();
    assert!(disposition.ends_with(".csv.age\""), "{disposition}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_frozen_writes_no_part_behind_those_of_another() {
    let database = Database::new().await;
    let asked = json!({ "format": "ndjson" });
    let Begun { first, second, hospital, lock, job, undisturbed } = begun(&database, &asked).await;
    first.signal(Signal::STOP);
    second.signal(Signal::CONT);
    let_go(lock).await;
    let hospital = hospital.after_restart(&second);
    assert!(bytes_of(&hospital, &job).await == undisturbed);
    first.signal(Signal::CONT);
    eventually("the frozen one to learn it", SOON, || async {
        first.logged().contains("another's by now").then_some(())
    })
    .await;
    assert!(bytes_of(&hospital, &job).await == undisturbed);
}

#[tokio::test]
async fn only_who_holds_the_job_writes_and_only_at_the_end_of_what_there_is() {
    let database = Database::new().await;
    database.log().await;
    let (pool, job) = (database.pool(), Uuid::now_v7());
    sqlx::query(
        "insert into job (id, tenant, kind, argument, asked_by, state, claim) \
         values ($1, 'ward', 'export', '{}', 'a test', 'running', 1)",
    )
    .bind(job)
    .execute(&pool)
    .await
    .unwrap();
    let store = ExportStore::new(pool.clone());
    let hold = |claim| Hold { job, claim, tenant: "ward" };
    let put = async |claim, first, data: &[u8]| {
        let (readings, patients, hash) = (1, 1, &[][..]);
        let place = Some("{}");
        let part = Part { first, data, readings, patients, place, hash };
        store.put(hold(claim), part).await.unwrap()
    };
    assert!(store.begin(hold(2)).await.unwrap().is_none(), "nobody has this claim");
    assert_eq!(store.begin(hold(1)).await.unwrap().unwrap().bytes, 0);
    assert_eq!(put(1, 0, b"one").await, Put::Written);
    assert_eq!(put(1, 0, b"one").await, Put::Lost, "there is a part at this place");
    sqlx::query("update job set claim = 2").execute(&pool).await.unwrap();
    assert_eq!(put(1, 3, b"stale").await, Put::Lost);
    assert!(store.end(hold(1), b"stale").await.unwrap().is_none());
    assert_eq!(put(2, 3, b"two").await, Put::Written);
    assert_eq!(store.begin(hold(2)).await.unwrap().unwrap().bytes, 6);
    sqlx::query("update job set state = 'cancelled'").execute(&pool).await.unwrap();
    assert_eq!(put(2, 6, b"three").await, Put::Lost);
    let sql = "select string_agg(data, '' order by first) from export_part";
    let bytes: Vec<u8> = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(bytes, b"onetwo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_becomes_too_large_is_given_up() {
    let database = Database::new().await;
    let asked = json!({ "format": "ndjson" });
    let Begun { first, second, hospital, lock, job, .. } = begun(&database, &asked).await;
    first.kill().await;
    let_go(lock).await;
    let pool = database.pool();
    let almost = "update export set bytes = $1 where job = $2";
    let most = vitals::export::EXPORT_BYTES_MAX;
    sqlx::query(almost).bind(most - 100).bind(id_of(&job)).execute(&pool).await.unwrap();
    second.signal(Signal::CONT);
    let failed = until(&hospital.after_restart(&second), &job, "failed").await;
    assert!(failed["error"].as_str().unwrap().contains("ask for less"), "{failed}");
    eventually("its parts to be gone", SOON, || async {
        (parts(&pool, &job).await == 0).then_some(())
    })
    .await;
}
