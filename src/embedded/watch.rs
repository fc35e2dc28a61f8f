//! Watches the private PostgreSQL while it is used, and starts it again.
//!
//! Guarantees that a server that has ended (killed, without memory, without room on its
//! disk) is started again, at first at once and then after pauses that grow, and that each
//! time a line says what became of it; and that who asks learns meanwhile that it is away,
//! and in the end that it did not come back within the limit.
//!
//! Does not end a server that lives and does not answer: it may be recovering, and
//! PostgreSQL itself starts what it lost of its processes. Of several vitals on one data
//! directory one starts it, and the others find it there.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::error::EmbeddedError;
use super::server::{self, Reached};
use super::session::{self, Answer};
use super::share::{Embedded, turn};

/// How often the server is asked whether it lives.
const LOOK_MS: u64 = 250;
/// A server that says nothing for so long is away.
const ANSWER_MS_MAX: u64 = 10_000;
/// The pause after the first start that failed; each further one is twice as long.
const PAUSE_MS_MIN: u64 = 250;
/// The longest pause between two starts: who makes room need not wait long.
const PAUSE_MS_MAX: u64 = 5_000;

/// Why the server does not answer now, in words that are good for anybody; `None` while it
/// does.
pub type Away = watch::Receiver<Option<String>>;

/// Watching goes on until this is dropped.
#[derive(Debug)]
pub struct Watch {
    away: Away,
    lost: Away,
    task: JoinHandle<()>,
}

impl Watch {
    /// Why it does not answer, at any time.
    pub fn away(&self) -> Away {
        self.away.clone()
    }

    /// Waits until the server has stayed away for longer than the limit; why.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        let told = lost.wait_for(Option::is_some).await;
        let why = told.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| "nobody watches the database any more".to_owned())
    }

    /// Watches no more, and is at nothing any more when this returns.
    pub async fn end(mut self) {
        self.task.abort();
        // That it was aborted is what was asked for.
        let _aborted = (&mut self.task).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Embedded {
    /// Begins to watch the server. It may be away for `limit` at most.
    pub fn watch(self: &Arc<Self>, limit: Duration) -> Watch {
        let ((tell, away), (give_up, lost)) = (watch::channel(None), watch::channel(None));
        let embedded = self.clone();
        let task = tokio::spawn(async move {
            let why = embedded.keep_up(limit, tell).await;
            give_up.send_replace(Some(why));
        });
        Watch { away, lost, task }
    }

    /// Keeps the server up until it cannot be had back; why.
    async fn keep_up(
        self: Arc<Self>,
        limit: Duration,
        tell: watch::Sender<Option<String>>,
    ) -> String {
        loop {
            let state = self.until_away().await;
            let (since, mut pause) = (Instant::now(), Duration::ZERO);
            let (mut why, mut told) = match self.end_of_it() {
                Some(end) => (end, "it has ended"),
                None => (state, "it does not answer"),
            };
            loop {
                tell.send_replace(Some(server::with_room(&self.dirs, told.to_owned())));
                tracing::error!(reason = why, "the embedded database is away");
                let left = limit.saturating_sub(since.elapsed());
                if left <= pause {
                    let seconds = limit.as_secs_f64();
                    return format!("it did not come back within {seconds} s: {why}");
                }
                sleep(pause).await;
                pause = (pause * 2).clamp(
                    Duration::from_millis(PAUSE_MS_MIN),
                    Duration::from_millis(PAUSE_MS_MAX),
                );
                match timeout(left, self.bring_back()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => (why, told) = (error.to_string(), "it does not start"),
                    Err(_) => {}
                }
            }
            tell.send_replace(None);
            let seconds = since.elapsed().as_secs_f64();
            tracing::warn!("the embedded database is back after {seconds:.1} s");
        }
    }

    /// Returns when a new connection is not answered either; what is said instead.
    async fn until_away(&self) -> String {
        let mut connection: Option<PgConnection> = None;
        loop {
            let is_new = connection.is_none();
            let kept = connection.take();
            let answer = async {
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => session::options(&self.sockets).connect().await?,
                };
                connection.ping().await?;
                Ok(connection)
            };
            match timeout(Duration::from_millis(ANSWER_MS_MAX), answer).await {
                Ok(Ok(answered)) => connection = Some(answered),
                // It may only have ended this one.
                _ if !is_new => continue,
                Ok(Err(error)) => {
                    if let Answer::NotYet(state) = session::judge(error) {
                        return state;
                    }
                }
                Err(_) => return format!("it says nothing for {} s", ANSWER_MS_MAX / 1_000),
            }
            sleep(Duration::from_millis(LOOK_MS)).await;
        }
    }

    /// What became of it, if no process of it lives.
    fn end_of_it(&self) -> Option<String> {
        let mut child = self.child.lock();
        match server::end(&self.dirs, &mut child) {
            Ok(end) => end,
            Err(error) => {
                tracing::error!(%error, "it is not known what became of the embedded database");
                None
            }
        }
    }

    /// Joins it, or starts it. Where its socket is must not change: it is where everybody
    /// looks.
    async fn bring_back(&self) -> Result<(), EmbeddedError> {
        let _turn = turn(&self.data_dir).await?;
        let Reached { sockets, child } = match server::reach(&self.dirs, &self.settings).await {
            // Whoever refuses is there.
            Err(EmbeddedError::Refused { .. }) => return Ok(()),
            reached => reached?,
        };
        if child.is_some() {
            *self.child.lock() = child;
        }
        if sockets != self.sockets {
            return Err(EmbeddedError::Moved { from: self.sockets.clone(), to: sockets });
        }
        Ok(())
    }
}
