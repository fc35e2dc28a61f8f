//! Connections to the private server: how to make one, and what it answers.
//!
//! Guarantees that the database is there before anybody is told that the server is
//! ready.

use std::io;
use std::path::Path;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::cluster::ROLE;
use super::dirs::PORT;

/// The database that vitals uses.
const DATABASE: &str = "vitals";

/// Answers that pass: cannot_connect_now, admin_shutdown, crash_shutdown, and
/// object_in_use, while an earlier try to create the database still runs.
const PASSING: [&str; 4] = ["57P03", "57P01", "57P02", "55006"];

/// What a server said to somebody who knocked.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is up, and the database is there.
    Ready,
    /// No server yet, or one that is not ready: starting, recovering, stopping.
    NotYet(String),
    /// It is up and will not have us.
    Refused(sqlx::Error),
}

/// How to connect through the socket in this directory.
pub(super) fn options(sockets: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(sockets)
        .port(PORT)
        .username(ROLE)
        .database(DATABASE)
        .ssl_mode(PgSslMode::Disable)
}

/// Knocks, and creates the database if only that is missing.
pub(super) async fn ask(sockets: &Path) -> Answer {
    match knock(&options(sockets)).await {
        Ok(()) => Answer::Ready,
        // invalid_catalog_name: the cluster is new, or its first start was killed.
        Err(error) if code(&error).as_deref() == Some("3D000") => create(sockets).await,
        Err(error) => judge(error),
    }
}

async fn knock(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    connection.ping().await?;
    connection.close().await
}

async fn create(sockets: &Path) -> Answer {
    let create = async {
        let mut connection = options(sockets).database("postgres").connect().await?;
        sqlx::query("create database vitals").execute(&mut connection).await?;
        connection.close().await
    };
    match create.await {
        Ok(()) => Answer::Ready,
        // duplicate_database: an earlier try was cut off and yet succeeded.
        Err(error) if code(&error).as_deref() == Some("42P04") => Answer::Ready,
        Err(error) => judge(error),
    }
}

/// What it means that somebody was not answered so.
pub(super) fn judge(error: sqlx::Error) -> Answer {
    match &error {
        sqlx::Error::Io(source) if source.kind() != io::ErrorKind::PermissionDenied => {
            Answer::NotYet(source.to_string())
        }
        // The connection was cut while we were talking: it is stopping.
        sqlx::Error::Protocol(said) => Answer::NotYet(said.clone()),
        _ if code(&error).is_some_and(|code| PASSING.contains(&code.as_str())) => {
            Answer::NotYet(error.to_string())
        }
        _ => Answer::Refused(error),
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}
