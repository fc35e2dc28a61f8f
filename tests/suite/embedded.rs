//! The private PostgreSQL: fresh, joined, killed, mismatched, in awkward places.
//!
//! Needs PostgreSQL's programs on the machine. As root the server runs as another
//! user; the tests hold either way.

#![allow(clippy::unwrap_used, reason = "what a test calls may unwrap as the test may")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use vitals::embedded::{Embedded, EmbeddedError};

/// How long anything that should happen may take to happen.
const SOON: Duration = Duration::from_secs(30);

/// A data directory that goes away with its server, also when a test fails.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let unique = format!("vitals-{name}-{}", uuid::Uuid::new_v4());
        Dir(std::env::temp_dir().join(unique))
    }

    /// Where the cluster is, in here or where the note says.
    fn home(&self) -> PathBuf {
        match std::fs::read_to_string(self.0.join("postgres.location")) {
            Ok(home) => home.into(),
            Err(_) => self.0.join("postgres"),
        }
    }

    fn cluster(&self) -> PathBuf {
        self.home().join("data")
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.cluster().join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster() {
            // SIGQUIT: the data is thrown away, so nothing need be written out.
            let _gone_already = kill_process(pid, Signal::QUIT);
        }
        for dir in [self.home(), self.0.clone()] {
            // The server's last processes may still be writing their farewells.
            poll("the directory to go", || !dir.exists() || std::fs::remove_dir_all(&dir).is_ok());
        }
    }
}

fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// A server that has given its lock back has only its last steps to do.
async fn is_gone(pid: Pid) {
    crate::support::eventually("the server to be gone", Duration::from_secs(10), || async {
        (test_kill_process(pid).is_err() || corpse(pid)).then_some(())
    })
    .await;
}

/// Dead, and waiting for its parent to look.
fn corpse(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| stat.contains(") Z "))
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    options.connect().await.unwrap()
}

async fn number(options: &PgConnectOptions, query: &'static str) -> i32 {
    let mut connection = connect(options).await;
    let number = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    number
}

async fn setting(options: &PgConnectOptions, name: &str) -> String {
    let mut connection = connect(options).await;
    let query = sqlx::query_scalar("select current_setting($1)").bind(name);
    let setting = query.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    setting
}

async fn remember(options: &PgConnectOptions) {
    let mut connection = connect(options).await;
    for query in ["create table kept (n int)", "insert into kept values (42)"] {
        sqlx::query(query).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

const REMEMBERED: &str = "select n from kept";

#[tokio::test]
async fn a_fresh_start_answers_and_is_durable_and_closed_to_the_network() {
    let dir = Dir::new("fresh");
    let embedded = Embedded::start(&dir.0).await.unwrap();
    let options = embedded.connect_options();
    assert_eq!(number(&options, "select 1").await, 1);
    for (name, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("jit", "off"),
        ("max_wal_size", "2GB"),
    ] {
        assert_eq!(setting(&options, name).await, value, "{name}");
    }
    assert_eq!(options.get_database(), Some("vitals"));
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn settings_of_the_caller_count_for_the_server_he_starts() {
    let dir = Dir::new("settings");
    let embedded = Embedded::start_with(&dir.0, &[("work_mem", "7MB")]).await.unwrap();
    let options = embedded.connect_options();
    assert_eq!(setting(&options, "work_mem").await, "7MB");
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn stop_ends_the_server_and_the_next_start_has_the_data() {
    let dir = Dir::new("stop");
    let embedded = Embedded::start(&dir.0).await.unwrap();
    remember(&embedded.connect_options()).await;
    let pid = dir.postmaster().unwrap();
    embedded.stop().await.unwrap();
    is_gone(pid).await;
    assert_eq!(dir.postmaster(), None);

    let again = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(number(&again.connect_options(), REMEMBERED).await, 42);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_recovers_with_what_was_committed() {
    let dir = Dir::new("killed");
    let before = Embedded::start(&dir.0).await.unwrap();
    remember(&before.connect_options()).await;
    let pid = dir.postmaster().unwrap();
    kill_process(pid, Signal::KILL).unwrap();

    let after = Embedded::start(&dir.0).await.unwrap();
    assert_ne!(dir.postmaster().unwrap(), pid);
    assert_eq!(number(&after.connect_options(), REMEMBERED).await, 42);
    drop(before);
    after.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_share_leaves_the_server_for_the_next_one() {
    let dir = Dir::new("dropped");
    // What a kill -9 of vitals leaves: the server, and no lock of its user's.
    drop(Embedded::start(&dir.0).await.unwrap());
    let pid = dir.postmaster().unwrap();

    let next = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(dir.postmaster(), Some(pid));
    assert_eq!(number(&next.connect_options(), "select 1").await, 1);
    next.stop().await.unwrap();
    assert_eq!(dir.postmaster(), None);
}

#[tokio::test]
async fn a_second_one_joins_and_keeps_the_server_when_the_first_one_leaves() {
    let dir = Dir::new("joined");
    let (first, second) = tokio::join!(Embedded::start(&dir.0), Embedded::start(&dir.0));
    let (first, second) = (first.unwrap(), second.unwrap());
    let pid = dir.postmaster().unwrap();
    remember(&first.connect_options()).await;
    first.stop().await.unwrap();
    assert_eq!(dir.postmaster(), Some(pid));
    assert_eq!(number(&second.connect_options(), REMEMBERED).await, 42);
    second.stop().await.unwrap();
    is_gone(pid).await;
}

#[tokio::test]
async fn a_note_of_a_dead_server_whose_process_id_is_anothers_now_does_not_mislead() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let dir = Dir::new("reused");
    let embedded = Embedded::start(&dir.0).await.unwrap();
    remember(&embedded.connect_options()).await;
    let note = dir.cluster().join("postmaster.pid");
    let text = std::fs::read_to_string(&note).unwrap();
    let pid = dir.postmaster().unwrap();
    embedded.stop().await.unwrap();

    // As in a container that starts again: the same number, another process, and
    // one of the same user, so that PostgreSQL would take it for a server.
    let owner = std::fs::metadata(dir.cluster()).unwrap();
    let mut other = std::process::Command::new("sleep")
        .arg("1000")
        .uid(owner.uid())
        .gid(owner.gid())
        .spawn()
        .unwrap();
    let (gone, taken) = (pid.as_raw_nonzero().to_string(), other.id().to_string());
    std::fs::write(&note, text.replacen(&gone, &taken, 1)).unwrap();
    let again = Embedded::start(&dir.0).await;
    other.kill().unwrap();
    other.wait().unwrap();
    let again = again.unwrap();
    assert_eq!(number(&again.connect_options(), REMEMBERED).await, 42);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn empty_notes_of_a_server_that_was_killed_at_once_do_not_stop_the_next_one() {
    let dir = Dir::new("empty");
    Embedded::start(&dir.0).await.unwrap().stop().await.unwrap();
    std::fs::write(dir.cluster().join("postmaster.pid"), "").unwrap();
    std::fs::write(dir.home().join("run/.s.PGSQL.5432.lock"), "").unwrap();

    let again = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(number(&again.connect_options(), "select 1").await, 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_initdb_is_thrown_away() {
    let dir = Dir::new("interrupted");
    let embedded = Embedded::start(&dir.0).await.unwrap();
    embedded.stop().await.unwrap();
    // A cluster without its name is what a kill during initdb leaves.
    let unfinished = dir.home().join("data.new");
    std::fs::rename(dir.cluster(), &unfinished).unwrap();
    std::fs::remove_file(unfinished.join("global/pg_control")).unwrap();

    let again = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(number(&again.connect_options(), "select 1").await, 1);
    assert!(!unfinished.exists());
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_another_version_is_a_clear_error_and_stays_as_it_is() {
    let dir = Dir::new("version");
    Embedded::start(&dir.0).await.unwrap().stop().await.unwrap();
    let version = dir.cluster().join("PG_VERSION");
    std::fs::write(&version, "99\n").unwrap();
    let error = Embedded::start(&dir.0).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Version { needed: 99, .. }), "{error:?}");
    let said = error.to_string();
    let cluster = dir.cluster().canonicalize().unwrap();
    assert!(said.contains("needs PostgreSQL 99"), "{said}");
    assert!(said.contains(cluster.to_str().unwrap()), "{said}");
    assert!(said.contains("install PostgreSQL 99"), "{said}");

    std::fs::write(&version, "what is this").unwrap();
    let error = Embedded::start(&dir.0).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::NotACluster { .. }), "{error:?}");
    assert!(dir.cluster().join("global/pg_control").exists());
}

#[tokio::test]
async fn a_setting_that_postgresql_refuses_is_told_in_its_words() {
    let dir = Dir::new("refused");
    let bad = [("shared_buffers", "rather many")];
    let error = Embedded::start_with(&dir.0, &bad).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Exited { .. }), "{error:?}");
    assert!(error.to_string().contains("rather many"), "{error}");

    let embedded = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(number(&embedded.connect_options(), "select 1").await, 1);
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_long_path_gets_a_socket_elsewhere() {
    let outer = Dir::new("long");
    let deep = outer.0.join("d".repeat(120)).join("with a space, a comma and \"quotes\"");
    let embedded = Embedded::start(&deep).await.unwrap();
    let dir = Dir(deep);
    let socket = embedded.connect_options().get_socket().unwrap().clone();
    assert!(!socket.starts_with(&dir.0), "{}", socket.display());
    let second = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(number(&second.connect_options(), "select 1").await, 1);
    second.stop().await.unwrap();
    embedded.stop().await.unwrap();
    std::fs::remove_dir_all(socket_dir(&socket)).unwrap();
}

/// What sqlx was given is the directory of the socket, or the socket in it.
fn socket_dir(socket: &Path) -> &Path {
    if socket.is_dir() { socket } else { socket.parent().unwrap() }
}

#[tokio::test]
async fn a_data_directory_closed_to_the_servers_user_works_and_is_found_again() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("closed");
    std::fs::create_dir(&dir.0).unwrap();
    std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let embedded = Embedded::start(&dir.0).await.unwrap();
    remember(&embedded.connect_options()).await;
    embedded.stop().await.unwrap();
    // Only root becomes another user, who then needs a place of his own.
    let root = rustix::process::geteuid().is_root();
    assert_eq!(dir.home().starts_with(&dir.0), !root, "{}", dir.home().display());

    let again = Embedded::start(&dir.0).await.unwrap();
    assert_eq!(number(&again.connect_options(), REMEMBERED).await, 42);
    again.stop().await.unwrap();

    let home = dir.home();
    std::fs::remove_dir_all(&home).unwrap();
    if root {
        let error = Embedded::start(&dir.0).await.unwrap_err();
        assert!(matches!(error, EmbeddedError::Gone { .. }), "{error:?}");
    }
}
