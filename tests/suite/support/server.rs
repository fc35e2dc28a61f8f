//! The real binary, as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use jsonwebtoken::{EncodingKey, Header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::postgres::Database;

/// What the tests' tokens are signed with.
pub const SECRET: &str = "a secret that is good for tests and for nothing else";
/// The tenant of [`Server::token`].
pub const TENANT: &str = "hospital-1";
/// A debug build on a busy machine starts within this.
const READY_MAX: Duration = Duration::from_secs(60);

/// A directory of its own, left to the build directory's cleaning.
pub fn scratch_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Uuid::new_v4().simple().to_string());
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// The binary with the tests' secret and with nothing of this process's surroundings.
pub fn command(data_dir: &Path, database_url: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitals"));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if ["VITALS_", "OTEL_"].iter().any(|ours| name.starts_with(ours)) || key == "DATABASE_URL" {
            command.env_remove(key);
        }
    }
    command
        .current_dir(data_dir)
        .env("VITALS_DATA_DIR", data_dir)
        .env("VITALS_JWT_SECRET", SECRET)
        // No balancer has to be told.
        .env("VITALS_DRAIN", "0s")
        .kill_on_drop(true);
    if let Some(url) = database_url {
        let service = of_service(url);
        if service != url {
            command.env("VITALS_OWNER_DATABASE_URL", url);
        }
        command.env("VITALS_DATABASE_URL", service);
    }
    command
}

/// The same database as the service's own role, where the tests have made it: on private
/// servers, which trust whoever gets in.
pub fn of_service(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(mut service) if service.username() == "vitals" && service.password().is_none() => {
            service.set_username(vitals::log::roles::SERVICE).expect("a user");
            service.into()
        }
        _ => url.to_owned(),
    }
}

/// Runs the binary on a test's database to its end.
pub async fn cli(database: &Database, arguments: &[&str]) -> Output {
    let dir = scratch_dir();
    command(&dir, Some(&database.url)).args(arguments).output().await.expect("the binary runs")
}

/// Plain HTTP; nothing of this machine's proxies.
pub fn client() -> reqwest::Client {
    client_builder().build().expect("a client")
}

/// See [`client`].
pub fn client_builder() -> reqwest::ClientBuilder {
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// A running `vitals serve`; killed when it is dropped.
pub struct Server {
    child: Child,
    base: String,
    address: String,
    log: PathBuf,
}

impl Server {
    /// Serves a test's database.
    pub async fn start(database: &Database) -> Server {
        Server::start_with(database, &["--allow-webhook-net", "127.0.0.0/8"]).await
    }

    /// Serves with these options instead of the usual ones.
    pub async fn start_with(database: &Database, arguments: &[&str]) -> Server {
        Server::start_in(&scratch_dir(), Some(&database.url), arguments).await
    }

    /// Serves under limits of the system, as the shell sets them: `ulimit -n 1024`.
    pub async fn start_under(database: &Database, limits: &str, arguments: &[&str]) -> Server {
        let dir = scratch_dir();
        let plain = command(&dir, Some(&database.url));
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("{limits}; exec \"$0\" \"$@\""))
            .arg(plain.as_std().get_program());
        for (key, value) in plain.as_std().get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        shell.current_dir(&dir).kill_on_drop(true);
        let arguments = [&["--allow-webhook-net", "127.0.0.0/8"], arguments].concat();
        let started = Server::spawn(shell, &dir, &arguments).await;
        started.unwrap_or_else(|said| panic!("vitals did not get ready under {limits}: {said}"))
    }

    /// Serves from a data directory: without a URL, on an embedded database there.
    pub async fn start_in(
        data_dir: &Path,
        database_url: Option<&str>,
        arguments: &[&str],
    ) -> Server {
        let started = Server::try_start_in(data_dir, database_url, arguments).await;
        started.unwrap_or_else(|said| panic!("vitals did not get ready: {said}"))
    }

    /// The same; what it said when it did not get ready.
    pub async fn try_start_in(
        data_dir: &Path,
        database_url: Option<&str>,
        arguments: &[&str],
    ) -> Result<Server, String> {
        Server::spawn(command(data_dir, database_url), data_dir, arguments).await
    }

    /// The same without the tests' secret in the environment.
    pub async fn try_start_without_secret(
        data_dir: &Path,
        database_url: &str,
        arguments: &[&str],
    ) -> Result<Server, String> {
        let mut command = command(data_dir, Some(database_url));
        command.env_remove("VITALS_JWT_SECRET");
        Server::spawn(command, data_dir, arguments).await
    }

    /// Serves by a command of the test's making.
    pub async fn spawn(
        mut command: Command,
        data_dir: &Path,
        arguments: &[&str],
    ) -> Result<Server, String> {
        let log = data_dir.join(format!("serve-{}.log", Uuid::new_v4().simple()));
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let ready = tokio::time::timeout(READY_MAX, lines.next_line()).await;
        let address = match ready {
            Ok(Ok(Some(line))) => line
                .strip_prefix("ready ")
                .and_then(|url| Some((url.to_owned(), url.split_once("://")?.1.to_owned()))),
            _ => None,
        };
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let (base, address) = address.ok_or_else(said)?;
        Ok(Server { child, base, address, log })
    }

    /// A URL of this server; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// A token for [`TENANT`].
    pub fn token(&self, scope: &str) -> String {
        self.token_with(|claims| claims["scope"] = scope.into())
    }

    /// A token with claims of the test's choice; signed here and not by the program.
    pub fn token_with(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
        let mut claims = json!({
            "iss": "tests", "aud": "vitals", "sub": "tester", "tenant": TENANT,
            "scope": "", "exp": now + 3600,
        });
        change(&mut claims);
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token")
    }

    /// See [`client`].
    pub fn client(&self) -> reqwest::Client {
        client()
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.expect("a child")
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        kill_process(pid, signal).expect("signalled");
    }

    /// SIGKILL, and until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// SIGTERM; how it ended and how long that took.
    pub async fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal(Signal::TERM);
        let status = self.child.wait().await.expect("it ends");
        (status, started.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the server's log\n{}", self.logged());
        }
    }
}
