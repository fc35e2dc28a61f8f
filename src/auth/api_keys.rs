//! Whose an API key is: asked of whoever keeps them, and remembered for a while.
//!
//! Guarantees bounded memory, and few questions however many keys are made up: so many at one
//! time ([`QUESTIONS_MAX`]), each for a bounded time. A key that is in use is asked for again
//! within [`KNOWN_SECONDS`]; where nobody answers it goes on for [`AWAY_SECONDS_MAX`] from its last
//! answer, and one that is not known here is refused as what cannot be checked now. That a key
//! was revoked is not learnt so, but from the log, and holds at once ([`super::Revocations`]).

use std::collections::HashMap;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::api_key::{ApiKey, KeyHash, PREFIX};
use super::caller::Caller;
use super::claims::unauthorised;
use super::denied::Denied;
use super::revocations::Revocations;
use super::scope::Scopes;
use super::wards::Wards;

/// Keys after which those that were not seen meanwhile are forgotten.
const KEYS: usize = 4_096;
/// How long a key is known without another question.
const KNOWN_SECONDS: u64 = 60;
/// How long one that is known goes on while nobody answers.
const AWAY_SECONDS_MAX: u64 = 900;
/// The shortest time between two questions for one key that is known.
const ASK_AGAIN_SECONDS: u64 = 5;
/// Questions at one time.
const QUESTIONS_MAX: usize = 8;
/// How long one may take, with its wait for others.
const QUESTION_MS_MAX: u64 = 2_000;

/// What is kept of a key, by whoever keeps it.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// Its own name.
    pub id: String,
    /// Of its text.
    pub hash: KeyHash,
    /// Whose it is.
    pub tenant: String,
    /// What it may, with spaces between.
    pub scopes: String,
    /// If set, the one device that it is for.
    pub device: Option<String>,
    /// If set, the one patient.
    pub patient: Option<String>,
    /// If set, the wards.
    pub wards: Option<Vec<String>>,
    /// When it was made, and when it ceases to be good; milliseconds since 1970.
    pub made_ms: i64,
    /// See `made_ms`.
    pub expires_ms: Option<i64>,
    /// It was taken out of use.
    pub is_revoked: bool,
}

/// Nobody says which keys there are.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// An answer to the question for a key by its own name.
pub type Answer = Result<Option<StoredKey>, Unanswered>;
/// Who is asked.
pub type Ask = dyn Fn(String) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync;

/// By what name limits, logs and revocations know a key: as subject, and as `jti`.
pub fn subject(id: &str) -> String {
    format!("key:{id}")
}

/// The keys that are in use here.
pub struct ApiKeys {
    ask: Box<Ask>,
    known: Mutex<Seen>,
    questions: Semaphore,
}

#[derive(Default)]
struct Seen {
    lately: HashMap<String, Known>,
    before: HashMap<String, Known>,
}

#[derive(Clone)]
struct Known {
    hash: KeyHash,
    caller: Arc<Caller>,
    answered: Instant,
    ask_again: Instant,
    is_used: bool,
}

impl ApiKeys {
    /// None is known yet.
    pub fn new(ask: Box<Ask>) -> ApiKeys {
        ApiKeys { ask, known: Mutex::default(), questions: Semaphore::new(QUESTIONS_MAX) }
    }

    /// Whose key this is.
    pub(super) async fn caller(
        &self,
        text: &str,
        revocations: &Arc<Revocations>,
        now: Instant,
    ) -> Result<Arc<Caller>, Denied> {
        let key = ApiKey::read(text).ok_or_else(|| {
            unauthorised(format!("this is no API key: send all of it, as it was told ({PREFIX}…)"))
        })?;
        let (known, is_due) = self.known.lock().look(key.id(), now);
        if is_due {
            match self.asked(key.id()).await {
                Ok(Some(stored)) if !stored.is_revoked => {
                    let known = Known::of(stored, revocations, now);
                    self.known.lock().remember(key.id(), known);
                }
                Ok(_) => self.known.lock().forget(key.id()),
                Err(error) => {
                    tracing::warn!(%error, "an API key cannot be looked up");
                    known
                        .as_ref()
                        .filter(|known| known.lasts(now))
                        .ok_or(Denied::KeysUnavailable)?;
                }
            }
        }
        self.known.lock().used(&key).ok_or_else(|| {
            unauthorised("the API key is not known here, or was revoked: ask for another one")
        })
    }

    async fn asked(&self, id: &str) -> Answer {
        let question = async {
            let _turn = self.questions.acquire().await;
            (self.ask)(id.to_owned()).await
        };
        let limit = Duration::from_millis(QUESTION_MS_MAX);
        let late = |_| Err(Unanswered("no answer in time".to_owned()));
        timeout(limit, question).await.unwrap_or_else(late)
    }

    /// Which keys were used since this was last asked.
    pub fn take_used(&self) -> Vec<String> {
        let mut seen = self.known.lock();
        let Seen { lately, before } = &mut *seen;
        let all = lately.iter_mut().chain(before);
        let used = all.filter_map(|(id, known)| mem::take(&mut known.is_used).then(|| id.clone()));
        used.collect()
    }
}

impl Known {
    fn of(stored: StoredKey, revocations: &Arc<Revocations>, now: Instant) -> Known {
        let scopes = Scopes::read(&stored.scopes);
        let name = subject(&stored.id);
        let caller = Caller {
            scopes,
            device: stored.device,
            patient: stored.patient,
            wards: Wards::of_token(scopes, Vec::new(), stored.wards.as_deref()),
            token_id: Some(name.clone()),
            issued_ms: Some(stored.made_ms),
            expires_ms: stored.expires_ms.unwrap_or(i64::MAX),
            ..Caller::bare(stored.tenant.into(), name)
        };
        Known {
            hash: stored.hash,
            caller: Arc::new(caller.unless_in(revocations)),
            answered: now,
            ask_again: now + Duration::from_secs(KNOWN_SECONDS),
            is_used: false,
        }
    }

    fn lasts(&self, now: Instant) -> bool {
        now - self.answered < Duration::from_secs(AWAY_SECONDS_MAX)
    }
}

impl Seen {
    /// What is known of a key, and whether to ask: who is told so asks for all who come
    /// meanwhile.
    fn look(&mut self, id: &str, now: Instant) -> (Option<Known>, bool) {
        if !self.lately.contains_key(id)
            && let Some(known) = self.before.remove(id)
        {
            self.remember(id, known);
        }
        let Some(known) = self.lately.get_mut(id) else { return (None, true) };
        let is_due = now >= known.ask_again;
        if is_due {
            known.ask_again = now + Duration::from_secs(ASK_AGAIN_SECONDS);
        }
        (Some(known.clone()), is_due || !known.lasts(now))
    }

    fn remember(&mut self, id: &str, known: Known) {
        if self.lately.len() >= KEYS {
            self.before = mem::take(&mut self.lately);
        }
        let is_used = self.lately.get(id).is_some_and(|known| known.is_used) || known.is_used;
        self.lately.insert(id.to_owned(), Known { is_used, ..known });
    }

    fn forget(&mut self, id: &str) {
        self.lately.remove(id);
        self.before.remove(id);
    }

    /// Whose it is, if it is all of it.
    fn used(&mut self, key: &ApiKey) -> Option<Arc<Caller>> {
        let known = self.lately.get_mut(key.id()).filter(|known| known.hash.is_of(key))?;
        known.is_used = true;
        Some(known.caller.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn stored(key: &ApiKey) -> StoredKey {
        StoredKey {
            id: key.id().to_owned(),
            hash: key.hash(),
            tenant: "ward".to_owned(),
            scopes: "vitals:read".to_owned(),
            device: None,
            patient: None,
            wards: None,
            made_ms: 0,
            expires_ms: None,
            is_revoked: false,
        }
    }

    /// Keys, how often they were asked for, and whether anybody answers.
    fn keys(of: &ApiKey) -> (ApiKeys, Arc<AtomicUsize>, Arc<Mutex<bool>>) {
        let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(true)));
        let (stored, counted, answering) = (stored(of), asked.clone(), answers.clone());
        let ask = move |id: String| {
            counted.fetch_add(1, Ordering::Relaxed);
            let found = (id == stored.id).then(|| stored.clone());
            let answer = if *answering.lock() { Ok(found) } else { Err(Unanswered(String::new())) };
            Box::pin(async move { answer }) as Pin<Box<dyn Future<Output = Answer> + Send>>
        };
        (ApiKeys::new(Box::new(ask)), asked, answers)
    }

    async fn code(keys: &ApiKeys, text: &str, now: Instant) -> &'static str {
        keys.caller(text, &Arc::default(), now)
            .await
            .map_or_else(|denied| denied.code(), |_| "good")
    }

    #[tokio::test]
    async fn a_key_is_asked_for_once_a_minute_and_goes_on_for_a_while_when_nobody_answers() {
        let key = ApiKey::make(rand::random());
        let (keys, asked, answers) = keys(&key);
        let mut now = Instant::now();
        for _ in 0..10 {
            assert_eq!(code(&keys, key.text(), now).await, "good");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!((keys.take_used(), keys.take_used()), (vec![key.id().to_owned()], vec![]));
        now += Duration::from_secs(KNOWN_SECONDS);
        *answers.lock() = false;
        for _ in 0..10 {
            assert_eq!(code(&keys, key.text(), now).await, "good");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "not with each request");
        let other = ApiKey::make(rand::random());
        assert_eq!(code(&keys, other.text(), now).await, "keys_unavailable");
        now += Duration::from_secs(AWAY_SECONDS_MAX);
        assert_eq!(code(&keys, key.text(), now).await, "keys_unavailable");
        assert_eq!(code(&keys, key.text(), now).await, "keys_unavailable", "nor the second time");
        *answers.lock() = true;
        assert_eq!(code(&keys, key.text(), now).await, "good");
        assert_eq!(code(&keys, other.text(), now).await, "unauthorised");
        assert_eq!(code(&keys, &key.text()[1..], now).await, "unauthorised");
    }

    #[tokio::test]
    async fn another_secret_under_a_known_name_is_no_key() {
        let key = ApiKey::make([7; super::super::api_key::NUMBERS]);
        let mut numbers = [7; super::super::api_key::NUMBERS];
        numbers[20] = 8;
        let forged = ApiKey::make(numbers);
        assert_eq!(key.id(), forged.id());
        let ((keys, asked, _), now) = (keys(&key), Instant::now());
        assert_eq!(code(&keys, forged.text(), now).await, "unauthorised");
        assert!(keys.take_used().is_empty(), "nobody has used it");
        assert_eq!(code(&keys, key.text(), now).await, "good");
        assert_eq!(code(&keys, forged.text(), now).await, "unauthorised");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
