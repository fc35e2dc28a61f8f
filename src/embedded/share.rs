//! A share in the server of a data directory: joined, started or created, and left again.

use parking_lot::Mutex;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::process::Child;
use tokio::task::spawn_blocking;

use super::dirs::ClusterDirs;
use super::error::{EmbeddedError, files};
use super::lock::{self, Hold};
use super::server::{self, Reached};
use super::session;

/// How long to wait for another vitals that is starting or stopping the server; it
/// may be downloading PostgreSQL, and then recovering.
const TURN_WAIT: Duration = Duration::from_secs(360);

/// A share in the server of a data directory.
#[derive(Debug)]
pub struct Embedded {
    pub(super) data_dir: PathBuf,
    pub(super) dirs: ClusterDirs,
    pub(super) sockets: PathBuf,
    pub(super) settings: Vec<(String, String)>,
    /// The server, if we have started it.
    pub(super) child: Mutex<Option<Child>>,
    /// Held for as long as we use the server.
    pub(super) users: File,
}

impl Embedded {
    /// Joins the server of this data directory, or starts it, or first creates it.
    ///
    /// # Errors
    /// See [`EmbeddedError`]; nothing is half done that a second call would not mend.
    pub async fn start(data_dir: &Path) -> Result<Embedded, EmbeddedError> {
        Embedded::start_with(data_dir, &[]).await
    }

    /// The same with further settings of `postgresql.conf`, which count only if this
    /// call starts the server.
    pub async fn start_with(
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Embedded, EmbeddedError> {
        let data_dir = open_data_dir(data_dir).await?;
        let _turn = turn(&data_dir).await?;
        let dirs = prepare(&data_dir).await?;
        let path = dirs.users_lock();
        let users = server::open_lock(&dirs, &path)?;
        // Somebody holds it alone only while stopping, and then it is not our turn;
        // unless a copy of the data directory points to the same cluster.
        if !lock::within(&users, Hold::Shared, TURN_WAIT).await.map_err(files("lock", &path))? {
            return Err(EmbeddedError::Busy { data_dir, waited_s: TURN_WAIT.as_secs() });
        }
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings: Vec<_> = settings.iter().map(owned).collect();
        let Reached { sockets, child } = server::reach(&dirs, &settings).await?;
        let child = Mutex::new(child);
        Ok(Embedded { data_dir, dirs, sockets, settings, child, users })
    }

    /// How to connect to the database `vitals`, as its superuser.
    pub fn connect_options(&self) -> PgConnectOptions {
        session::options(&self.sockets)
    }

    /// Gives up this share. The last one out stops the server and waits until
    /// everything is written out.
    ///
    /// # Errors
    /// See [`EmbeddedError`]; the share is given up in any case.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        let _turn = turn(&self.data_dir).await?;
        let path = self.dirs.users_lock();
        if !lock::attempt(&self.users, Hold::Alone).map_err(files("lock", &path))? {
            tracing::debug!("others use the database, it stays up");
            return Ok(());
        }
        server::stop(&self.dirs, &self.sockets).await
    }
}

/// Creates the data directory if need be, and names it without links.
async fn open_data_dir(data_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    tokio::fs::create_dir_all(data_dir).await.map_err(files("create", data_dir))?;
    tokio::fs::canonicalize(data_dir).await.map_err(files("read", data_dir))
}

/// Waits for the right to start or stop the server, which ends with the file.
pub(super) async fn turn(data_dir: &Path) -> Result<File, EmbeddedError> {
    let path = data_dir.join("postgres.start.lock");
    let file = lock::open(&path).map_err(files("open", &path))?;
    if lock::attempt(&file, Hold::Alone).map_err(files("lock", &path))? {
        return Ok(file);
    }
    tracing::info!(data_dir = %data_dir.display(), "another vitals starts or stops the database");
    if lock::within(&file, Hold::Alone, TURN_WAIT).await.map_err(files("lock", &path))? {
        return Ok(file);
    }
    Err(EmbeddedError::Busy { data_dir: data_dir.to_owned(), waited_s: TURN_WAIT.as_secs() })
}

async fn prepare(data_dir: &Path) -> Result<ClusterDirs, EmbeddedError> {
    let data_dir = data_dir.to_owned();
    spawn_blocking(move || ClusterDirs::prepare(&data_dir)).await?
}
