//! The secret that tokens are signed with.
//!
//! Guarantees that a secret which was made here is readable by its owner only, and
//! that two processes that start at once end up with the same one.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::Error;
use crate::api::auth::Keys;
use crate::clock::Clock;
use crate::config::Common;

const VARIABLE: &str = "VITALS_JWT_SECRET";
const FILE: &str = "jwt-secret";

/// The keys: of the environment, else of the data directory, where they are made
/// when there are none.
pub fn keys(common: &Common) -> Result<Keys, Error> {
    let secret = match std::env::var(VARIABLE) {
        Ok(secret) => secret,
        Err(std::env::VarError::NotPresent) => of_data_dir(&common.data_dir)?,
        Err(error) => return Err(format!("{VARIABLE}: {error}").into()),
    };
    Ok(Keys::hs256(secret.as_bytes(), Clock::system())?)
}

fn of_data_dir(data_dir: &Path) -> Result<String, Error> {
    let path = data_dir.join(FILE);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    match fs::read_to_string(&path) {
        Ok(secret) => return Ok(secret.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error).into()),
    }
    fs::create_dir_all(data_dir).map_err(failed)?;
    // Written aside and then linked: whoever comes second finds a whole file.
    let aside = data_dir.join(format!("{FILE}.{}", std::process::id()));
    write_new(&aside).map_err(failed)?;
    let linked = fs::hard_link(&aside, &path);
    fs::remove_file(&aside).map_err(failed)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error).into()),
        _ => Ok(fs::read_to_string(&path).map_err(failed)?.trim().to_owned()),
    }
}

fn write_new(path: &Path) -> std::io::Result<()> {
    let random: [u8; 48] = rand::random();
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(STANDARD_NO_PAD.encode(random).as_bytes())?;
    file.sync_all()
}
