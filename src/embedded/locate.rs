//! Finds PostgreSQL's programs on this machine, and downloads them if there are none.
//!
//! Guarantees that what it returns was run, as the server's user, and said its
//! version; and that an existing cluster gets its own major version or an error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::dirs::ClusterDirs;
use super::download;
use super::error::{EmbeddedError, MAJOR_MIN};
use super::program;

/// The newest major version that is asked for by download.
const MAJOR_MAX: u32 = 18;
/// The major version that is downloaded for a new cluster.
const MAJOR_NEW: u32 = 17;
/// How long `postgres --version` may take.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// Where packages put the programs: a directory, how the names in it begin, and
/// what follows.
const ROOTS: [(&str, &str, &str); 8] = [
    // Debian and Ubuntu.
    ("/usr/lib/postgresql", "", "bin"),
    // Red Hat and PGDG.
    ("/usr", "pgsql-", "bin"),
    // Alpine.
    ("/usr/libexec", "postgresql", ""),
    // Gentoo.
    ("/usr/lib64", "postgresql-", "bin"),
    // Homebrew, on both kinds of Mac and on Linux.
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// One installation's programs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binaries {
    /// The directory with `postgres` and `initdb`.
    pub dir: PathBuf,
    /// Their major version.
    pub major: u32,
    /// Whether it was the first on PATH, and so somebody's choice.
    pub chosen: bool,
}

/// The programs for a cluster that was made by `needed`, or for a new cluster.
pub(super) async fn locate(
    dirs: &ClusterDirs,
    needed: Option<u32>,
) -> Result<Binaries, EmbeddedError> {
    let path = std::env::var_os("PATH");
    let found = found(dirs, path.as_deref()).await;
    if let Some(binaries) = choose(&found, needed) {
        return Ok(binaries.clone());
    }
    if found.is_empty() && dirs.closed()? {
        return Err(EmbeddedError::Closed { home: dirs.home.clone(), user: dirs.user() });
    }
    let wanted = needed.unwrap_or(MAJOR_NEW);
    let reason = if (MAJOR_MIN..=MAJOR_MAX).contains(&wanted) {
        match download::fetch(&dirs.downloads(), wanted, download::WAIT).await {
            Ok(dir) => match version(dirs, &dir).await {
                Some(major) => return Ok(Binaries { dir, major, chosen: false }),
                None => format!("{} does not run on this machine", dir.display()),
            },
            Err(reason) => reason,
        }
    } else {
        String::new()
    };
    Err(missing(dirs, needed, &found, reason))
}

/// Every installation on this machine that the server's user can run.
async fn found(dirs: &ClusterDirs, path: Option<&OsStr>) -> Vec<Binaries> {
    let on_path: Vec<PathBuf> =
        path.map(|p| std::env::split_paths(p).collect()).unwrap_or_default();
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    let downloads = dirs.downloads();
    let packaged = ROOTS.iter().flat_map(|(root, prefix, rest)| {
        under(Path::new(root), prefix).into_iter().map(move |dir| dir.join(rest))
    });
    let downloaded = under(&downloads, "").into_iter().map(|dir| dir.join("bin"));
    let first = on_path.len();
    for (n, dir) in on_path.into_iter().chain(packaged).chain(downloaded).enumerate() {
        let Some(dir) = programs(&dir).filter(|dir| !seen.contains(dir)) else { continue };
        seen.push(dir.clone());
        if let Some(major) = version(dirs, &dir).await {
            let chosen = n < first && !found.iter().any(|other: &Binaries| other.chosen);
            found.push(Binaries { dir, major, chosen });
        }
    }
    found
}

/// The subdirectories whose names begin like this.
fn under(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let mut dirs: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    dirs.sort();
    dirs
}

/// The directory where `postgres` and `initdb` really are, if both are here. PATH
/// often has links, and the programs look for their files beside themselves.
fn programs(dir: &Path) -> Option<PathBuf> {
    let whole = |dir: &Path| dir.join("postgres").is_file() && dir.join("initdb").is_file();
    let real = dir.join("postgres").canonicalize().ok()?;
    match real.parent() {
        Some(real) if whole(real) => Some(real.to_owned()),
        _ => whole(dir).then(|| dir.to_owned()),
    }
}

/// The major version that these programs say, if they run.
async fn version(dirs: &ClusterDirs, dir: &Path) -> Option<u32> {
    let mut command = program::command(dirs, &dir.join("postgres"));
    command.arg("--version").kill_on_drop(true);
    let output = timeout(VERSION_WAIT, command.output()).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `postgres (PostgreSQL) 15.13 (Debian …)`, also `18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let (_, number) = text.split_once(") ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number.get(..digits)?.parse().ok()
}

/// An old cluster gets its own major version; a new one what is first on PATH, else
/// the newest.
fn choose(found: &[Binaries], needed: Option<u32>) -> Option<&Binaries> {
    let fits = |one: &&Binaries| match needed {
        Some(major) => one.major == major && major >= MAJOR_MIN,
        None => one.major >= MAJOR_MIN,
    };
    found.iter().filter(fits).max_by_key(|one| (one.chosen, one.major))
}

fn missing(
    dirs: &ClusterDirs,
    needed: Option<u32>,
    found: &[Binaries],
    reason: String,
) -> EmbeddedError {
    let list: Vec<_> =
        found.iter().map(|one| format!("{} in {}", one.major, one.dir.display())).collect();
    let found = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    match needed {
        Some(needed) => {
            let tried = match reason.as_str() {
                "" => String::new(),
                reason => format!(", and the download from github.com failed ({reason})"),
            };
            EmbeddedError::Version { cluster: dirs.cluster(), needed, found, tried }
        }
        None => EmbeddedError::NoBinaries { found, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(major: u32, chosen: bool) -> Binaries {
        Binaries { dir: format!("/pg/{major}").into(), major, chosen }
    }

    #[test]
    fn versions_are_read_as_packagers_write_them() {
        let debian = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n";
        assert_eq!(parse_version(debian), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("postgres: no such thing"), None);
    }

    #[test]
    fn a_new_cluster_gets_what_path_says_and_else_the_newest() {
        let newest = [one(14, false), one(17, false), one(15, false)];
        assert_eq!(choose(&newest, None), Some(&newest[1]));
        let on_path = [one(15, true), one(17, false)];
        assert_eq!(choose(&on_path, None), Some(&on_path[0]));
        assert_eq!(choose(&[one(13, true)], None), None);
    }

    #[test]
    fn an_old_cluster_gets_its_own_major_or_none() {
        let found = [one(15, true), one(17, false)];
        assert_eq!(choose(&found, Some(17)), Some(&found[1]));
        assert_eq!(choose(&found, Some(16)), None);
        assert_eq!(choose(&[one(13, false)], Some(13)), None);
    }
}
