//! Sessions: who signed in, over requests, instances and restarts.
//!
//! Guarantees that a session is known by a secret of which the database has only the hash;
//! that it is over [`SESSION_HOURS_MAX`] after it began, after [`IDLE_MINUTES_MAX`] without a
//! request, and for whatever is asked from its end on, on every instance; that a stream
//! which it opened ends with it, on other instances within [`ENDED_MS`] and the stream's next
//! sign of life; and that what its claims stand for is what the map of roles says when it is
//! asked. Does not know cookies, and does not ask the provider again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use super::caller::Caller;
use super::claims::unauthorised;
use super::denied::Denied;
use super::keys::Keys;
use crate::clock::Clock;

/// The longest session: a shift.
pub const SESSION_HOURS_MAX: i64 = 12;
/// The longest time between two requests of a session; an open page asks once a minute.
pub const IDLE_MINUTES_MAX: i64 = 30;
/// How often it is written down that a session was used.
const SEEN_SECONDS: i64 = 60;
/// Sessions of a subject at one time; one more ends the oldest.
const SESSIONS_OF_SUBJECT_MAX: i64 = 20;
/// How often a process looks which sessions ended elsewhere.
const ENDED_MS: u64 = 1_000;
/// What such a look takes in again, for a commit that took its time.
const ENDED_AGAIN_SECONDS: u64 = 10;

/// What a browser holds of its session.
pub type SessionSecret = [u8; 32];

/// The sessions of an installation; cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    pool: PgPool,
    keys: Keys,
    clock: Clock,
}

/// Somebody who is signed in.
pub struct Session {
    /// Who they are, and what they may by now.
    pub caller: Caller,
    /// What they call themselves.
    pub name: String,
    /// When it is over at the latest.
    pub ends_at: DateTime<Utc>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// PostgreSQL said no, or is gone.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// Over, or never was; or their claims stand for nobody.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// Their claims give them nothing to do here.
    #[error("{0} has no role here")]
    NoRole(String),
}

#[derive(FromRow)]
struct Row {
    tenant: String,
    claims: Json<Map<String, Value>>,
    seen_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
}

impl Sessions {
    /// Sessions of whoever these keys know, in the database of this pool.
    pub fn new(pool: PgPool, keys: Keys, clock: Clock) -> Sessions {
        Sessions { pool, keys, clock }
    }

    /// Begins one with claims that were verified just now, and says what its browser has to
    /// hold. Its own times and name take the place of the token's.
    pub async fn begin(
        &self,
        mut claims: Map<String, Value>,
    ) -> Result<(SessionSecret, Session), SessionError> {
        let (secret, id): (SessionSecret, Uuid) = (rand::random(), Uuid::new_v4());
        let now = self.clock.now();
        let ends_at = now + TimeDelta::hours(SESSION_HOURS_MAX);
        claims.remove("nbf");
        claims.insert("iat".to_owned(), seconds(now));
        claims.insert("exp".to_owned(), seconds(ends_at));
        claims.insert("jti".to_owned(), id.to_string().into());
        let caller = self.keys.signed_in(claims.clone())?;
        if caller.scopes.list().next().is_none() {
            return Err(SessionError::NoRole(caller.subject));
        }
        let name = called(&claims).unwrap_or(&caller.subject).to_owned();
        sqlx::query(include_str!("begin_session.sql"))
            .bind(hash(&secret))
            .bind(id)
            .bind(&*caller.tenant)
            .bind(&caller.subject)
            .bind(Value::Object(claims).to_string())
            .bind(now)
            .bind(ends_at)
            .bind(SESSIONS_OF_SUBJECT_MAX)
            .execute(&self.pool)
            .await?;
        Ok((secret, Session { caller, name, ends_at }))
    }

    /// Whose session it is, which counts as used by that.
    pub async fn find(&self, secret: &SessionSecret) -> Result<Session, SessionError> {
        let now = self.clock.now();
        let row: Option<Row> = sqlx::query_as(
            "select tenant, claims, seen_at, ends_at from session \
             where id = $1 and ended_at is null and ends_at > $2 and seen_at > $3",
        )
        .bind(hash(secret))
        .bind(now)
        .bind(now - TimeDelta::minutes(IDLE_MINUTES_MAX))
        .fetch_optional(&self.pool)
        .await?;
        let over = || unauthorised("the session has ended: sign in again");
        let Row { tenant, claims: Json(claims), seen_at, ends_at } = row.ok_or_else(over)?;
        let name = called(&claims).map(str::to_owned);
        let caller = self.keys.signed_in(claims)?;
        if *caller.tenant != *tenant {
            // The map was changed: what it says now is for who signs in now.
            return Err(over().into());
        }
        if now - seen_at >= TimeDelta::seconds(SEEN_SECONDS) {
            let seen = "update session set seen_at = $2 where id = $1 and seen_at < $2";
            sqlx::query(seen).bind(hash(secret)).bind(now).execute(&self.pool).await?;
        }
        let name = name.unwrap_or_else(|| caller.subject.clone());
        Ok(Session { caller, name, ends_at })
    }

    /// Ends one; nothing if it is over.
    pub async fn end(&self, secret: &SessionSecret) -> Result<(), sqlx::Error> {
        let ended: Option<(String, Uuid, DateTime<Utc>)> = sqlx::query_as(
            "update session set ended_at = clock_timestamp() where id = $1 and ended_at is null \
             returning tenant, name, ends_at",
        )
        .bind(hash(secret))
        .fetch_optional(&self.pool)
        .await?;
        self.know(ended);
        Ok(())
    }

    /// Learns of those that other processes end, for ever.
    pub async fn follow_ended(self) {
        let mut looked: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let since = looked.map_or(Duration::ZERO, |at| at.elapsed());
            match self.ended_within(since.as_secs() + ENDED_AGAIN_SECONDS).await {
                Ok(ended) => {
                    self.know(ended);
                    looked = Some(began);
                    self.keys.revocations().forget_before(self.clock.now().timestamp_millis());
                }
                Err(error) => {
                    tracing::warn!(%error, "which sessions ended elsewhere is not known; asking again");
                }
            }
            tokio::time::sleep(Duration::from_millis(ENDED_MS)).await;
        }
    }

    async fn ended_within(
        &self,
        seconds: u64,
    ) -> Result<Vec<(String, Uuid, DateTime<Utc>)>, sqlx::Error> {
        sqlx::query_as(
            "select tenant, name, ends_at from session \
             where ended_at > clock_timestamp() - make_interval(secs => $1)",
        )
        .bind(seconds as f64)
        .fetch_all(&self.pool)
        .await
    }

    /// For what lasts longer than a request.
    fn know(&self, ended: impl IntoIterator<Item = (String, Uuid, DateTime<Utc>)>) {
        for (tenant, name, ends_at) in ended {
            let revocations = self.keys.revocations();
            revocations.end(&tenant, name.to_string(), ends_at.timestamp_millis());
        }
    }
}

fn hash(secret: &SessionSecret) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

/// To the millisecond, as claims have it.
fn seconds(at: DateTime<Utc>) -> Value {
    json!(at.timestamp_millis() as f64 / 1_000.0)
}

/// What people call who these claims are about.
fn called(claims: &Map<String, Value>) -> Option<&str> {
    let said = ["name", "preferred_username", "email"].map(|claim| claims.get(claim)?.as_str());
    said.into_iter().flatten().find(|name| !name.trim().is_empty())
}
