//! Runs PostgreSQL's programs as the server's user.
//!
//! Guarantees a clean environment: no PG* variable of ours reaches them, messages
//! are in English, and the working directory is one that they can enter.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::dirs::ClusterDirs;
use super::error::EmbeddedError;

/// A command that runs as the server's user, in the cluster's home.
pub(super) fn command(dirs: &ClusterDirs, program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").current_dir(&dirs.home).stdin(Stdio::null());
    if let Some(who) = &dirs.account {
        command.uid(who.uid).gid(who.gid);
    }
    command
}

/// Names the program and the user, for `map_err`.
pub(super) fn spawning<'a>(
    dirs: &'a ClusterDirs,
    program: &'a Path,
) -> impl FnOnce(std::io::Error) -> EmbeddedError + 'a {
    move |source| EmbeddedError::Spawn {
        program: program.to_owned(),
        user: dirs.user(),
        dir: dirs.home.clone(),
        source,
    }
}
