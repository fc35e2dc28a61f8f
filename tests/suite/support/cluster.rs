//! A PostgreSQL of a test's own, to be killed, frozen and crowded: nobody else's
//! test notices.
//!
//! It is the embedded server, with durability on. Whoever kills it starts it again,
//! as a supervisor would. It ends with the test, also with one that fails.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use vitals::embedded::Embedded;

use super::eventually;
use super::server::scratch_dir;

const SOON: Duration = Duration::from_secs(60);
/// More than any server here lets in.
const CONNECTIONS_MAX: usize = 1_000;

/// The server of a data directory.
pub struct Cluster {
    dir: PathBuf,
    settings: Vec<(&'static str, &'static str)>,
    embedded: Option<Embedded>,
}

impl Cluster {
    /// Makes one and starts it.
    pub async fn start(settings: &[(&'static str, &'static str)]) -> Cluster {
        Cluster::start_in(&scratch_dir(), settings).await
    }

    /// The same in a directory of the test's choice.
    pub async fn start_in(dir: &Path, settings: &[(&'static str, &'static str)]) -> Cluster {
        let mut cluster = Cluster::of(dir);
        cluster.settings = settings.to_vec();
        cluster.up().await;
        cluster
    }

    /// One that streams from this one, with all that it has, until it is promoted.
    pub async fn standby(&self) -> Cluster {
        let mut standby = Cluster::start(&[]).await;
        standby.down(Signal::INT).await;
        let data = standby.data();
        let owner = std::fs::metadata(&data).expect("a cluster");
        for entry in std::fs::read_dir(&data).expect("a cluster") {
            let path = entry.expect("an entry").path();
            let is_dir = path.is_dir();
            if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                .expect("removed");
        }
        let mut copy = self.program("pg_basebackup");
        copy.args(["--checkpoint", "fast", "--wal-method", "stream", "--pgdata"]).arg(&data);
        succeed(copy.uid(owner.uid()).gid(owner.gid())).await;
        let signal = data.join("standby.signal");
        std::fs::write(&signal, "").expect("written");
        chown(&signal, Some(owner.uid()), Some(owner.gid())).expect("given");
        let options = self.options();
        let socket = options.get_socket().expect("a socket").display();
        let from = format!("host={socket} port={} user=vitals", options.get_port());
        // For as long as the tests run: settings are texts of the source elsewhere.
        standby.settings = vec![("primary_conninfo", from.leak())];
        standby.up().await;
        standby
    }

    /// One of PostgreSQL's own programs, of this server's version, told how to reach it.
    pub fn program(&self, name: &str) -> Command {
        let pid = self.postmaster().expect("a running server").as_raw_nonzero();
        let server = std::fs::read_link(format!("/proc/{pid}/exe")).expect("its program");
        let mut command = Command::new(server.with_file_name(name));
        let options = self.options();
        let socket = options.get_socket().expect("a socket");
        command.current_dir("/").env("PGHOST", socket).env("PGUSER", options.get_username());
        command.env("PGPORT", options.get_port().to_string());
        command
    }

    /// The one that a vitals has in its data directory, or will have.
    pub fn of(dir: &Path) -> Cluster {
        Cluster { dir: dir.to_owned(), settings: Vec::new(), embedded: None }
    }

    /// Starts it again after whatever became of it.
    pub async fn up(&mut self) {
        let started = Embedded::start_with(&self.dir, &self.settings).await;
        self.embedded = Some(started.expect("PostgreSQL starts"));
    }

    /// How to reach it without detours.
    pub fn options(&self) -> PgConnectOptions {
        self.embedded.as_ref().expect("it was started").connect_options()
    }

    /// A connection without detours, as soon as there is one to be had.
    pub async fn connect(&self) -> PgConnection {
        eventually("a connection", SOON, async || {
            PgConnection::connect_with(&self.options()).await.ok()
        })
        .await
    }

    /// Takes every connection that is left, and those of vitals as well.
    pub async fn crowd(&self) -> Vec<PgConnection> {
        let mut crowd = vec![self.connect().await];
        self.take_all(&mut crowd).await;
        if let Some(admin) = crowd.first_mut() {
            let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                       where application_name = 'vitals'";
            // A server that is going down at this moment has done it already.
            let _gone_already = sqlx::query(sql).execute(admin).await;
        }
        // Some of what became free may go back to vitals: whoever is faster.
        self.take_all(&mut crowd).await;
        crowd
    }

    async fn take_all(&self, crowd: &mut Vec<PgConnection>) {
        while crowd.len() < CONNECTIONS_MAX
            && let Ok(connection) = PgConnection::connect_with(&self.options()).await
        {
            crowd.push(connection);
        }
    }

    /// Where its files are.
    fn data(&self) -> PathBuf {
        let note = std::fs::read_to_string(self.dir.join("postgres.location"));
        note.map_or_else(|_| self.dir.join("postgres"), PathBuf::from).join("data")
    }

    /// The server's first process, as it noted itself; after a kill the note stays.
    pub fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }

    /// Every process that the server has made.
    pub fn children(&self) -> Vec<Pid> {
        let postmaster = self.postmaster().expect("a running server").as_raw_nonzero().get();
        let entries = std::fs::read_dir("/proc").expect("processes").flatten();
        entries
            .filter_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
                let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
                (parent.parse() == Ok(postmaster)).then(|| Pid::from_raw(pid))?
            })
            .collect()
    }

    /// The server and every process that it made.
    pub fn processes(&self) -> Vec<Pid> {
        let children = self.children();
        // Few right after a backend was killed, when it begins anew; never none.
        assert!(!children.is_empty(), "PostgreSQL without a process of its own");
        [vec![self.postmaster().expect("a running server")], children].concat()
    }

    /// Signals the first process, and no other.
    pub fn signal(&self, signal: Signal) {
        let pid = self.postmaster().expect("a running server");
        kill_process(pid, signal).expect("it runs");
    }

    /// Signals all of them: SIGSTOP freezes the server, SIGCONT lets it go on.
    pub fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            // A backend that ended by itself in between is not meant any more.
            let _gone_already = kill_process(pid, signal);
        }
    }

    /// Ends it by a signal, and starts it again.
    pub async fn restart(&mut self, signal: Signal) {
        self.down(signal).await;
        self.up().await;
    }

    /// Ends it by a signal.
    pub async fn down(&self, signal: Signal) {
        let pid = self.postmaster().expect("a running server");
        self.signal(signal);
        eventually("PostgreSQL to be gone", SOON, async || gone(pid).then_some(())).await;
    }
}

/// Runs a program that must not fail.
pub async fn succeed(command: &mut Command) {
    let output = command.output().await.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a process has ended. A child of ours that nobody waited for yet has.
fn gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let state = stat.ok().and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('Z')));
    test_kill_process(pid).is_err() || state.unwrap_or(true)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A frozen one does not hear that it is to end.
        let Some(pid) = self.postmaster().filter(|pid| !gone(*pid)) else { return };
        for frozen in [vec![pid], self.children()].concat() {
            let _gone_already = kill_process(frozen, Signal::CONT);
        }
        let _gone_already = kill_process(pid, Signal::QUIT);
    }
}
