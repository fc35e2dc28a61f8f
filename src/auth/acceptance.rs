//! Whose claims are taken, and what they come to here.
//!
//! Guarantees that a [`Caller`] is made of verified claims by the operator's map as it is when
//! the token is first met, and that a map which changes is noticed without a restart, within
//! [`FILE_SECONDS`]: what was remembered by the old one is forgotten. A map that cannot be read
//! leaves the last one in force, and this is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde_json::{Map, Value};

use super::caller::Caller;
use super::claims::{Claims, unauthorised};
use super::denied::Denied;
use super::file;
use super::revocations::Revocations;
use super::roles::{Granted, RoleMap};

/// How often the map's file is looked at.
const FILE_SECONDS: u64 = 2;
/// The largest map.
const MAP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}", path = path.display())]
pub struct RoleFileError {
    path: PathBuf,
    why: String,
}

/// Whose claims are taken.
#[derive(Debug, Default)]
pub struct Acceptance {
    /// Who may make tokens; empty: anybody who has the key.
    pub(super) issuers: Vec<String>,
    /// By how much clocks may be apart.
    pub(super) leeway: Duration,
    roles: Option<RoleFile>,
    pub(super) revocations: Arc<Revocations>,
}

#[derive(Debug)]
struct RoleFile {
    path: PathBuf,
    read: RwLock<(Vec<u8>, Arc<RoleMap>)>,
}

impl Acceptance {
    /// Of these issuers (none: of any), whose clocks may be so far apart from ours.
    pub fn new(issuers: &[String], leeway: Duration) -> Acceptance {
        Acceptance { issuers: issuers.to_vec(), leeway, ..Acceptance::default() }
    }

    /// The same with a map of roles, which has to be there now.
    pub async fn with_roles(self, path: PathBuf) -> Result<Acceptance, RoleFileError> {
        let text = file::read(&path, MAP_BYTES_MAX).await.map_err(|error| fault(&path, error))?;
        let map = Arc::new(parse(&path, &text)?);
        Ok(Acceptance { roles: Some(RoleFile { path, read: RwLock::new((text, map)) }), ..self })
    }

    /// Who these claims are about.
    pub fn caller(&self, claims: Map<String, Value>) -> Result<Caller, Denied> {
        self.judged(claims, &self.issuers)
    }

    /// The same of who signed in: by whom is a configuration of its own.
    pub fn signed_in(&self, claims: Map<String, Value>) -> Result<Caller, Denied> {
        self.judged(claims, &[])
    }

    fn judged(&self, claims: Map<String, Value>, issuers: &[String]) -> Result<Caller, Denied> {
        let granted = match self.map() {
            Some(map) => map.granted(&claims).map_err(|two| unauthorised(two.to_string()))?,
            None => Granted::default(),
        };
        let claims: Claims = serde_json::from_value(Value::Object(claims))
            .map_err(|error| unauthorised(format!("the token's claims cannot be read: {error}")))?;
        let caller = Caller::of(claims, granted, issuers)?;
        Ok(caller.unless_in(&self.revocations))
    }

    /// See `leeway`.
    pub(super) fn leeway_ms(&self) -> i64 {
        i64::try_from(self.leeway.as_millis()).unwrap_or(i64::MAX)
    }

    /// The map that is in force.
    pub fn map(&self) -> Option<Arc<RoleMap>> {
        self.roles.as_ref().map(|file| file.read.read().1.clone())
    }

    /// Looks at the file for ever; `changed` is called after each change.
    pub async fn keep(&self, changed: impl Fn()) {
        let Some(file) = &self.roles else { return std::future::pending().await };
        let mut failed = None;
        loop {
            tokio::time::sleep(Duration::from_secs(FILE_SECONDS)).await;
            match file.look().await {
                Ok(false) => failed = None,
                Ok(true) => {
                    failed = None;
                    changed();
                    tracing::info!("the map of roles was read anew");
                }
                Err(error) => {
                    let said = Some(error.to_string());
                    if said != failed {
                        tracing::error!(%error, "the last map of roles stays: this one cannot be used");
                        failed = said;
                    }
                }
            }
        }
    }
}

impl RoleFile {
    /// Whether it has changed.
    async fn look(&self) -> Result<bool, RoleFileError> {
        let read = file::read(&self.path, MAP_BYTES_MAX).await;
        let text = read.map_err(|error| fault(&self.path, error))?;
        if text == self.read.read().0 {
            return Ok(false);
        }
        let map = Arc::new(parse(&self.path, &text)?);
        *self.read.write() = (text, map);
        Ok(true)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<RoleMap, RoleFileError> {
    let text = std::str::from_utf8(text).map_err(|error| fault(path, error))?;
    RoleMap::parse(text).map_err(|error| fault(path, error))
}

fn fault(path: &Path, why: impl ToString) -> RoleFileError {
    RoleFileError { path: path.to_owned(), why: why.to_string() }
}
