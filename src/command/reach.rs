//! The first connection: how long it is waited for, and what is said when there is none.
//!
//! Guarantees that a database that is away (nobody listens, it starts, it is a standby, a
//! proxy has none behind it) is waited for as long as was asked for, and that a line says
//! for what; that what does not pass by itself is said at once, with what mends it; and
//! that no password is in it.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::time::{Instant, sleep, timeout};

use super::error::Error;
use crate::log::roles::{Identity, identity};
use crate::log::takes_writes;

/// How long a connection may take before the database counts as unreachable.
const CONNECT_MS_MAX: u64 = 10_000;
/// Between two tries.
const PAUSE_MS: u64 = 250;
/// How often it is said that it is waited for.
const TELL_SECONDS: u64 = 5;
/// Answers that pass: cannot_connect_now, admin_shutdown, crash_shutdown,
/// too_many_connections, and those of the class of connections that fail.
const PASSING: [&str; 4] = ["57P03", "57P01", "57P02", "53300"];

/// A database by its URL.
pub fn options(url: &str) -> Result<PgConnectOptions, Error> {
    PgConnectOptions::from_str(url).map_err(|error| {
        let hosts = url.split('@').next_back().and_then(|rest| rest.split('/').next());
        let mend = match hosts {
            Some(hosts) if hosts.contains(',') => {
                ": several hosts are not understood, put a proxy before them"
            }
            _ => ": write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE",
        };
        format!("the database URL cannot be read: {error}{mend}").into()
    })
}

/// Connects once, so that what is wrong is said now and clearly. Who we are there.
pub async fn reach(options: &PgConnectOptions, wait: Duration) -> Result<Identity, Error> {
    let (began, mut told) = (Instant::now(), None::<Instant>);
    loop {
        let asked = timeout(Duration::from_millis(CONNECT_MS_MAX), ask(options)).await;
        let (why, passes) = match asked {
            Ok(Ok(Some(identity))) => return Ok(identity),
            Ok(Ok(None)) => ("it is a standby, and takes no writes".to_owned(), true),
            Ok(Err(error)) => (said(&error), passes(&error)),
            Err(_) => (format!("no answer within {CONNECT_MS_MAX} ms"), true),
        };
        let place = place(options);
        if !passes || began.elapsed() >= wait {
            return Err(format!("the database at {place} cannot be reached: {why}").into());
        }
        if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(TELL_SECONDS)) {
            let left = wait.saturating_sub(began.elapsed()).as_secs();
            tracing::warn!("waiting for the database at {place}, {left} s more: {why}");
            told = Some(Instant::now());
        }
        sleep(Duration::from_millis(PAUSE_MS)).await;
    }
}

/// Who we are; `None` where nothing can be written.
async fn ask(options: &PgConnectOptions) -> Result<Option<Identity>, sqlx::Error> {
    let mut connection = options.connect().await?;
    match takes_writes(&mut connection).await? {
        true => identity(&mut connection).await.map(Some),
        false => Ok(None),
    }
}

/// Where a database is: nothing of it is secret.
fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{}, {database}", socket.display()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

/// Whether it may be over soon.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        // What answers is no PostgreSQL: a proxy that has none behind it, or closes at once.
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| PASSING.contains(&&*code) || code.starts_with("08"))
        }
        _ => false,
    }
}

/// What is wrong, and what mends it.
fn said(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(database) = error else { return error.to_string() };
    let message = database.message();
    match database.code().as_deref() {
        Some("3D000") => format!("{message}: create it (createdb), or name another one"),
        Some("28P01" | "28000") => {
            format!("{message}: give the right user and password in the database URL")
        }
        _ => message.to_owned(),
    }
}

/// A message as a person reads it: PostgreSQL's errors come with a line of its own source,
/// which looks like one of somebody's file.
pub fn without_lines(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(sqlx::Error::Database(database)) = error.downcast_ref::<sqlx::Error>() {
            text = text.replace(&database.to_string(), database.message());
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_without_its_password() {
        let options = options("postgres://u:pass-w0rd@127.0.0.1:1/vitals").unwrap();
        assert_eq!(place(&options), "127.0.0.1:1/vitals");
        let said = super::options("postgres://u:pass-w0rd@a:1,b:2/vitals").unwrap_err();
        assert!(said.to_string().contains("proxy"), "{said}");
        assert!(!said.to_string().contains("pass-w0rd"), "{said}");
    }

    #[test]
    fn who_is_not_there_may_come_and_who_is_unknown_will_not() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(passes(&sqlx::Error::Io(refused)));
        let said = "unexpected response from SSLRequest: 0x00".to_owned();
        assert!(passes(&sqlx::Error::Protocol(said)));
        assert!(!passes(&sqlx::Error::Configuration("no".into())));
    }
}
