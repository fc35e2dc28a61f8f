//! Another history of the log: a failover that lost commits, a dump and its restore.
//!
//! What was acknowledged and is gone is noticed and said; nothing of what comes after it is
//! taken for what was before: not by a receiver that drops repeats, not by a stream, not by a
//! list, and not by what the program remembers.

mod anchors;

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};
use vitals::event::LOG_RESTORED;

use crate::hospital::{Hospital, heart_rate, now};
use crate::streams::Events;
use crate::support::cluster::{Cluster, succeed};
use crate::support::eventually;
use crate::support::postgres::{caught_up, url_of_server};
use crate::support::proxy::Proxy;
use crate::support::receiver::{Delivery, Receiver};
use crate::support::server::{Server, scratch_dir};

const SOON: Duration = Duration::from_secs(60);
const OPTIONS: [&str; 2] = ["--allow-webhook-net", "127.0.0.0/8"];

/// A deed of the log's history, as it is told.
async fn restored(pool: &PgPool) -> Vec<Value> {
    let data: Vec<String> =
        sqlx::query_scalar("select data::text from event where type = $1 order by shard, position")
            .bind(LOG_RESTORED)
            .fetch_all(pool)
            .await
            .unwrap();
    data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The first delivery about a patient.
async fn page_of(receiver: &Receiver, patient: &str) -> Delivery {
    eventually("a page", SOON, async || {
        receiver.deliveries().into_iter().find(|page| page.body["patientId"] == patient)
    })
    .await
}

async fn warnings(server: &Server) -> Vec<Value> {
    eventually("a server that is ready", SOON, async || {
        let answer = server.client().get(server.url("/health/ready")).send().await.ok()?;
        let ready = answer.status() == 200;
        let body: Value = answer.json().await.ok()?;
        ready.then(|| body["warnings"].as_array().unwrap().clone())
    })
    .await
}

fn warns_of_restore(warnings: &[Value]) -> Option<&str> {
    warnings.iter().filter_map(Value::as_str).find(|text| text.contains("the log was restored"))
}

async fn metric(server: &Server, name: &str) -> f64 {
    let text = server.client().get(server.url("/metrics")).send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// What a 409 says.
async fn refused(hospital: &Hospital, path: &str) -> Value {
    let (status, body) = hospital.get(path).await;
    assert_eq!((status, &body["code"]), (409, &json!("log_restored")), "{path}: {body}");
    body
}

/// Two servers, one streaming from the other, and vitals before the first.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    proxy: Proxy,
    server: Server,
    hospital: Hospital,
    receiver: Receiver,
    endpoint: String,
}

impl Pair {
    async fn start() -> Pair {
        let primary = Cluster::start(&[]).await;
        let standby = primary.standby().await;
        let proxy = Proxy::before_server(&primary.options()).await;
        let server = Server::start_in(&scratch_dir(), Some(&proxy.url), &OPTIONS).await;
        let hospital = Hospital::new(&server, "ward");
        let receiver = Receiver::start().await;
        let endpoint = hospital.endpoint(&receiver, &["*"]).await;
        Pair { primary, standby, proxy, server, hospital, receiver, endpoint }
    }

    /// From here on the standby gets nothing of what is committed.
    async fn stop_streaming(&self) {
        let mut primary = self.primary.connect().await;
        let standby = PgPool::connect_with(self.standby.options()).await.unwrap();
        let lsn: String = sqlx::query_scalar("select pg_current_wal_lsn()::text")
            .fetch_one(&mut primary)
            .await
            .unwrap();
        eventually("the standby to have it all", SOON, async || {
            sqlx::query_scalar::<_, bool>("select pg_last_wal_replay_lsn() >= $1::pg_lsn")
                .bind(&lsn)
                .fetch_one(&standby)
                .await
                .unwrap()
                .then_some(())
        })
        .await;
        let sender: i32 = sqlx::query_scalar("select pid from pg_stat_replication")
            .fetch_one(&mut primary)
            .await
            .unwrap();
        kill_process(Pid::from_raw(sender).unwrap(), Signal::STOP).unwrap();
    }

    /// The primary dies, and the standby goes on with what it has.
    async fn fail_over(&self) {
        self.primary.signal_all(Signal::KILL);
        let mut standby = self.standby.connect().await;
        standby.execute("select pg_promote()").await.unwrap();
        self.proxy.move_to(&self.standby.options());
    }

    /// A reading that is taken as soon as there is somebody to take it.
    async fn taken(&self, reading: &Value) {
        eventually("a reading to be taken", SOON, async || {
            let request = self.hospital.request(Method::POST, "/readings").json(reading);
            let status = request.send().await.ok()?.status();
            assert!([201, 503].contains(&status.as_u16()), "{status}");
            (status == 201).then_some(())
        })
        .await;
    }

    async fn point_to(&self, url: &str) {
        let (status, body) = self
            .hospital
            .patch(&format!("/webhooks/{}", self.endpoint), &json!({ "url": url }))
            .await;
        assert_eq!(status, 200, "{body}");
    }
}

/// What somebody outside holds of the first history.
struct Held {
    cursor: String,
    last_event_id: String,
    stream: Events,
}

async fn hold(pair: &Pair) -> Held {
    let hospital = &pair.hospital;
    let mut stream = Events::open(hospital, "/stream", None).await;
    for patient in ["a", "b"] {
        hospital.measure(patient, 130.0).await;
        page_of(&pair.receiver, patient).await;
    }
    let last_event_id = loop {
        let event = stream.event().await;
        if event.data.unwrap()["patientId"] == "b" {
            break event.id.unwrap();
        }
    };
    let page = hospital.found("/alerts?limit=1").await;
    let cursor = page["next"].as_str().expect("two alerts").to_owned();
    Held { cursor, last_event_id, stream }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_commits_is_another_history_for_everybody() {
    let pair = Pair::start().await;
    let (hospital, receiver) = (&pair.hospital, &pair.receiver);
    let Held { cursor, last_event_id, mut stream } = hold(&pair).await;
    pair.stop_streaming().await;

    // Acknowledged, told, and soon gone: a page, a new address, a page there, a new month.
    hospital.measure("lost", 130.0).await;
    let lost = page_of(receiver, "lost").await;
    let elsewhere = Receiver::start().await;
    pair.point_to(&elsewhere.url).await;
    hospital.measure("lost-too", 130.0).await;
    let lost_too = page_of(&elsewhere, "lost-too").await;
    let old = now() - TimeDelta::days(150);
    hospital.store(&[heart_rate("lost", 80.0, old)]).await;
    let seen: Vec<Delivery> = [receiver.deliveries(), elsewhere.deliveries()].concat();
    pair.fail_over().await;

    // The stream ends with the place from which nothing is missed.
    let end = loop {
        match stream.next().await {
            Some(sent) if sent.event.as_deref() == Some("log_restored") => break sent,
            Some(_) => {}
            None => panic!("the stream ended without a word"),
        }
    };
    assert!(stream.next().await.is_none(), "and then it is closed");
    let go_on = end.data.unwrap()["lastEventId"].as_str().unwrap().to_owned();
    assert_eq!(end.id.as_deref(), Some(&*go_on));

    // What was remembered of the lost window is not believed any more.
    pair.taken(&heart_rate("month", 80.0, old)).await;
    pair.taken(&heart_rate("new", 130.0, now())).await;
    let new = page_of(receiver, "new").await;
    let repeats = |page: &&Delivery| page.id == new.id || page.sequence == new.sequence;
    assert!(!seen.iter().any(|page| repeats(&page)), "{new:?}");
    assert!(seen.iter().all(|page| page.sequence < new.sequence), "{}", new.sequence);
    let incarnation = |page: &Delivery| page.headers["webhook-incarnation"].clone();
    assert_ne!(incarnation(&new), incarnation(&lost));
    assert_eq!(incarnation(&lost), incarnation(&lost_too));

    // A place in the lost history is refused, with where to go on.
    refused(hospital, &format!("/alerts?limit=1&cursor={cursor}")).await;
    let request = hospital.request(Method::GET, "/stream").header("last-event-id", &last_event_id);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 409);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["code"], "log_restored");
    for place in [&*go_on, answer["lastEventId"].as_str().unwrap()] {
        let mut stream = Events::open(hospital, "/stream", Some(place)).await;
        let mut told = HashSet::new();
        while !(told.contains("month") && told.contains("new")) {
            let patient = stream.event().await.data.unwrap()["patientId"].clone();
            told.insert(patient.as_str().unwrap().to_owned());
        }
        assert!(!told.contains("lost"), "{told:?}");
    }
    numbers_go_on(&pair, lost_too.sequence, &new).await;
    the_loss_is_said(&pair).await;
}

/// Who has the numbers of the lost history is led to what came after it.
async fn numbers_go_on(pair: &Pair, last: i64, new: &Delivery) {
    let (hospital, endpoint) = (&pair.hospital, &pair.endpoint);
    let answer = refused(hospital, &format!("/webhooks/{endpoint}/events?after={last}")).await;
    let next = answer["_links"]["next"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    let rest = hospital.found(next).await;
    let ids: Vec<&str> =
        rest["items"].as_array().unwrap().iter().filter_map(|i| i["webhookId"].as_str()).collect();
    assert!(ids.contains(&&*new.id), "{rest}");
    let after = new.sequence;
    let none = hospital.found(&format!("/webhooks/{endpoint}/events?after={after}")).await;
    assert_eq!(none["items"], json!([]));
    // And the address that was given in it is forgotten, also after the next change.
    let (_, shown) = hospital.get(&format!("/webhooks/{endpoint}")).await;
    assert_eq!(shown["url"], json!(pair.receiver.url));
    let third = Receiver::start().await;
    pair.point_to(&third.url).await;
    hospital.measure("third", 130.0).await;
    page_of(&third, "third").await;
}

async fn the_loss_is_said(pair: &Pair) {
    let warnings = warnings(&pair.server).await;
    let said = warns_of_restore(&warnings).unwrap_or_else(|| panic!("{warnings:?}"));
    assert!(said.contains("acknowledged are gone"), "{said}");
    assert!(metric(&pair.server, "vitals_log_lost_positions").await >= 1.0);
    assert!(pair.server.logged().contains("a new incarnation has begun"));
    let pool = PgPool::connect_with(pair.standby.options()).await.unwrap();
    let events = restored(&pool).await;
    assert!(!events.is_empty() && events[0]["reason"].as_str().unwrap().contains("timeline"));
    assert!(events.iter().any(|event| event["acknowledged"].as_i64() > event["position"].as_i64()));
    caught_up(&pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_repeats_no_page_and_no_number() {
    let cluster = Cluster::start(&[]).await;
    let dir = scratch_dir();
    let url = |name: &str| {
        let options = cluster.options().database(name);
        url_of_server(&options)
    };
    let server = Server::start_in(&dir, Some(&url("vitals")), &OPTIONS).await;
    let (hospital, receiver) = (Hospital::new(&server, "ward"), Receiver::start().await);
    let endpoint = hospital.endpoint(&receiver, &["*"]).await;
    for patient in ["a", "b"] {
        hospital.measure(patient, 130.0).await;
        page_of(&receiver, patient).await;
    }
    let cursor = hospital.found("/alerts?limit=1").await["next"].as_str().unwrap().to_owned();
    let (dump, file) = (cluster.program("pg_dump"), std::env::temp_dir());
    let file = file.join(format!("vitals-dump-{}", uuid::Uuid::new_v4().simple()));
    let mut dump = dump;
    succeed(dump.args(["--format", "custom", "--file"]).arg(&file).arg("vitals")).await;
    let lost_at = hospital.measure("lost", 130.0).await;
    let lost = page_of(&receiver, "lost").await;
    let before = receiver.deliveries();
    assert!(server.terminate().await.0.success());

    succeed(cluster.program("createdb").arg("restored")).await;
    let mut restore = cluster.program("pg_restore");
    succeed(restore.args(["--dbname", "restored"]).arg(&file)).await;
    std::fs::remove_file(&file).unwrap();
    let server = Server::start_in(&dir, Some(&url("restored")), &OPTIONS).await;
    let hospital = hospital.after_restart(&server);
    assert!(warns_of_restore(&warnings(&server).await).is_some());
    refused(&hospital, &format!("/alerts?limit=1&cursor={cursor}")).await;
    hospital.measure("new", 130.0).await;
    let new = page_of(&receiver, "new").await;
    assert!(before.iter().all(|page| page.id != new.id && page.sequence < new.sequence));
    // What is sent again is the same alert, under the same id.
    hospital.store(&[heart_rate("lost", 130.0, lost_at)]).await;
    let again = eventually("the lost page again", SOON, async || {
        receiver.deliveries().into_iter().filter(|page| page.body["patientId"] == "lost").nth(1)
    })
    .await;
    assert_eq!((&again.id, &again.body["alertId"]), (&lost.id, &lost.body["alertId"]));
    assert!(again.sequence > new.sequence);
    refused(&hospital, &format!("/webhooks/{endpoint}/events?after={}", lost.sequence)).await;
    let pool = PgPool::connect(&url("restored")).await.unwrap();
    assert!(restored(&pool).await[0]["reason"].as_str().unwrap().contains("tables"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_a_recovered_crash_are_the_same_history() {
    let mut cluster = Cluster::start(&[]).await;
    let proxy = Proxy::before_server(&cluster.options()).await;
    let dir = scratch_dir();
    let server = Server::start_in(&dir, Some(&proxy.url), &OPTIONS).await;
    let hospital = Hospital::new(&server, "ward");
    for patient in ["a", "b"] {
        hospital.measure(patient, 130.0).await;
    }
    let cursor = eventually("two alerts", SOON, async || {
        let page = hospital.found("/alerts?limit=1").await;
        page["next"].as_str().map(str::to_owned)
    })
    .await;
    let incarnation = metric(&server, "vitals_log_incarnation").await;
    cluster.restart(Signal::KILL).await;
    server.kill().await;
    let server = Server::start_in(&dir, Some(&proxy.url), &OPTIONS).await;
    let hospital = hospital.after_restart(&server);
    hospital.found(&format!("/alerts?limit=1&cursor={cursor}")).await;
    assert_eq!(metric(&server, "vitals_log_incarnation").await, incarnation);
    assert_eq!(metric(&server, "vitals_log_lost_positions").await, 0.0);
    assert_eq!(warns_of_restore(&warnings(&server).await), None);
    let pool = PgPool::connect_with(cluster.options()).await.unwrap();
    assert_eq!(restored(&pool).await, Vec::<Value>::new());
}
