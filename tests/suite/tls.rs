//! TLS as clients that nobody here wrote see it: curl, Python, and certificates by openssl.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::connections::metric_by;
use crate::hospital::now;
use crate::support::postgres::Database;
use crate::support::server::{Server, client_builder, command};
use crate::support::{eventually, scratch_dir};

const SOON: Duration = Duration::from_secs(30);

/// Who signs certificates, in a directory with all that it signed.
pub struct Authority {
    dir: PathBuf,
    name: &'static str,
}

impl Authority {
    pub async fn new(dir: &Path, name: &'static str) -> Authority {
        let config = "[req]\ndistinguished_name = dn\n[dn]\n";
        std::fs::write(dir.join("openssl.cnf"), config).unwrap();
        let authority = Authority { dir: dir.to_owned(), name };
        let extension = "basicConstraints=critical,CA:TRUE";
        authority.make(name, &["-subj", &format!("/CN={name}"), "-addext", extension]).await;
        authority
    }

    /// `NAME.pem` and `NAME.key`.
    pub async fn sign(&self, name: &str, subject: &str, alternative: &str, days: u32) {
        let (authority, key) = (self.file(&format!("{}.pem", self.name)), self.key(self.name));
        let (alternative, days) = (format!("subjectAltName={alternative}"), days.to_string());
        let mut options = vec!["-CA", &authority, "-CAkey", &key, "-subj", subject, "-days", &days];
        // Without any extension it would be of version 1, which nobody takes any more.
        options.extend(["-addext", "basicConstraints=CA:FALSE"]);
        if alternative != "subjectAltName=" {
            options.extend(["-addext", &alternative]);
        }
        self.make(name, &options).await;
    }

    async fn make(&self, name: &str, options: &[&str]) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-config", "openssl.cnf", "-nodes", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
            .args(options)
            .current_dir(&self.dir)
            .output()
            .await
            .expect("openssl, which script/install brings");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    pub fn key(&self, name: &str) -> String {
        self.file(&format!("{name}.key"))
    }

    pub fn pem(&self, name: &str) -> String {
        self.file(&format!("{name}.pem"))
    }

    /// A server's certificate and key, as options.
    fn shown(&self, name: &str) -> Vec<String> {
        ["--tls-cert", &self.pem(name), "--tls-key", &self.key(name)].map(str::to_owned).to_vec()
    }

    /// A client that believes this authority alone.
    fn client(&self) -> Client {
        let pem = std::fs::read(self.pem(self.name)).unwrap();
        let root = Certificate::from_pem(&pem).unwrap();
        client_builder().tls_certs_only([root]).build().unwrap()
    }

    /// What curl says, which believes it and shows nothing unless it is told to.
    async fn curl(&self, arguments: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--cacert"]);
        curl.arg(self.pem(self.name)).args(arguments).output().await.expect("curl")
    }
}

pub const LOCAL: &str = "IP:127.0.0.1,DNS:localhost";

async fn start(database: &Database, dir: &Path, options: &[String]) -> Result<Server, String> {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Server::try_start_in(dir, Some(&database.url), &options).await
}

fn reading(device: &str) -> String {
    let measured_at = now().to_rfc3339();
    json!({ "patientId": "101", "deviceId": device, "vital": "heart_rate", "value": 71,
            "measuredAt": measured_at })
    .to_string()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const MAP: &str = "[[client]]\nname = \"{device}.devices.example\"\ntenant = \"hospital-1\"\n\
                   scope = \"readings:write\"\n";

/// A server that takes certificates of `ca`, from those who show one.
async fn with_clients(database: &Database, ca: &Authority) -> Server {
    ca.sign("server", "/CN=server", LOCAL, 90).await;
    std::fs::write(ca.file("clients.toml"), MAP).unwrap();
    let mut options = ca.shown("server");
    options.extend(["--tls-client-ca".to_owned(), ca.pem("ca")]);
    options.extend(["--tls-clients".to_owned(), ca.file("clients.toml")]);
    options.push("--tls-client-optional".to_owned());
    start(database, &ca.dir, &options).await.unwrap()
}

#[tokio::test]
async fn curl_and_python_send_readings_by_a_devices_certificate_and_no_others() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let ca = Authority::new(&dir, "ca").await;
    let server = with_clients(&database, &ca).await;
    assert!(server.url("").starts_with("https://127.0.0.1:"));
    ca.sign("watch", "/CN=anything", "DNS:watch-7.devices.example", 1).await;
    ca.sign("common", "/CN=watch-8.devices.example", "", 1).await;
    ca.sign("stranger", "/CN=somebody", "DNS:somebody.example", 1).await;
    let url = server.url("/api/v1/readings");
    let send = async |name: &str, device: &str, more: &[&str]| {
        let (pem, key, body) = (ca.pem(name), ca.key(name), reading(device));
        let mut arguments = vec!["--cert", &*pem, "--key", &*key, "--data-binary", &*body];
        arguments.extend(["--write-out", "\n%{http_version} %{http_code}"]);
        arguments.extend(more.iter().chain([&&*url]));
        let sent = ca.curl(&arguments).await;
        text(&sent) + &String::from_utf8_lossy(&sent.stderr)
    };
    let stored = send("watch", "watch-7", &[]).await;
    assert!(stored.contains("\"stored\":1") && stored.ends_with("\n2 201"), "{stored}");
    let stored = send("common", "watch-8", &["--http1.1"]).await;
    assert!(stored.contains("\"stored\":1") && stored.ends_with("\n1.1 201"), "{stored}");
    let others = send("watch", "watch-9", &[]).await;
    assert!(others.ends_with(" 403") && others.contains("outside_token"), "{others}");
    let nobody = send("stranger", "watch-7", &[]).await;
    assert!(nobody.ends_with(" 401") && nobody.contains("somebody.example"), "{nobody}");
    // It may send and not read; and a token counts instead of a certificate.
    let (pem, key) = (ca.pem("watch"), ca.key("watch"));
    let list = server.url("/api/v1/patients");
    let read = ca.curl(&["--cert", &pem, "--key", &key, &list]).await;
    assert!(text(&read).contains("scope_missing"), "{}", text(&read));
    let bearer = format!("authorization: Bearer {}", server.token("vitals:read"));
    for shown in [&["--cert", &*pem, "--key", &*key][..], &[]] {
        let by_token = ca.curl(&[shown, &["-i", "-H", &bearer, &list]].concat()).await;
        let by_token = text(&by_token);
        assert!(by_token.starts_with("HTTP/2 200"), "{by_token}");
        assert!(by_token.contains("strict-transport-security: max-age="), "{by_token}");
    }
    // Who is signed by another is not listened to, and who believes another does not speak.
    let other = Authority::new(&scratch_dir(), "other").await;
    other.sign("watch", "/CN=w", "DNS:watch-7.devices.example", 1).await;
    let (pem, key) = (other.pem("watch"), other.key("watch"));
    let forged = ca.curl(&["--cert", &pem, "--key", &key, "-H", &bearer, &list]).await;
    assert!(!forged.status.success() && forged.stdout.is_empty(), "{forged:?}");
    assert_eq!(other.curl(&["-H", &bearer, &list]).await.status.code(), Some(60));
    assert!(metric_by(&server, &ca.client(), "vitals_tls_handshake_failures_total").await >= 2.0);

    let program = "import json, ssl, sys, urllib.request as u\n\
        ca, cert, key, url, body = sys.argv[1:]\n\
        context = ssl.create_default_context(cafile=ca)\n\
        context.load_cert_chain(cert, key)\n\
        head = {'content-type': 'application/json'}\n\
        request = u.Request(url, data=body.encode(), headers=head)\n\
        opener = u.build_opener(u.ProxyHandler({}), u.HTTPSHandler(context=context))\n\
        print(json.load(opener.open(request))['stored'])\n";
    let (root, pem, key) = (ca.pem("ca"), ca.pem("watch"), ca.key("watch"));
    let python = Command::new("python3")
        .args(["-c", program, &root, &pem, &key, &url, &reading("watch-7")])
        .output()
        .await
        .expect("python3");
    assert_eq!(text(&python).trim(), "1", "{}", String::from_utf8_lossy(&python.stderr));
}

#[tokio::test]
async fn who_has_to_show_a_certificate_and_does_not_is_not_answered() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let ca = Authority::new(&dir, "ca").await;
    ca.sign("server", "/CN=server", LOCAL, 90).await;
    ca.sign("gateway", "/CN=gateway", "DNS:gateway.example", 1).await;
    let mut options = ca.shown("server");
    options.extend(["--tls-client-ca".to_owned(), ca.pem("ca")]);
    let server = start(&database, &dir, &options).await.unwrap();
    let url = server.url("/api/v1/patients");
    let bearer = format!("authorization: Bearer {}", server.token("vitals:read"));
    let refused = ca.curl(&["-H", &bearer, &url]).await;
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    let (pem, key) = (ca.pem("gateway"), ca.key("gateway"));
    let taken = ca.curl(&["--cert", &pem, "--key", &key, "-H", &bearer, &url]).await;
    assert!(text(&taken).starts_with("{\"items\":[]"), "{}", text(&taken));
    // Nothing says for whom certificates stand, so none does.
    let without = ca.curl(&["--cert", &pem, "--key", &key, &url]).await;
    assert!(text(&without).contains("Authorization: Bearer"), "{}", text(&without));
}

async fn status(client: &Client, url: &str) -> Option<StatusCode> {
    client.get(url).send().await.ok().map(|answer| answer.status())
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_ending_a_connection_and_a_broken_one_is_not() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let (old, new) = (Authority::new(&dir, "old").await, Authority::new(&dir, "new").await);
    old.sign("server", "/CN=server", LOCAL, 90).await;
    new.sign("next", "/CN=server", LOCAL, 10).await;
    let server = start(&database, &dir, &old.shown("server")).await.unwrap();
    let url = server.url("/health/live");
    // What it has open is all that this one can speak by once the certificate is another's.
    let kept = old.client();
    assert_eq!(status(&kept, &url).await, Some(StatusCode::OK));
    assert_eq!(status(&new.client(), &url).await, None);
    std::fs::write(old.key("server"), "-----BEGIN").unwrap();
    eventually("the broken file to be told", SOON, || async {
        server.logged().contains("the last certificate stays").then_some(())
    })
    .await;
    assert_eq!(status(&old.client(), &url).await, Some(StatusCode::OK), "the last one stays");
    std::fs::copy(new.pem("next"), old.pem("server")).unwrap();
    std::fs::copy(new.key("next"), old.key("server")).unwrap();
    eventually("the new certificate", SOON, || async {
        status(&new.client(), &url).await.map(drop)
    })
    .await;
    assert_eq!(status(&old.client(), &url).await, None, "the old one is shown to nobody");
    assert_eq!(status(&kept, &url).await, Some(StatusCode::OK), "an open connection stays");
    // Ten days are fewer than thirty.
    let ready = new.client().get(server.url("/health/ready")).send().await.unwrap();
    let ready: Value = ready.json().await.unwrap();
    let warnings = ready["warnings"].to_string();
    assert!(warnings.contains("the TLS certificate expires at"), "{ready}");
    assert_eq!(ready["canWait"], ready["warnings"], "and no ward is told of it yet");
    let expires = metric_by(&server, &new.client(), "vitals_tls_certificate_expires_seconds").await;
    let days = (expires - now().timestamp() as f64) / 86_400.0;
    assert!((9.0..=10.0).contains(&days), "{days}");
}

#[tokio::test]
async fn whom_a_new_map_does_not_name_is_not_served_on_an_open_connection() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let ca = Authority::new(&dir, "ca").await;
    let server = with_clients(&database, &ca).await;
    ca.sign("watch", "/CN=w", "DNS:watch-7.devices.example", 1).await;
    let root = Certificate::from_pem(&std::fs::read(ca.pem("ca")).unwrap()).unwrap();
    let pem = [ca.pem("watch"), ca.key("watch")].map(|file| std::fs::read(file).unwrap()).concat();
    let shown = reqwest::Identity::from_pem(&pem).unwrap();
    let watch = client_builder().tls_certs_only([root]).identity(shown).build().unwrap();
    let url = server.url("/api/v1/readings");
    let send = async || watch.post(&url).body(reading("watch-7")).send().await.unwrap().status();
    assert_eq!(send().await, StatusCode::CREATED);
    let reads = MAP.replace("readings:write", "readings:write vitals:read");
    std::fs::write(ca.file("clients.toml"), reads).unwrap();
    let mut stream = eventually("to be let listen", SOON, || async {
        let listens = watch.get(server.url("/api/v1/stream")).send().await.ok()?;
        (listens.status() == StatusCode::OK).then_some(listens)
    })
    .await;
    std::fs::write(ca.file("clients.toml"), MAP.replace("{device}", "watch-8")).unwrap();
    eventually("the map to be read", SOON, || async {
        (send().await == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    // Also what would go on for ever is cut.
    let cut = async { while matches!(stream.chunk().await, Ok(Some(_))) {} };
    tokio::time::timeout(SOON, cut).await.expect("the stream is cut");
    std::fs::write(ca.file("clients.toml"), MAP).unwrap();
    eventually("the map of before", SOON, || async {
        (send().await == StatusCode::CREATED).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_connection_of_http_2_asks_much_at_one_time_and_a_stream_stays_open() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let ca = Authority::new(&dir, "ca").await;
    ca.sign("server", "/CN=server", LOCAL, 90).await;
    let server = start(&database, &dir, &ca.shown("server")).await.unwrap();
    let (client, url) = (ca.client(), server.url("/api/v1/readings"));
    let token = server.token("readings:write vitals:read");
    let listens = client.get(server.url("/api/v1/stream")).bearer_auth(&token).send();
    let mut listens = listens.await.unwrap();
    assert_eq!((listens.status(), listens.version()), (StatusCode::OK, Version::HTTP_2));
    let send = |n: usize| {
        let body = reading(&format!("watch-{n}"));
        let request = client.post(&url).bearer_auth(&token).body(body).send();
        async move { request.await.unwrap().status() }
    };
    let all = futures_util::future::join_all((0..300).map(send)).await;
    assert!(all.iter().all(|status| *status == StatusCode::CREATED), "{all:?}");
    let open = metric_by(&server, &client, "vitals_connections").await;
    assert_eq!(open, 1.0, "all of it by one connection");
    let mut heard = 0;
    while heard < 300 {
        let part = tokio::time::timeout(SOON, listens.chunk()).await.expect("the stream goes on");
        let part = part.unwrap().expect("it does not end");
        heard += String::from_utf8_lossy(&part).matches("\"deviceId\":\"watch-").count();
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_its_end_is_given_up() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let ca = Authority::new(&dir, "ca").await;
    ca.sign("server", "/CN=server", LOCAL, 90).await;
    let server = start(&database, &dir, &ca.shown("server")).await.unwrap();
    let mut silent = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(2 * SOON, silent.read_to_end(&mut bytes)).await;
    drop(ended.expect("it is closed"));
    assert!(bytes.is_empty());
    // And who speaks plainly is not answered plainly.
    let plain = client_builder().build().unwrap().get(format!("http://{}/", server.address()));
    assert!(plain.send().await.is_err());
}

#[tokio::test]
async fn options_of_tls_that_cannot_be_meant_are_refused_at_once() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let ca = Authority::new(&dir, "ca").await;
    ca.sign("server", "/CN=server", LOCAL, 90).await;
    std::fs::write(ca.file("bad.toml"), "[[client]]\nname = \"a\"\nscope = \"vitals:read\"")
        .unwrap();
    let (pem, key, bad) = (ca.pem("server"), ca.key("server"), ca.file("bad.toml"));
    let (root, other, missing) = (ca.pem("ca"), ca.key("ca"), ca.file("missing.pem"));
    let pair = ["--tls-cert", &*pem, "--tls-key", &*key];
    for (options, says) in [
        (vec!["--tls-cert", &*pem], "--tls-cert needs --tls-key"),
        (vec!["--tls-key", &*key], "--tls-key needs --tls-cert"),
        (vec!["--tls-client-ca", &*root], "--tls-client-ca needs --tls-cert"),
        ([&pair[..], &["--tls-clients", &*bad]].concat(), "need --tls-client-ca"),
        (vec!["--tls-cert", &*pem, "--tls-key", &*other], "the certificate"),
        (vec!["--tls-cert", &*missing, "--tls-key", &*key], "missing.pem: No such file"),
        (vec!["--tls-cert", &*key, "--tls-key", &*key], "no PEM certificate in it"),
        (vec!["--tls-cert", &*pem, "--tls-key", &*pem], "no PEM private key in it"),
        (
            [&pair[..], &["--tls-client-ca", &*root, "--tls-clients", &*bad]].concat(),
            "client 1 (\"a\"): tenant is missing",
        ),
    ] {
        let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        let said = start(&database, &dir, &options).await.err().expect("it is refused");
        assert!(said.contains(says) && !said.contains("PRIVATE"), "{options:?}: {said}");
    }
}

#[tokio::test]
async fn what_others_can_reach_is_not_served_in_the_clear_unless_that_is_asked_for() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let serve = |options: &[&str]| {
        let mut serve = command(&dir, Some(&database.url));
        serve.args(["serve", "--listen", "0.0.0.0:0"]).args(options);
        serve
    };
    let refused = serve(&[]).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("or --plain-http, where a proxy"), "{said}");
    let mut open = serve(&["--plain-http"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(open.stdout.take().unwrap()).lines();
    let ready = tokio::time::timeout(2 * SOON, lines.next_line()).await.unwrap();
    assert!(ready.unwrap().unwrap().starts_with("ready http://0.0.0.0:"));
}
