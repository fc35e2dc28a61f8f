//! Starting and ending beside others: a database that is not there yet, surroundings that
//! are meant for other programs, secrets that two instances share, and a balancer that
//! has to be told.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::hospital::Hospital;
use crate::support::http::get;
use crate::support::postgres::Database;
use crate::support::proxy::{Proxy, Way};
use crate::support::server::{self, Server};
use crate::support::{eventually, scratch_dir, write_private};

const SOON: Duration = Duration::from_secs(60);

/// Runs a command that must fail; its last words.
async fn failure(command: &mut Command) -> String {
    let ended = tokio::time::timeout(SOON, command.output()).await.expect("an end");
    let output = ended.expect("the binary runs");
    assert!(output.status.code().is_some_and(|code| code != 0), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// What a server that starts in a directory has logged.
fn logged(dir: &Path) -> String {
    let logs = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    logs.filter_map(|log| std::fs::read_to_string(log).ok()).collect()
}

#[tokio::test]
async fn a_start_waits_for_a_database_that_is_away_and_says_for_what() {
    let database = Database::new().await;
    let way = Proxy::before(&database).await;
    way.set(Way::Cut);
    let dir = scratch_dir();
    let (url, at) = (way.url.clone(), dir.clone());
    let start = tokio::spawn(async move { Server::try_start_in(&at, Some(&url), &[]).await });
    let said = eventually("the wait to be said", SOON, async || {
        let said = logged(&dir);
        said.contains("waiting for the database at 127.0.0.1:").then_some(said)
    });
    assert!(!said.await.contains("password"));
    way.set(Way::Open);
    let server = start.await.unwrap().expect("it starts");
    Hospital::new(&server, "ward").measure("p", 80.0).await;
}

#[tokio::test]
async fn a_database_that_stays_away_ends_the_start_after_the_wait() {
    let nobody = "postgres://u:pass-w0rd@127.0.0.1:1/vitals";
    let began = Instant::now();
    let mut serve = server::command(&scratch_dir(), Some(nobody));
    let wait = ["serve", "--listen", "127.0.0.1:0", "--database-wait", "2s"];
    let said = failure(serve.args(wait)).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{said}");
    assert!(said.contains("127.0.0.1:1/vitals cannot be reached"), "{said}");
    assert!(said.contains("waiting for") && !said.contains("pass-w0rd"), "{said}");
}

#[tokio::test]
async fn what_waiting_does_not_mend_is_said_at_once_with_the_mend() {
    let database = Database::new().await;
    let mut url = reqwest::Url::parse(&database.url).unwrap();
    url.set_path("nope");
    let mut serve = server::command(&scratch_dir(), Some(url.as_str()));
    let said = failure(serve.args(["serve", "--listen", "127.0.0.1:0"])).await;
    assert!(said.contains("\"nope\" does not exist") && said.contains("createdb"), "{said}");
    assert!(!said.contains("at line") && !said.contains("waiting"), "{said}");
    let several = "postgres://u:pass-w0rd@a:1,b:2/vitals";
    let said = failure(server::command(&scratch_dir(), Some(several)).arg("verify")).await;
    assert!(said.contains("several hosts") && !said.contains("pass-w0rd"), "{said}");
}

/// Everything that PostgreSQL's own programs would look at.
fn hostile(mut command: Command) -> Command {
    let dir = scratch_dir();
    for (name, value) in [
        ("PGOPTIONS", "-c search_path=nowhere -c nonsense=yes"),
        ("PGHOST", "/nowhere"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGPASSWORD", "wrong"),
        ("PGDATABASE", "nowhere"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/nowhere"),
        ("PGSSLCERT", "/nowhere"),
        ("PGSSLKEY", "/nowhere"),
        ("PGAPPNAME", "somebody"),
        ("PGDATA", "/nowhere"),
    ] {
        command.env(name, value);
    }
    command.current_dir(dir);
    command
}

#[tokio::test]
async fn what_is_meant_for_postgresqls_own_programs_is_not_looked_at() {
    let database = Database::new().await;
    let embedded = std::env::temp_dir().join(format!("vitals-hostile-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&embedded).unwrap();
    for (dir, url) in [(scratch_dir(), Some(&*database.url)), (embedded.clone(), None)] {
        let command = hostile(server::command(&dir, url));
        let server = Server::spawn(command, &dir, &[]).await.expect("it starts");
        Hospital::new(&server, "ward").measure("p", 80.0).await;
        let said = server.logged();
        assert!(said.contains("not looked at") && said.contains("PGOPTIONS"), "{said}");
        assert!(server.terminate().await.0.success());
    }
    std::fs::remove_dir_all(&embedded).unwrap();
}

#[tokio::test]
async fn beside_a_database_of_ones_own_no_instance_makes_a_secret_that_others_do_not_know() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let start = async || Server::try_start_without_secret(&dir, &database.url, &[]).await;
    let said = start().await.err().expect("no start");
    assert!(said.contains("VITALS_JWT_SECRET") && said.contains("--jwks"), "{said}");
    let mut token = server::command(&dir, Some(&database.url));
    token.env_remove("VITALS_JWT_SECRET");
    let arguments = ["token", "--tenant", "t", "--subject", "s", "--scope", "vitals:read"];
    assert!(failure(token.args(arguments)).await.contains("VITALS_JWT_SECRET"));
    assert!(!dir.join("jwt-secret").exists());
    // What was put there on purpose is what all have.
    write_private(&dir.join("jwt-secret"), server::SECRET);
    let server = start().await.expect("it starts");
    let token = server.token("alerts:read");
    assert_eq!(get(&server.url("/api/v1/alerts"), &token).await.status, 200);
}

#[tokio::test]
async fn an_instance_without_the_key_that_sealed_the_database_is_told_at_its_start() {
    let (database, key) = (Database::new().await, "c2VjcmV0cy1rZXktb2YtMzItYnl0ZXMtYW5kLW1vcmU");
    let start = async |key: Option<&str>| {
        let dir = scratch_dir();
        let mut command = server::command(&dir, Some(&database.url));
        key.map(|key| command.env("VITALS_SECRETS_KEY", key));
        Server::spawn(command, &dir, &[]).await
    };
    let first = start(Some(key)).await.expect("it starts");
    let said = start(None).await.err().expect("no start");
    assert!(said.contains("VITALS_SECRETS_KEY"), "{said}");
    // With the same key their links are the same, too: the key of these is in the database.
    let second = start(Some(key)).await.expect("it starts");
    for server in [first, second] {
        assert!(server.terminate().await.0.success());
    }
}

#[tokio::test]
async fn a_server_that_ends_says_so_first_and_still_answers() {
    let database = Database::new().await;
    let server = Server::start_with(&database, &["--drain", "4s"]).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.measure("p", 80.0).await;
    // What must not hold the end.
    let mut endless = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let head = format!(
        "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: 1000\r\n\r\n[",
        server.token("readings:write")
    );
    endless.write_all(head.as_bytes()).await.unwrap();
    let ready = server.url("/health/ready");
    assert_eq!(reqwest::get(&ready).await.unwrap().status(), 200);
    let ending = tokio::spawn(server.terminate());
    let told = eventually("readiness to turn", SOON, async || {
        let answer = reqwest::get(&ready).await.expect("it still answers");
        (answer.status() == 503).then_some(answer)
    });
    let told: serde_json::Value = told.await.json().await.unwrap();
    assert_eq!(told["code"], "stopping");
    let answer = hospital.request(Method::GET, "/patients/p").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["connection"]),
        (200, &"close".parse().unwrap())
    );
    hospital.measure("p", 81.0).await;
    let (status, took) = ending.await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn the_usual_end_takes_less_than_ten_seconds() {
    let database = Database::new().await;
    let dir = scratch_dir();
    let mut command = server::command(&dir, Some(&database.url));
    command.env_remove("VITALS_DRAIN");
    let server = Server::spawn(command, &dir, &[]).await.expect("it starts");
    let (status, took) = server.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(10), "{took:?}");
}
