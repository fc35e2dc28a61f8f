//! The commands as somebody at a terminal meets them: what they print, how they fail,
//! how they end, and where their options come from.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::http::get;
use crate::support::postgres::Database;
use crate::support::server::{self, Server};
use crate::support::{cli, scratch_dir};

/// No command that fails may take longer than this, on a busy machine.
const QUICK: Duration = Duration::from_secs(20);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

async fn finish(command: &mut Command) -> Output {
    let output = tokio::time::timeout(QUICK, command.output()).await;
    output.expect("a quick end").expect("the binary runs")
}

/// Runs a command that must fail; what it says on stderr.
async fn failure(command: &mut Command) -> String {
    let output = finish(command).await;
    assert!(output.status.code().is_some_and(|code| code != 0), "{output:?}");
    assert_eq!(text(&output.stdout), "", "stdout is for results");
    let said = text(&output.stderr);
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
    assert!(!said.trim().is_empty() && said.len() < 1_500, "{said}");
    said
}

#[tokio::test]
async fn help_and_version_are_results() {
    let dir = scratch_dir();
    let output = finish(server::command(&dir, None).arg("--help")).await;
    assert!(output.status.success(), "{output:?}");
    let help = text(&output.stdout);
    for command in ["serve", "demo", "token", "import", "replay", "rebuild", "verify", "archive"] {
        assert!(help.lines().any(|line| line.trim().starts_with(command)), "{command}: {help}");
        let output = finish(server::command(&dir, None).args([command, "--help"])).await;
        assert!(output.status.success() && output.stdout.len() > 100, "{command}: {output:?}");
    }
    for option in ["--database-url", "--data-dir"] {
        assert!(help.contains(option), "{option}: {help}");
    }
    let output = finish(server::command(&dir, None).arg("--version")).await;
    assert_eq!(text(&output.stdout), format!("vitals {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_wrong_option_is_named_and_fails() {
    let dir = scratch_dir();
    for (arguments, named) in [
        (&["serve", "--loud"][..], "--loud"),
        (&["sing"], "sing"),
        (&["serve", "--listen", "here"], "here"),
        (&["serve", "--roles", "api,cook"], "cook"),
        (&["serve", "--shards", "0"], "--shards"),
        (&["serve", "--allow-webhook-net", "10.0.0.0/33"], "10.0.0.0/33"),
        (&["demo", "--for", "soon"], "soon"),
        (&["demo", "--speed", "0"], "--speed"),
        (&["import", "--format", "csv"], "FILE"),
        (&["import", "x.csv", "--format", "xml"], "xml"),
        (&["import", "no-such-file.csv", "--format", "csv"], "no-such-file.csv"),
        (&["replay"], "--patient"),
        (&["rebuild"], "PROJECTION"),
        (&["token", "--tenant", "t"], "--subject"),
        (&["verify", "--log-format", "xml"], "xml"),
        (&["archive", "--before", "2026-13", "--to", "x"], "2026-13"),
        (&["archive", "--before", "2026-01"], "--to"),
    ] {
        let said = failure(server::command(&dir, None).args(arguments)).await;
        assert!(said.contains(named), "{arguments:?}: {said}");
    }
    let database = Database::new().await;
    let command = &mut server::command(&dir, Some(&database.url));
    let said = failure(command.args(["rebuild", "everything"])).await;
    assert!(said.contains("everything") && said.contains("current_vitals"), "{said}");
}

#[tokio::test]
async fn another_number_of_shards_than_the_databases_own_is_refused() {
    let database = Database::new().await;
    let shards = database.log().await.shards().count();
    let (other, own) = ((shards + 1).to_string(), shards.to_string());
    let serve = |n: &str| {
        let mut command = server::command(&scratch_dir(), Some(&database.url));
        command.args(["serve", "--listen", "127.0.0.1:0", "--shards", n]);
        command
    };
    let said = failure(&mut serve(&other)).await;
    assert!(said.contains(&format!("with {own} shards, not {other}")), "{said}");
    // And its own number is not.
    let server = Server::start_with(&database, &["--shards", &own]).await;
    assert!(server.terminate().await.0.success());
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_said_once_and_soon() {
    let dir = scratch_dir();
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("postgres://u:pass-w0rd@{}/vitals", silent.local_addr().unwrap());
    let nobody = "postgres://u:pass-w0rd@127.0.0.1:1/vitals";
    let serve = ["serve", "--listen", "127.0.0.1:0", "--database-wait", "0s"];
    for (url, arguments) in [
        (nobody, &serve[..]),
        (nobody, &["verify"]),
        (nobody, &["rebuild", "all"]),
        (nobody, &["replay", "--patient", "101"]),
        ("mysql://u:pass-w0rd@127.0.0.1/vitals", &serve),
        (&silent, &serve),
    ] {
        let said = failure(server::command(&dir, Some(url)).args(arguments)).await;
        assert!(said.contains("database"), "{url} {arguments:?}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "one message: {said}");
        assert!(!said.contains("pass-w0rd"), "{said}");
    }
}

#[tokio::test]
async fn a_taken_port_is_said_at_once() {
    let database = Database::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = scratch_dir();
    let command = &mut server::command(&dir, Some(&database.url));
    let said = failure(command.args(["serve", "--listen", &address])).await;
    assert!(said.contains(&address), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "one message: {said}");
}

/// Sends readings one after the other until the server is gone; those acknowledged.
async fn send_until_the_end(
    hospital: Hospital,
    patient: String,
    began: oneshot::Sender<()>,
) -> u64 {
    let start = now() - TimeDelta::hours(1);
    let (mut acknowledged, mut began) = (0, Some(began));
    for i in 0.. {
        let body = heart_rate(&patient, 80.0, start + TimeDelta::milliseconds(i));
        let request = hospital.request(Method::POST, "/readings").json(&body);
        let Ok(answer) = request.send().await else { break };
        if answer.status() != 201 {
            break;
        }
        acknowledged += 1;
        if acknowledged == 20 {
            began.take().unwrap().send(()).expect("awaited");
        }
    }
    acknowledged
}

#[tokio::test]
async fn sigterm_ends_it_in_time_and_what_was_acknowledged_is_there() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    // What must not hold the end: a stream, and a body that never ends.
    let stream = hospital.request(Method::GET, "/stream").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut endless = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let head = format!(
        "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: 1000\r\n\r\n[",
        server.token("readings:write")
    );
    endless.write_all(head.as_bytes()).await.unwrap();
    let (mut senders, mut begun) = (Vec::new(), Vec::new());
    for i in 0..8 {
        let (began, waits) = oneshot::channel();
        senders.push(tokio::spawn(send_until_the_end(hospital.clone(), format!("p{i}"), began)));
        begun.push(waits);
    }
    for waits in begun {
        waits.await.expect("twenty readings");
    }
    let (status, took) = server.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");

    let server = Server::start(&database).await;
    let hospital = hospital.after_restart(&server);
    for (i, sender) in senders.into_iter().enumerate() {
        let acknowledged = sender.await.unwrap();
        let path = format!("/patients/p{i}/readings?limit=10000");
        let stored = hospital.found(&path).await["items"].as_array().unwrap().len() as u64;
        // The last one may be stored although its answer did not get through.
        assert!((acknowledged..=acknowledged + 1).contains(&stored), "{acknowledged}, {stored}");
    }
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let (status, took) = server.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_token_is_all_that_is_printed_and_the_server_takes_it() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let arguments = ["token", "--tenant", "t-1", "--subject", "night nurse", "--scope"];
    let arguments = [&arguments[..], &["vitals:read  alerts:read", "--device", "d.1"]].concat();
    let output =
        cli(&database, &[&arguments[..], &["--patient", "101", "--ttl", "90s"]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let printed = text(&output.stdout);
    let token = printed.strip_suffix('\n').expect("a line");
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{printed}");
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    for (claim, value) in [
        ("aud", "vitals"),
        ("tenant", "t-1"),
        ("sub", "night nurse"),
        ("scope", "vitals:read alerts:read"),
        ("device", "d.1"),
        ("patient", "101"),
    ] {
        assert_eq!(claims[claim], value, "{claims}");
    }
    let left = claims["exp"].as_i64().unwrap() - now().timestamp();
    assert!((30..=90).contains(&left), "{left} s");
    assert_eq!(get(&server.url("/api/v1/alerts"), token).await.status, 200);
    assert_eq!(get(&server.url("/api/v1/webhooks"), token).await.status, 403);

    let dir = scratch_dir();
    for (arguments, named) in [
        (["--tenant", "a/b", "--subject", "s", "--scope", "vitals:read"], "--tenant"),
        (["--tenant", "t", "--subject", "s", "--scope", "vitals:reads"], "vitals:reads"),
    ] {
        let said = failure(server::command(&dir, None).arg("token").args(arguments)).await;
        assert!(said.contains(named), "{said}");
    }
}

#[tokio::test]
async fn without_a_secret_of_its_own_a_data_directory_gets_a_private_one() {
    let dir = scratch_dir();
    let token = async || {
        let mut command = server::command(&dir, None);
        command.env_remove("VITALS_JWT_SECRET");
        let arguments = ["token", "--tenant", "t", "--subject", "s", "--scope", "vitals:read"];
        let output = finish(command.args(arguments)).await;
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim().to_owned()
    };
    token().await;
    let secret = std::fs::read_to_string(dir.join("jwt-secret")).expect("a secret");
    assert!(secret.len() >= 32, "{} bytes", secret.len());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.join("jwt-secret")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // It stays, so that tokens of yesterday are good today.
    let token = token().await;
    assert_eq!(std::fs::read_to_string(dir.join("jwt-secret")).unwrap(), secret);
    let key = jsonwebtoken::DecodingKey::from_secret(secret.trim().as_bytes());
    let mut validation = jsonwebtoken::Validation::default();
    validation.set_audience(&["vitals"]);
    assert!(jsonwebtoken::decode::<Value>(&token, &key, &validation).is_ok());

    let command = &mut server::command(&dir, None);
    let arguments = ["token", "--tenant", "t", "--subject", "s", "--scope", "vitals:read"];
    let said = failure(command.env("VITALS_JWT_SECRET", "short").args(arguments)).await;
    assert!(said.contains("32"), "{said}");
}

/// Which of these data directories was used: its secret is there.
async fn used(dir: &Path, change: impl FnOnce(&mut Command)) -> Vec<&'static str> {
    for name in ["flag", "variable", "file", ".vitals"] {
        if dir.join(name).exists() {
            std::fs::remove_dir_all(dir.join(name)).unwrap();
        }
    }
    let mut command = server::command(dir, None);
    command.env_remove("VITALS_JWT_SECRET").env_remove("VITALS_DATA_DIR");
    command.args(["token", "--tenant", "t", "--subject", "s", "--scope", "vitals:read"]);
    change(&mut command);
    let output = finish(&mut command).await;
    assert!(output.status.success(), "{output:?}");
    let names = ["flag", "variable", "file", ".vitals"].into_iter();
    names.filter(|name| dir.join(name).join("jwt-secret").exists()).collect()
}

#[tokio::test]
async fn a_flag_goes_before_a_variable_and_that_before_the_file() {
    let dir = scratch_dir();
    assert_eq!(used(&dir, |_| ()).await, [".vitals"]);
    std::fs::write(dir.join("vitals.toml"), "data-dir = \"file\"\nlisten = \"127.0.0.1:0\"\n")
        .unwrap();
    assert_eq!(used(&dir, |_| ()).await, ["file"]);
    let variable = |command: &mut Command| {
        command.env("VITALS_DATA_DIR", "variable");
    };
    assert_eq!(used(&dir, variable).await, ["variable"]);
    let both = |command: &mut Command| {
        variable(command);
        command.args(["--data-dir", "flag"]);
    };
    assert_eq!(used(&dir, both).await, ["flag"]);
    std::fs::write(dir.join("other.toml"), "data-dir = \"flag\"\n").unwrap();
    let other = |command: &mut Command| {
        command.args(["--config", "other.toml"]);
    };
    assert_eq!(used(&dir, other).await, ["flag"]);
}

#[tokio::test]
async fn a_file_with_what_nobody_knows_is_an_error() {
    let dir = scratch_dir();
    let said = async |file: &str| {
        std::fs::write(dir.join("vitals.toml"), file).unwrap();
        let said = failure(server::command(&dir, None).arg("verify")).await;
        assert!(said.contains("vitals.toml"), "{said}");
        said
    };
    let typo = said("# where\nlisen = \"127.0.0.1:0\"\n").await;
    assert!(
        typo.contains("vitals.toml, line 2: no option is called \"lisen\"; did you mean listen?")
    );
    let typo = said("limit-readings = 7\ntls_cret = \"x\"\n").await;
    assert!(
        typo.contains("line 2: no option is called \"tls_cret\"; did you mean tls-cert?"),
        "{typo}"
    );
    let nothing_like_it = said("zzz = 1\n").await;
    assert!(nothing_like_it.contains("called \"zzz\"\n"), "{nothing_like_it}");
    assert!(said("[serve]\nlisten = \"127.0.0.1:0\"\n").await.contains("serve"));
    assert!(said("data-dir = { x = 1 }\n").await.contains("data-dir"));
    assert!(said("data-dir = \n").await.contains("line 1"));
    std::fs::remove_file(dir.join("vitals.toml")).unwrap();
    let missing =
        failure(server::command(&dir, None).args(["verify", "--config", "no.toml"])).await;
    assert!(missing.contains("no.toml"), "{missing}");
}

#[tokio::test]
async fn database_url_is_the_name_that_everybody_knows() {
    let database = Database::new().await;
    let dir = scratch_dir();
    let nobody = "postgres://u@127.0.0.1:1/vitals";
    std::fs::write(dir.join("vitals.toml"), format!("database-url = \"{nobody}\"\n")).unwrap();
    let verify = |name: &str, url: &str| {
        let mut command = server::command(&dir, None);
        command.env(name, url).arg("verify");
        command
    };
    // Above the file, below our own variable and the flag.
    let started = Instant::now();
    let output = finish(&mut verify("DATABASE_URL", &database.url)).await;
    assert!(output.status.success(), "{output:?} after {:?}", started.elapsed());
    let both = &mut verify("DATABASE_URL", nobody);
    let output = finish(both.env("VITALS_DATABASE_URL", &database.url)).await;
    assert!(output.status.success(), "{output:?}");
    let both = &mut verify("VITALS_DATABASE_URL", nobody);
    let output = finish(both.args(["--database-url", &database.url])).await;
    assert!(output.status.success(), "{output:?}");
}
