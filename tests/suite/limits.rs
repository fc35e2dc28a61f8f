//! Who asks too much is told so, slowed down and then refused, and nobody else notices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT, client};
use crate::support::{cli, eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(30);
/// The most by which an answer is slowed down.
const SLOW: Duration = Duration::from_millis(1_000);

/// One subject with its token.
#[derive(Clone)]
struct Subject {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Subject {
    fn new(server: &Server, tenant: &str, name: &str, device: Option<&str>) -> Subject {
        let token = server.token_with(|claims| {
            claims["tenant"] = tenant.into();
            claims["sub"] = name.into();
            claims["scope"] = "readings:write vitals:read".into();
            if let Some(device) = device {
                claims["device"] = device.into();
            }
        });
        Subject { client: client(), base: server.url("/api/v1"), token }
    }

    fn gateway(server: &Server, name: &str) -> Subject {
        Subject::new(server, TENANT, name, None)
    }

    fn watch(server: &Server, name: &str) -> Subject {
        Subject::new(server, TENANT, name, Some("watch-7"))
    }

    async fn send(&self, method: Method, path: &str, body: Option<String>) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = request.bearer_auth(&self.token);
        match body {
            Some(body) => request.body(body),
            None => request,
        }
        .send()
        .await
        .expect("an answer")
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, None).await
    }

    async fn post(&self, readings: &Value) -> Response {
        self.send(Method::POST, "/readings", Some(readings.to_string())).await
    }

    /// The newest heart rate of a patient.
    async fn newest(&self, patient: &str) -> Option<i64> {
        let answer = self.get(&format!("/patients/{patient}/heart-rate")).await;
        answer.json::<Value>().await.unwrap()["heartRate"].as_i64()
    }

    /// The statuses of so many requests at once, smallest first.
    async fn ask(&self, times: usize) -> Vec<u16> {
        let asked = (0..times).map(|_| async { self.get("/nothing").await.status().as_u16() });
        let mut statuses = join_all(asked).await;
        statuses.sort_unstable();
        statuses
    }
}

/// A header that must be a number.
#[track_caller]
fn number(headers: &HeaderMap, name: &str) -> u64 {
    let value = headers.get(name).unwrap_or_else(|| panic!("no {name}: {headers:?}"));
    value.to_str().unwrap().parse().unwrap_or_else(|e| panic!("{name} {value:?}: {e}"))
}

#[track_caller]
fn limit_and_remaining(headers: &HeaderMap) -> (u64, u64) {
    (number(headers, "ratelimit-limit"), number(headers, "ratelimit-remaining"))
}

/// Heart rates of a patient, each a second after the other.
fn batch(patient: &str, count: i64) -> Value {
    let at = |i| now() - chrono::TimeDelta::seconds(i);
    (0..count).map(|i| heart_rate(patient, 80.0, at(i))).collect()
}

/// How many readings of a patient are stored.
async fn stored(hospital: &Hospital, patient: &str) -> usize {
    let page = hospital.found(&format!("/patients/{patient}/readings?limit=10000")).await;
    page["items"].as_array().unwrap().len()
}

/// What Prometheus is told.
async fn metrics(server: &Server) -> String {
    client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn every_answer_to_a_good_token_says_where_it_stands() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let gateway = Subject::gateway(&server, "gateway");
    gateway.post(&heart_rate("101", 80.0, now())).await;
    let asked = [
        (200, Method::GET, "/patients"),
        (200, Method::GET, "/patients/101/heart-rate"),
        (200, Method::GET, "/stream"),
        (400, Method::GET, "/patients?cursor=x"),
        (400, Method::POST, "/readings"),
        (403, Method::GET, "/webhooks"),
        (404, Method::GET, "/patients/nobody"),
        (404, Method::GET, "/nothing"),
        (405, Method::DELETE, "/patients"),
    ];
    for (status, method, path) in asked {
        let answer = gateway.send(method.clone(), path, None).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        let (limit, remaining) = limit_and_remaining(answer.headers());
        assert_eq!(limit, 100_000, "{method} {path}");
        assert!((99_900..=100_000).contains(&remaining), "{method} {path}: {remaining}");
        assert!(number(answer.headers(), "ratelimit-reset") <= 1, "{method} {path}");
    }
    let answer = Subject::watch(&server, "watch-7").get("/patients/101/heart-rate").await;
    assert_eq!(limit_and_remaining(answer.headers()), (1_000, 999));
    assert_eq!(number(answer.headers(), "ratelimit-reset"), 1);
    assert_eq!(
        answer.headers()["ratelimit-policy"],
        r#"1000;w=60;comment="requests", 10000000;w=60;comment="readings""#
    );
    // Whoever is not known has no limit to be told of.
    let stranger = Subject { token: "x".into(), ..gateway };
    assert!(!stranger.get("/patients").await.headers().contains_key("ratelimit-limit"));
    for path in ["/health/live", "/metrics", "/"] {
        let answer = client().get(server.url(path)).send().await.unwrap();
        assert!(!answer.headers().contains_key("ratelimit-limit"), "{path}");
    }
}

#[tokio::test]
async fn from_eighty_percent_on_only_the_answer_is_slow() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-device-requests", "10"]).await;
    let (watch, nurse) = (Subject::watch(&server, "watch-7"), Subject::gateway(&server, "nurse"));
    let mut value = 0;
    let mut fastest = SLOW;
    // Use flows back while it asks, so it asks until it is at the limit.
    let began = Instant::now();
    let (seen, answered) = loop {
        let started = Instant::now();
        assert!(started < began + SOON, "no reading was seen well before its answer");
        let reading = heart_rate("101", 50.0 + f64::from(value), now());
        let mut posting = std::pin::pin!(watch.post(&reading));
        let seeing = async {
            while nurse.newest("101").await != Some(50 + i64::from(value)) {}
            started.elapsed()
        };
        let (answer, seen) = tokio::select! {
            seen = seeing => (posting.await, Some(seen)),
            answer = &mut posting => (answer, None),
        };
        let answered = started.elapsed();
        if answer.status() == 429 {
            continue;
        }
        assert_eq!(answer.status(), 201);
        value += 1;
        match (limit_and_remaining(answer.headers()), seen) {
            ((10, 0), seen) => {
                // Between nine and ten of ten are used.
                assert!(answered > SLOW / 2, "answered after {answered:?}");
                if let Some(seen) = seen.filter(|seen| *seen + SLOW / 4 < answered) {
                    break (seen, answered);
                }
            }
            ((10, 2..), _) => fastest = fastest.min(answered),
            _ => {}
        }
    };
    println!("seen after {seen:?}, answered after {answered:?}; before, after {fastest:?}");
    assert!(fastest < SLOW / 2, "below eighty percent nothing waits, and this took {fastest:?}");
}

#[tokio::test]
async fn at_the_limit_nothing_is_done_and_later_it_is() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-device-requests", "20"]).await;
    let (watch, hospital) = (Subject::watch(&server, "watch-7"), Hospital::new(&server, TENANT));
    let readings = batch("101", 60);
    let sent = readings.as_array().unwrap().iter().map(|reading| watch.post(reading));
    let (done, refused): (Vec<_>, Vec<_>) =
        join_all(sent).await.into_iter().partition(|answer| answer.status() == 201);
    assert!(done.len() >= 20 && !refused.is_empty(), "{} and {}", done.len(), refused.len());
    assert_eq!(stored(&hospital, "101").await, done.len());

    for answer in refused {
        assert_eq!(answer.status(), 429);
        let headers = answer.headers().clone();
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(limit_and_remaining(&headers), (20, 0));
        let wait = number(&headers, "retry-after");
        assert!((1..=3).contains(&wait), "{wait} s");
        assert_eq!(number(&headers, "ratelimit-reset"), wait);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&json!("rate_limited"), &json!(429)));
        let detail = problem["detail"].as_str().unwrap();
        let says = format!("20 requests a minute, and 0 are left: come again in {wait} s");
        assert!(detail.starts_with(&says), "{detail}");
    }
    // By now one may have flowed back. What is told then holds.
    let refused = |answer: &Response| {
        (answer.status() == 429).then(|| number(answer.headers(), RETRY_AFTER.as_str()))
    };
    if let Some(wait) = refused(&watch.get("/patients/101/heart-rate").await) {
        let told = Instant::now();
        let over = || async { (told.elapsed() >= Duration::from_secs(wait)).then_some(()) };
        eventually("the time that was told", SOON, over).await;
        let answer = watch.get("/patients/101/heart-rate").await;
        assert_eq!(answer.status(), 200, "after {wait} s");
    }
    let metrics = metrics(&server).await;
    assert!(metrics.contains(r#"vitals_rate_limited_total{limit="device_requests"}"#), "{metrics}");
}

#[tokio::test]
async fn subjects_tenants_and_kinds_of_token_do_not_share() {
    let database = Database::new().await;
    let dir = scratch_dir();
    let options = "limit-device-requests = 1\nlimit-gateway-requests = 2\n";
    std::fs::write(dir.join("vitals.toml"), options).unwrap();
    let server = Server::start_in(&dir, Some(&database.url), &[]).await;
    let subject = |tenant, name, device| Subject::new(&server, tenant, name, device);
    let watches = [
        subject("hospital-1", "a", Some("watch-7")),
        subject("hospital-1", "b", Some("watch-7")),
        subject("hospital-2", "a", Some("watch-7")),
    ];
    for watch in watches {
        assert_eq!(watch.ask(3).await, [404, 429, 429]);
    }
    // The same subject by another token, of whatever device, is the same subject.
    assert_eq!(subject("hospital-1", "a", Some("watch-8")).ask(1).await, [429]);
    assert_eq!(subject("hospital-1", "a", None).ask(3).await, [404, 404, 429]);
}

#[tokio::test]
async fn a_stream_counts_once_however_much_it_says() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-gateway-requests", "2"]).await;
    let (listener, hospital) = (Subject::gateway(&server, "l"), Hospital::new(&server, TENANT));
    let mut stream = listener.get("/stream?types=reading").await;
    assert_eq!(limit_and_remaining(stream.headers()), (2, 1));
    hospital.store(batch("101", 5).as_array().unwrap()).await;
    let mut text = String::new();
    while text.matches("event: reading").count() < 5 {
        let part = tokio::time::timeout(SOON, stream.chunk()).await.expect("in time").unwrap();
        text.push_str(&String::from_utf8_lossy(&part.expect("more")));
    }
    assert_eq!(limit_and_remaining(listener.get("/nothing").await.headers()), (2, 0));
}

#[tokio::test]
async fn readings_are_counted_and_a_batch_is_taken_whole_or_not() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-readings", "10"]).await;
    let (gateway, hospital) = (Subject::gateway(&server, "g"), Hospital::new(&server, TENANT));
    // Refused or not, each item is one: this one has no patient.
    let mut sent = batch("101", 5);
    sent.as_array_mut().unwrap().push(json!({}));
    let answer = gateway.post(&sent).await;
    assert_eq!(answer.status(), 207);
    let (limit, remaining) = limit_and_remaining(answer.headers());
    // One flows back every six seconds.
    assert!(limit == 10 && (4..7).contains(&remaining), "{remaining} of {limit}");
    let told = limit_and_remaining(gateway.get("/patients").await.headers());
    assert_eq!(told.0, 10, "the tightest limit is told whatever is asked");

    let answer = gateway.post(&batch("102", 9)).await;
    assert_eq!(answer.status(), 429);
    let (limit, remaining) = limit_and_remaining(answer.headers());
    assert!(limit == 10 && (4..8).contains(&remaining), "{remaining} of {limit}");
    let wait = number(answer.headers(), "retry-after");
    // At most five are missing.
    assert!((6..=30).contains(&wait), "{wait} s");
    assert_eq!(number(answer.headers(), "ratelimit-reset"), wait);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "rate_limited", "{problem}");
    assert_eq!(hospital.get("/patients/102").await.0, 404, "nothing of it is stored");

    // It will never pass: waiting is no advice.
    let answer = gateway.post(&batch("103", 11)).await;
    assert_eq!(answer.status(), 413);
    assert!(!answer.headers().contains_key(RETRY_AFTER));
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "batch_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("more than the 10 of a whole minute"));
    assert_eq!(hospital.get("/patients/103").await.0, 404);
    // What was refused was not counted, and what is left can be had.
    assert_eq!(gateway.post(&batch("104", 4)).await.status(), 201);
    let metrics = metrics(&server).await;
    assert!(metrics.contains("vitals_rate_limited_total{limit=\"readings\"} 1"), "{metrics}");
}

#[tokio::test]
async fn who_is_refused_in_the_middle_of_a_large_body_reads_the_answer() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-gateway-requests", "1"]).await;
    let gateway = Subject::gateway(&server, "gateway");
    assert_eq!(gateway.ask(1).await, [404]);
    let body = "x".repeat(8 * 1024 * 1024);
    let answer = gateway.send(Method::POST, "/readings", Some(body)).await;
    assert_eq!(answer.status(), 429);
    assert!((1..=60).contains(&number(answer.headers(), "retry-after")));
}

/// The times of so many requests one after the other, sorted.
async fn times(subject: &Subject, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        assert_eq!(subject.get("/patients/101/heart-rate").await.status(), 200);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times
}

/// Asks as fast as it is answered until it is stopped: how many answers took long, and
/// how many were refusals.
async fn insist(subject: Subject, stop: tokio::sync::watch::Receiver<bool>) -> (usize, usize) {
    let (mut slow, mut refused) = (0, 0);
    while !*stop.borrow() {
        let started = Instant::now();
        let answer = subject.get("/patients/101/heart-rate").await;
        refused += usize::from(answer.status() == 429);
        slow += usize::from(answer.status() == 200 && started.elapsed() > SLOW / 2);
    }
    (slow, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_greedy_device_is_slowed_and_refused_and_the_others_are_not() {
    const COUNT: usize = 300;
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--limit-device-requests", "60"]).await;
    Hospital::new(&server, TENANT).measure("101", 80.0).await;
    let (page, watch) = (Subject::gateway(&server, "page"), Subject::watch(&server, "watch-7"));
    let before = times(&page, COUNT).await;

    let (stop, stopped) = tokio::sync::watch::channel(false);
    watch.ask(59).await;
    let greedy: Vec<_> =
        (0..4).map(|_| tokio::spawn(insist(watch.clone(), stopped.clone()))).collect();
    eventually("the greedy one to be refused", SOON, || async {
        metrics(&server).await.contains("vitals_rate_limited_total{").then_some(())
    })
    .await;
    let during = times(&page, COUNT).await;
    stop.send(true).unwrap();
    let (mut slow, mut refused) = (0, 0);
    for task in greedy {
        let (s, r) = task.await.unwrap();
        slow += s;
        refused += r;
    }
    let [alone, beside] = [before, during].map(|times| times[COUNT * 99 / 100]);
    println!("{slow} slow, {refused} refused; the other's p99 {alone:?} alone, {beside:?} beside");
    assert!(slow > 0 && refused > 0, "{slow} slow, {refused} refused");
    // Nothing of the slowness is theirs: what is left is the machine's.
    assert!(beside < alone + SLOW / 2, "p99 {alone:?} alone, {beside:?} beside the greedy one");
}

/// Processes of one installation, each of which knows of all others.
async fn processes(database: &Database, count: i64, options: &[&str]) -> Vec<Server> {
    let servers = (0..count).map(|_| Server::start_with(database, options));
    let servers = join_all(servers).await;
    let pool = database.pool();
    let seen = async |since: &str| {
        let seen = sqlx::query_scalar::<_, i64>(
            "select count(*) from rate_process where seen_at > $1::timestamptz",
        );
        seen.bind(since).fetch_one(&pool).await.expect("a count")
    };
    eventually("all to be there", SOON, async || (seen("-infinity").await == count).then_some(()))
        .await;
    let all: String = sqlx::query_scalar("select now()::text").fetch_one(&pool).await.unwrap();
    eventually("all to know it", SOON, async || (seen(&all).await == count).then_some(())).await;
    servers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_processes_of_an_installation_let_through_a_limit_together_and_a_tenth_at_most() {
    const LIMIT: usize = 600;
    let database = Database::new().await;
    let options = ["--limit-gateway-requests", "600", "--limit-readings", "6000"];
    let servers = processes(&database, 3, &options).await;
    let began = Instant::now();
    let flown = |per_minute: usize| per_minute * (began.elapsed().as_secs() as usize + 1) / 60;
    let each = servers.iter().map(|server| async {
        let subject = Subject::gateway(server, "gateway");
        subject.ask(LIMIT).await.into_iter().filter(|status| *status == 404).count()
    });
    let each = join_all(each).await;
    let (passed, most) = (each.iter().sum::<usize>(), LIMIT + LIMIT / 10 + flown(LIMIT));
    println!("{each:?}: {passed} requests of {LIMIT}, {most} at most");
    assert!((LIMIT..=most).contains(&passed), "{each:?}");
    // What one of them counted, another one says; and nobody else notices.
    let told = Subject::gateway(&servers[0], "gateway").get("/nothing").await;
    assert!(limit_and_remaining(told.headers()).1 < LIMIT as u64 / 5);
    let other = Subject::gateway(&servers[1], "another").get("/nothing").await;
    assert_eq!(limit_and_remaining(other.headers()), (LIMIT as u64, LIMIT as u64 - 1));

    // Batches of which one is more than a process's credit.
    let began = Instant::now();
    let flown = |per_minute: usize| per_minute * (began.elapsed().as_secs() as usize + 1) / 60;
    let sent = (0..24).map(|i| {
        let subject = Subject::gateway(&servers[i % 3], "sender");
        async move { subject.post(&batch(&format!("p{i}"), 500)).await.status() == 201 }
    });
    let stored = 500 * join_all(sent).await.into_iter().filter(|stored| *stored).count();
    let most = 6_600 + flown(6_000);
    println!("{stored} readings of 6000, {most} at most");
    assert!((4_500..=most).contains(&stored), "{stored} of 6000");
}

#[tokio::test]
async fn a_limit_that_is_none_is_refused_at_the_start() {
    let database = Database::new().await;
    for (value, why) in [("0", "0 would let nobody in"), ("many", "a whole number from 1 to")] {
        for option in ["--limit-device-requests", "--limit-gateway-requests", "--limit-readings"] {
            let output = cli(&database, &["serve", option, value]).await;
            assert!(!output.status.success());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains(option) && said.contains(why), "{said}");
        }
    }
}
