//! Who waits for whom: a shard that cannot be written, a backlog, and those who stop
//! waiting take nobody else along.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{SOON, many, waiting};
use crate::hospital::{Hospital, heart_rate, now};
use crate::ndjson::{counts, lines, stored};
use crate::support::eventually;
use crate::support::http::{get, send};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::upload::Upload;

/// A gateway has handed in as much as may wait when a bedside's reading comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reading_neither_waits_behind_a_backlog_nor_is_refused_because_of_it() {
    const LARGE: usize = 10_000;
    let database = Database::new().await;
    let pool = database.pool();
    let server = Server::start_with(&database, &["--roles", "api"]).await;
    let hospital = Hospital::new(&server, "ward");
    let mut lock = pool.begin().await.unwrap();
    let sql = "select from shard_head for update";
    sqlx::query(sql).execute(&mut *lock).await.unwrap();
    let send = |body: Value| {
        let request = hospital.request(Method::POST, "/readings").json(&body);
        async move { request.send().await.unwrap() }
    };
    // One more than there is room for.
    let mut sending = JoinSet::new();
    for n in 0..11 {
        sending.spawn(send(many(&format!("p{n}"), n, LARGE)));
    }
    let refused = sending.join_next().await.unwrap().unwrap();
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["code"], "queue_full");
    let small = tokio::spawn(send(heart_rate("101", 80.0, now())));
    lock.rollback().await.unwrap();
    assert_eq!(small.await.unwrap().status(), 201);
    // Each shard has written what it was at, and one more at most.
    let mut before = 0;
    while let Some(answered) = sending.try_join_next() {
        assert_eq!(answered.unwrap().status(), 201);
        before += 1;
    }
    assert!(before <= 4, "{before} large requests were answered before it");
    while let Some(answered) = sending.join_next().await {
        assert_eq!(answered.unwrap().status(), 201);
    }
}

/// As many as there are connections for questions.
const QUESTIONS: usize = 16;

/// They leave connections on which a transaction was begun that nobody knows of. What the
/// next one writes must not be left in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_while_a_question_begins_takes_no_acknowledged_write_along() {
    let database = Database::new().await;
    let pool = database.pool();
    let server = Server::start_with(&database, &["--roles", "api"]).await;
    let hospital = Hospital::new(&server, "ward");
    let mut lock = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table alert in access exclusive mode").execute(&mut *lock).await.unwrap();
    // Of several: one alone may not have all connections for questions.
    let question = |n: usize| {
        let token = server.token_with(|claims| {
            claims["tenant"] = format!("ward-{}", n % 2).into();
            claims["sub"] = format!("screen-{}", n % 4).into();
            claims["scope"] = "vitals:read".into();
        });
        format!(
            "GET /api/v1/patients HTTP/1.1\r\nhost: ward\r\nauthorization: Bearer {token}\r\n\r\n"
        )
    };
    let mut asking = Vec::new();
    for n in 0..QUESTIONS {
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        connection.write_all(question(n).as_bytes()).await.unwrap();
        asking.push(connection);
    }
    eventually("every question to have begun", SOON, async || {
        (waiting(&pool).await == QUESTIONS as i64).then_some(())
    })
    .await;
    for mut connection in asking {
        connection.shutdown().await.unwrap();
        // Its end says that nobody waits for the answer any more.
        assert_eq!(connection.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }
    lock.rollback().await.unwrap();
    let mut writing = JoinSet::new();
    for n in 0..2 * QUESTIONS {
        let request = hospital.request(Method::PUT, &format!("/patients/p{n}"));
        let request = request.json(&json!({ "ward": "4B" }));
        writing.spawn(async move { request.send().await.unwrap().status() });
    }
    while let Some(status) = writing.join_next().await {
        assert!(status.as_ref().is_ok_and(|s| s.is_success()), "{status:?}");
    }
    let sql = "select count(*) from event where type = 'patient_registered'";
    let stored: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(stored, 2 * QUESTIONS as i64);
}

/// On two cores all turns at the log are held by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_cannot_be_written_hold_up_no_other() {
    let database = Database::new().await;
    let pool = database.pool();
    // Four of them, however few cores there are.
    sqlx::query("update installation set shards = 4").execute(&pool).await.unwrap();
    let log = database.log().await;
    let server = Server::start_with(&database, &["--roles", "api"]).await;
    let hospital = Hospital::new(&server, "ward");
    let of_shard = |shard| {
        let ids = (0..).map(|n| format!("p{n}"));
        ids.into_iter().find(|id| log.shard_of("ward", id) == shard).unwrap()
    };
    let mut lock = pool.begin().await.unwrap();
    let sql = "select from shard_head where shard <> 0 for update";
    sqlx::query(sql).execute(&mut *lock).await.unwrap();
    let mut stuck = JoinSet::new();
    for shard in log.shards().skip(1) {
        let body = heart_rate(&of_shard(shard), 80.0, now());
        let request = hospital.request(Method::POST, "/readings").json(&body);
        stuck.spawn(async move { request.send().await.unwrap().status() });
    }
    eventually("three shards to wait", SOON, async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                   and wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        (waiting == 3).then_some(())
    })
    .await;
    let free = heart_rate(&of_shard(0), 80.0, now());
    assert_eq!(hospital.post("/readings", &free).await.0, 201);
    assert!(stuck.try_join_next().is_none(), "the others wait");
    lock.rollback().await.unwrap();
    while let Some(status) = stuck.join_next().await {
        assert_eq!(status.unwrap(), 201);
    }
}

async fn times_full(server: &Server) -> u64 {
    let metrics = get(&server.url("/metrics"), "").await.text;
    let line = metrics.lines().find_map(|l| l.strip_prefix("vitals_queue_full_total "));
    line.map_or(0, |count| count.parse().expect("a number"))
}

/// More arrays than the queue has room for, by one.
fn too_many() -> Vec<String> {
    let array = |n| lines(n..n + 10_000).trim_end().replace('\n', ",");
    (0..11).map(|nth| format!("[{}]", array(1_000_000 + nth * 10_000))).collect()
}

/// Fills the queue of a server whose log is locked, until that is said.
async fn fill_queue(server: &Server, bodies: Vec<String>) {
    let (url, token) = (server.url("/api/v1/readings"), server.token("readings:write"));
    let post = |body: String| {
        let (url, token) = (url.clone(), token.clone());
        tokio::spawn(async move { send(Method::POST, &url, &token, Some(body.into())).await })
    };
    let mut posts: Vec<_> = bodies.into_iter().map(post).collect();
    loop {
        let (refused, _, others) = futures_util::future::select_all(posts).await;
        if refused.unwrap().json["code"] == "queue_full" {
            return;
        }
        // It waited for its commit for too long, and lies in the queue all the same.
        posts = others;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_a_stream_wait_and_not_for_ever() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    // Made before: the appends that are locked out are given up after a while.
    let (pool, bodies) = (database.pool(), too_many());
    let lock = async || {
        let mut lock = pool.begin().await.unwrap();
        sqlx::query("select 1 from shard_head for update").execute(&mut *lock).await.unwrap();
        lock
    };
    let locked = lock().await;
    fill_queue(&server, bodies.clone()).await;
    let mut patient = Upload::of_lines(&server).await;
    let before = times_full(&server).await;
    patient.send(lines(0..20)).await;
    eventually("the stream to wait for room", SOON, async || {
        (times_full(&server).await > before).then_some(())
    })
    .await;
    locked.commit().await.unwrap();
    let (status, answer) = patient.end().await;
    assert_eq!((status, counts(&answer)), (201, (20, 0)), "{answer}");

    let mut given_up = Upload::of_lines(&server).await;
    given_up.send(lines(20..30)).await;
    eventually("its beginning to be stored", SOON, async || {
        stored(&pool).await.contains(&29).then_some(())
    })
    .await;
    let _locked = lock().await;
    fill_queue(&server, bodies).await;
    given_up.send(lines(30..40)).await;
    let (status, problem) = given_up.answer().await;
    assert_eq!((status, counts(&problem)), (503, (10, 0)), "{problem}");
    // An append that is given up makes room, and then it is the commit that does not come.
    let code = problem["code"].as_str().unwrap();
    assert!(["queue_full", "log_unavailable"].contains(&code), "{problem}");
}
