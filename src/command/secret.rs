//! The secret that tokens are signed with, the key that webhooks' secrets are sealed with, and
//! what an identity provider knows us by.
//!
//! Guarantees that a secret which was made here is readable by its owner only, that two
//! processes that start at once end up with the same one, and that none is made where
//! another instance could not know it: beside a database that others may use as well.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::error::Error;
use crate::auth::jwks::Jwks;
use crate::auth::{Acceptance, Keys, SECRET_BYTES_MIN};
use crate::clock::Clock;
use crate::config::{Common, Serving};
use crate::delivery::seal::Seal;

const VARIABLE: &str = "VITALS_JWT_SECRET";
const FILE: &str = "jwt-secret";
const SEAL_VARIABLE: &str = "VITALS_SECRETS_KEY";
const SEAL_FILE: &str = "secrets-key";
const OIDC_VARIABLE: &str = "VITALS_OIDC_CLIENT_SECRET";
const OIDC_FILE: &str = "oidc-client-secret";
/// The part of a file's mode that is about everybody.
const OTHERS: u32 = 0o007;

/// The keys: of the environment, else of the data directory, where they are made beside
/// an embedded database when there are none. Beside another database they are not: the
/// next instance would refuse their tokens.
pub fn keys(common: &Common) -> Result<Keys, Error> {
    let secret = match std::env::var(VARIABLE) {
        Ok(secret) => secret,
        Err(std::env::VarError::NotPresent) => {
            let found = common.data_dir.join(FILE);
            if common.database_url.is_some() && !found.exists() {
                return Err(format!(
                    "beside a database of your own all instances need one token secret: set \
                     {VARIABLE} to the same {SECRET_BYTES_MIN} random bytes or more for each (or put \
                     them into {}), or verify the tokens of others with --jwks",
                    found.display()
                )
                .into());
            }
            of_data_dir(&common.data_dir, FILE)?
        }
        Err(error) => return Err(format!("{VARIABLE}: {error}").into()),
    };
    Ok(Keys::hs256(secret.as_bytes(), Clock::system())?)
}

/// What a server lets in: with a JWKS its keys, and our secret only if it was given; else
/// our secret. Of the issuers alone that are named.
pub async fn serving_keys(common: &Common, serving: &Serving) -> Result<Keys, Error> {
    let found = match &serving.jwks {
        None => keys(common)?,
        Some(source) => {
            let set = Jwks::open(source).await?;
            match std::env::var_os(VARIABLE) {
                Some(_) => keys(common)?.with_jwks(set),
                None => Keys::jwks(set, Clock::system()),
            }
        }
    };
    let acceptance = Acceptance::new(&serving.jwt_issuer, serving.jwt_leeway);
    Ok(found.accepting(match &serving.jwt_roles {
        Some(path) => acceptance.with_roles(path.clone()).await?,
        None => acceptance,
    }))
}

/// What the identity provider knows us by, beside our name: of the environment, else of the data
/// directory. None: a public client.
pub fn oidc_client_secret(common: &Common) -> Result<Option<String>, Error> {
    match std::env::var(OIDC_VARIABLE) {
        Ok(secret) => Ok(Some(secret.trim().to_owned()).filter(|secret| !secret.is_empty())),
        Err(std::env::VarError::NotPresent) if common.data_dir.join(OIDC_FILE).exists() => {
            of_data_dir(&common.data_dir, OIDC_FILE).map(Some)
        }
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("{OIDC_VARIABLE}: {error}").into()),
    }
}

/// What webhooks' secrets are sealed with: the keys of the environment, separated by
/// commas, of which the first seals and all open; else the one of the data directory,
/// where it is made beside an embedded database. Beside another database it is not: the
/// next instance would have another one. Then they stay readable, and that is said.
pub fn seal(common: &Common) -> Result<Seal, Error> {
    let given = match std::env::var(SEAL_VARIABLE) {
        Ok(keys) => keys,
        Err(std::env::VarError::NotPresent) => String::new(),
        Err(error) => return Err(format!("{SEAL_VARIABLE}: {error}").into()),
    };
    let found = common.data_dir.join(SEAL_FILE);
    let keys = match given.trim() {
        "" if common.database_url.is_none() || found.exists() => {
            of_data_dir(&common.data_dir, SEAL_FILE)?
        }
        "" => {
            tracing::warn!(
                "webhooks' secrets lie readable in the database: set {SEAL_VARIABLE}, the same for every \
                 instance, and they are sealed"
            );
            String::new()
        }
        given => given.to_owned(),
    };
    let keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty());
    Seal::new(keys).map_err(|error| format!("{SEAL_VARIABLE}: {error}").into())
}

fn of_data_dir(data_dir: &Path, file: &str) -> Result<String, Error> {
    let path = data_dir.join(file);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    match fs::read_to_string(&path) {
        Ok(secret) => {
            let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
            check_private(&path, mode)?;
            return Ok(secret.trim().to_owned());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error).into()),
    }
    fs::create_dir_all(data_dir).map_err(failed)?;
    // Written aside and then linked: whoever comes second finds a whole file.
    let aside = data_dir.join(format!("{file}.{}", std::process::id()));
    write_new(&aside).map_err(failed)?;
    let linked = fs::hard_link(&aside, &path);
    fs::remove_file(&aside).map_err(failed)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error).into()),
        _ => Ok(fs::read_to_string(&path).map_err(failed)?.trim().to_owned()),
    }
}

/// Whoever can read the secret can be anybody.
fn check_private(path: &Path, mode: u32) -> Result<(), Error> {
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let (path, mode) = (path.display(), mode & 0o777);
    let text = format!(
        "{path} is open to every user of this machine (mode {mode:o}): chmod 600 {path}; if somebody \
         may have read it, put a new one in its place"
    );
    Err(text.into())
}

fn write_new(path: &Path) -> std::io::Result<()> {
    let random: [u8; 48] = rand::random();
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(STANDARD_NO_PAD.encode(random).as_bytes())?;
    file.sync_all()
}
