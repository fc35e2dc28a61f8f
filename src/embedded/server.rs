//! Starts, joins and stops the server of a cluster.
//!
//! Guarantees that at most one server runs on a cluster: the server's own lock is
//! its standard input, so the kernel keeps it held for as long as any process of
//! that server lives, whatever became of vitals, also where process ids say
//! nothing (two containers on one volume). PostgreSQL's own check of its pid file
//! and shared memory stands behind that.
//!
//! A server outlives the vitals that started it; whoever comes next joins it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::{Instant, timeout};

use super::cluster::{self, last};
use super::dirs::{ClusterDirs, PORT};
use super::error::{EmbeddedError, files};
use super::locate::locate;
use super::lock::{self, Hold};
use super::pidfile::{self, PidHolder};
use super::program::{command, spawning};
use super::session::{self, Answer};

/// How long a server may take until it accepts connections, recovery included.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How long a fast shutdown may take; it writes everything out first.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// What a server notes when it accepts connections.
const READY: &str = "ready";
/// How long one try to connect may take, the first one creating the database.
const CONNECT_WAIT: Duration = Duration::from_secs(15);
/// With less room on its disk a server cannot write a new segment of its log, and ends.
const ROOM_BYTES_MIN: u64 = 16 << 20;
/// How much of a log is searched for a complaint.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// A server that answers.
#[derive(Debug)]
pub(super) struct Reached {
    /// The directory of its socket.
    pub sockets: PathBuf,
    /// Its process, if we have started it: whoever waits for it learns how it ended.
    pub child: Option<Child>,
}

/// Joins the server of this cluster, or starts one.
pub(super) async fn reach(
    dirs: &ClusterDirs,
    settings: &[(String, String)],
) -> Result<Reached, EmbeddedError> {
    let path = dirs.server_lock();
    let lock = open_lock(dirs, &path)?;
    let deadline = Instant::now() + READY_WAIT;
    loop {
        let state = match knock(dirs).await? {
            Ok(sockets) => return Ok(Reached { sockets, child: None }),
            Err(state) => state,
        };
        // Free: no process of an earlier server is left, nor of an initdb.
        if lock::attempt(&lock, Hold::Alone).map_err(files("lock", &path))? {
            return start(dirs, settings, lock).await;
        }
        if Instant::now() >= deadline {
            return Err(not_ready(dirs, state));
        }
        lock::pause().await;
    }
}

/// Tells the server to stop, unless it is gone, and waits until it is.
pub(super) async fn stop(dirs: &ClusterDirs, sockets: &Path) -> Result<(), EmbeddedError> {
    let path = dirs.server_lock();
    let lock = open_lock(dirs, &path)?;
    let free = || lock::attempt(&lock, Hold::Alone).map_err(files("lock", &path));
    // A server that an operator started by hand does not hold our lock.
    if free()? && !matches!(ask(sockets).await, Ok(None)) {
        return Ok(());
    }
    if let Some(note) = read_note(dirs)?
        && pidfile::holder(note.pid) == PidHolder::Postgres
        && let Some(pid) = Pid::from_raw(note.pid)
        && let Err(error) = kill_process(pid, Signal::INT)
    {
        tracing::debug!(%error, "the server is already going");
    }
    let deadline = Instant::now() + STOP_WAIT;
    loop {
        let gone = match read_note(dirs)? {
            Some(note) => pidfile::holder(note.pid) != PidHolder::Postgres,
            None => true,
        };
        if gone && free()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(EmbeddedError::StillStopping {
                cluster: dirs.cluster(),
                waited_s: STOP_WAIT.as_secs(),
                log: dirs.log(),
            });
        }
        lock::pause().await;
    }
}

/// Opens one of the cluster's locks, which belongs to the server's user like
/// everything there.
pub(super) fn open_lock(dirs: &ClusterDirs, path: &Path) -> Result<File, EmbeddedError> {
    let file = lock::open(path).map_err(files("open", path))?;
    dirs.give(path)?;
    Ok(file)
}

/// Starts a server that keeps the lock.
async fn start(
    dirs: &ClusterDirs,
    settings: &[(String, String)],
    lock: File,
) -> Result<Reached, EmbeddedError> {
    let version = cluster::version(dirs)?;
    let binaries = locate(dirs, version).await?;
    if version.is_none() {
        cluster::create(dirs, &binaries, &lock).await?;
    }
    forget_the_dead(dirs)?;
    let mut child = spawn(dirs, &binaries.dir.join("postgres"), settings, lock)?;
    let deadline = Instant::now() + READY_WAIT;
    loop {
        if let Some(status) = child.try_wait().map_err(files("watch", &dirs.cluster()))? {
            return Err(complaint(dirs, status));
        }
        let state = match knock(dirs).await? {
            Ok(sockets) => {
                tracing::info!(cluster = %dirs.cluster().display(), pid = child.id(), "up");
                return Ok(Reached { sockets, child: Some(child) });
            }
            Err(state) => state,
        };
        if Instant::now() >= deadline {
            return Err(not_ready(dirs, state));
        }
        lock::pause().await;
    }
}

/// Runs `postgres` apart from us: in its own process group, so that a Ctrl-C meant
/// for vitals does not reach it, and with the lock as its standard input.
fn spawn(
    dirs: &ClusterDirs,
    program: &Path,
    settings: &[(String, String)],
    lock: File,
) -> Result<Child, EmbeddedError> {
    let log = dirs.start_log();
    let said = File::create(&log).map_err(files("write", &log))?;
    dirs.give(&log)?;
    let mut command = command(dirs, program);
    command.arg("-D").arg(dirs.cluster());
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    // Last, so that nothing above moves the socket or opens a port.
    command.arg("-c").arg("listen_addresses=").arg("-c").arg(format!("port={PORT}"));
    command.arg("-c").arg("unix_socket_permissions=0700");
    command.arg("-c").arg(sockets_setting(&dirs.sockets));
    command.stdin(Stdio::from(lock)).stdout(Stdio::null()).stderr(Stdio::from(said));
    command.process_group(0);
    command.spawn().map_err(spawning(dirs, program))
}

/// The setting is a list with commas, so the path is quoted.
fn sockets_setting(dir: &Path) -> OsString {
    let mut setting = OsString::from("unix_socket_directories=\"");
    for (n, part) in dir.as_os_str().as_encoded_bytes().split(|byte| *byte == b'"').enumerate() {
        if n > 0 {
            setting.push("\"\"");
        }
        setting.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(part));
    }
    setting.push("\"");
    setting
}

/// Removes the notes of a server that died, where PostgreSQL itself would be misled:
/// its process id has gone to a process that is none of PostgreSQL's (as it does
/// in a container that starts again), or is held by a corpse, or it was killed
/// before it had written anything. We hold the server's lock, so no process of that
/// server is left. If the id is simply gone, PostgreSQL knows what to do, and looks
/// further than we do.
fn forget_the_dead(dirs: &ClusterDirs) -> Result<(), EmbeddedError> {
    let socket_lock = dirs.sockets.join(format!(".s.PGSQL.{PORT}.lock"));
    for path in [pidfile::path(&dirs.cluster()), socket_lock] {
        if !path.exists() {
            continue;
        }
        tracing::warn!(file = %path.display(), "the last server did not end well, recovering");
        let misleading = match pidfile::read(&path).map_err(files("read", &path))? {
            Some(note) => {
                matches!(pidfile::holder(note.pid), PidHolder::Other | PidHolder::Corpse)
            }
            None => true,
        };
        if misleading {
            std::fs::remove_file(&path).map_err(files("remove", &path))?;
        }
    }
    Ok(())
}

/// The directory of the socket if the server is ready; its state if it is not.
///
/// A running server says where its socket is. That and our own idea can differ where
/// two users of the data directory have different TMPDIRs. It also says whether it
/// is still starting, so that a long recovery does not log our every try.
async fn knock(dirs: &ClusterDirs) -> Result<Result<PathBuf, String>, EmbeddedError> {
    let (sockets, state) = match read_note(dirs)? {
        Some(note) => (note.sockets.unwrap_or_else(|| dirs.sockets.clone()), note.state),
        None => (dirs.sockets.clone(), String::new()),
    };
    if !state.is_empty() && state != READY {
        return Ok(Err(state));
    }
    Ok(match ask(&sockets).await? {
        None => Ok(sockets),
        Some(state) => Err(state),
    })
}

/// Asks the server whether it is ready; the state if it is not.
async fn ask(sockets: &Path) -> Result<Option<String>, EmbeddedError> {
    match timeout(CONNECT_WAIT, session::ask(sockets)).await {
        Ok(Answer::Ready) => Ok(None),
        Ok(Answer::NotYet(state)) => Ok(Some(state)),
        Ok(Answer::Refused(source)) => {
            Err(EmbeddedError::Refused { sockets: sockets.to_owned(), source })
        }
        Err(_) => Ok(Some(format!("no answer within {} s", CONNECT_WAIT.as_secs()))),
    }
}

fn read_note(dirs: &ClusterDirs) -> Result<Option<pidfile::Note>, EmbeddedError> {
    let path = pidfile::path(&dirs.cluster());
    pidfile::read(&path).map_err(files("read", &path))
}

fn not_ready(dirs: &ClusterDirs, state: String) -> EmbeddedError {
    EmbeddedError::NotReady {
        cluster: dirs.cluster(),
        waited_s: READY_WAIT.as_secs(),
        state,
        log: dirs.log(),
    }
}

/// Why the server ended: from what it said first, or, once it had opened its own
/// log, from there.
fn complaint(dirs: &ClusterDirs, status: ExitStatus) -> EmbeddedError {
    let log = dirs.start_log();
    let first = tail(&log).unwrap_or_default();
    let moved = first.contains("redirecting log output") && !first.contains("FATAL:");
    let (said, log) = match newest(&dirs.log()).filter(|_| moved) {
        Some(newest) => (tail(&newest).unwrap_or_default(), newest),
        None => (first, log),
    };
    let reason = match status.signal() {
        Some(signal) => killed_by(signal),
        None => last(&said),
    };
    EmbeddedError::Exited { cluster: dirs.cluster(), reason: with_room(dirs, reason), log }
}

fn killed_by(signal: i32) -> String {
    format!("it was killed by signal {signal}, by somebody or for want of memory")
}

/// What became of a server that answered before; `None` while it lives.
pub(super) fn end(
    dirs: &ClusterDirs,
    child: &mut Option<Child>,
) -> Result<Option<String>, EmbeddedError> {
    let status = match child {
        Some(child) => child.try_wait().map_err(files("watch", &dirs.cluster()))?,
        None => None,
    };
    let path = dirs.server_lock();
    let free = || {
        let lock = open_lock(dirs, &path)?;
        lock::attempt(&lock, Hold::Alone).map_err(files("lock", &path))
    };
    if status.is_none() && !free()? {
        return Ok(None);
    }
    let said = newest(&dirs.log()).and_then(|log| tail(&log).ok()).unwrap_or_default();
    // What it complained of before it was last ready is of another time.
    let said = said.rsplit("ready to accept connections").next().unwrap_or_default();
    let complained = ["FATAL:", "PANIC:"].iter().any(|word| said.contains(word));
    let reason = match status.and_then(|status| status.signal()) {
        Some(signal) => killed_by(signal),
        None if complained => last(said),
        None => "it left no word, as one that is killed".to_owned(),
    };
    Ok(Some(with_room(dirs, reason)))
}

/// A reason, and that there is no room: a server whose disk is full cannot even say so.
pub(super) fn with_room(dirs: &ClusterDirs, reason: String) -> String {
    match rustix::fs::statvfs(dirs.cluster()) {
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM_BYTES_MIN => {
            format!("{reason}; its disk is full: make room")
        }
        _ => reason,
    }
}

/// The end of a log.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut end = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// The file that was written to last.
fn newest(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    entries
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_directory_with_a_comma_or_a_quote_stays_one_directory() {
        let setting = sockets_setting(Path::new("/a,b\"c"));
        assert_eq!(setting, OsString::from("unix_socket_directories=\"/a,b\"\"c\""));
    }
}
