//! `postmaster.pid`, the server's note of itself.
//!
//! Guarantees only what the file says; whether the process is still there is asked
//! separately, because after a crash the note stays.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

/// What the server noted.
#[derive(Debug, PartialEq)]
pub(super) struct Note {
    /// The postmaster's process id.
    pub pid: i32,
    /// Where it put its socket, once it had one.
    pub sockets: Option<PathBuf>,
    /// "starting", "ready", "stopping"; empty while it has not said.
    pub state: String,
}

/// What kind of process has a process id now.
#[derive(Debug, PartialEq)]
pub(super) enum PidHolder {
    /// A process of PostgreSQL's, or one we may not look at.
    Postgres,
    /// No process.
    Nobody,
    /// A dead process that its parent has not collected yet.
    Corpse,
    /// A living process that has nothing to do with PostgreSQL.
    Other,
}

/// The note in this file; none if there is none, or if it is unfinished. The lock
/// file beside the socket is written in the same way.
pub(super) fn read(path: &Path) -> io::Result<Option<Note>> {
    match std::fs::read(path) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the note is.
pub(super) fn path(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}

/// Lines: process id, data directory, start time, port, socket directory, more.
fn parse(text: &[u8]) -> Option<Note> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let pid: i32 = std::str::from_utf8(lines.next()?).ok()?.trim().parse().ok()?;
    // A single-user server, run by hand to mend something, notes itself as negative.
    let pid = pid.checked_abs()?;
    let sockets = lines.nth(3).filter(|line| !line.is_empty());
    let sockets = sockets.map(|line| OsString::from_vec(line.to_vec()).into());
    let state = lines.nth(2).unwrap_or_default();
    Some(Note { pid, sockets, state: String::from_utf8_lossy(state).trim().to_owned() })
}

/// Who has this process id now.
///
/// A thread's id counts as well, since `kill(2)` and so PostgreSQL take it for a
/// process: in a container that starts again, our own threads can have the id that
/// the server had before.
pub(super) fn holder(pid: i32) -> PidHolder {
    let Some(process) = Pid::from_raw(pid.max(0)) else { return PidHolder::Nobody };
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => named(&stat),
        Err(_) if test_kill_process(process) == Err(rustix::io::Errno::SRCH) => PidHolder::Nobody,
        Err(_) => PidHolder::Postgres,
    }
}

/// Reads `pid (name) state …`; the name may itself hold brackets.
fn named(stat: &str) -> PidHolder {
    let Some((name, rest)) = stat.split_once('(').and_then(|(_, after)| after.rsplit_once(')'))
    else {
        return PidHolder::Postgres;
    };
    match rest.trim_start().chars().next() {
        Some('Z' | 'X' | 'x') => PidHolder::Corpse,
        _ if name.starts_with("postgres") || name.starts_with("postmaster") => PidHolder::Postgres,
        _ => PidHolder::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_of_a_running_server_is_read() {
        let text =
            b"4711\n/d/postgres/data\n1700000000\n5432\n/d/postgres/run\n\n 12 4\nready   \n";
        let (sockets, state) = (Some("/d/postgres/run".into()), "ready".into());
        assert_eq!(parse(text), Some(Note { pid: 4711, sockets, state }));
    }

    #[test]
    fn an_unfinished_note_has_no_socket_and_an_empty_one_is_none() {
        let young = || Some(Note { pid: 4711, sockets: None, state: String::new() });
        let starting = parse(b"4711\n/d/postgres/data\n1700000000\n5432\n");
        assert_eq!(starting, young());
        assert_eq!(parse(b"-4711\n/d/postgres/data\n"), young());
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"nonsense\n"), None);
    }

    #[test]
    fn a_process_id_is_judged_by_who_has_it_now() {
        assert_eq!(named("12 (postgres) S 1 12"), PidHolder::Postgres);
        assert_eq!(named("12 (postgres) Z 1 12"), PidHolder::Corpse);
        assert_eq!(named("12 (tokio (rt) w) S 1 12"), PidHolder::Other);
        assert_eq!(holder(0), PidHolder::Nobody);
        assert_eq!(holder(-1), PidHolder::Nobody);
    }
}
