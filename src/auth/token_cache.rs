//! Tokens that a key has verified already: a device sends the same one with every reading.
//!
//! Guarantees bounded memory. Lives and dies with the keys that verified, so that a token
//! of a key that is gone is not found. Does not judge a token's times: they are judged
//! with every request.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::acceptance::Acceptance;
use super::caller::Caller;
use super::denied::Denied;

/// Tokens after which those that were not seen meanwhile are forgotten.
const TOKENS: usize = 4_096;
/// The longest token that is worth its memory; bytes.
const TOKEN_BYTES_MAX: usize = 2_048;

/// Who sends which token.
#[derive(Default)]
pub struct TokenCache(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    lately: HashMap<Box<str>, Arc<Caller>>,
    before: HashMap<Box<str>, Arc<Caller>>,
}

impl TokenCache {
    /// Whose token it is.
    pub fn get(&self, token: &str) -> Option<Arc<Caller>> {
        let mut seen = self.0.lock();
        if let Some(caller) = seen.lately.get(token) {
            return Some(caller.clone());
        }
        let (token, caller) = seen.before.remove_entry(token)?;
        seen.remember(token, caller.clone());
        Some(caller)
    }

    /// Whom a verified token's claims are about; remembered, unless what they mean has changed
    /// meanwhile.
    pub fn remember(
        &self,
        token: &str,
        claims: Map<String, Value>,
        acceptance: &Acceptance,
    ) -> Result<Arc<Caller>, Denied> {
        let before = acceptance.map();
        let caller = Arc::new(acceptance.caller(claims)?);
        self.put(token, &caller);
        let is_same = match (&before, &acceptance.map()) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => true,
        };
        if !is_same {
            self.clear();
        }
        Ok(caller)
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        *self.0.lock() = Seen::default();
    }

    /// Remembers a token that was verified.
    fn put(&self, token: &str, caller: &Arc<Caller>) {
        if token.len() <= TOKEN_BYTES_MAX {
            let mut seen = self.0.lock();
            seen.remember(token.into(), caller.clone());
        }
    }
}

impl Seen {
    fn remember(&mut self, token: Box<str>, caller: Arc<Caller>) {
        if self.lately.len() >= TOKENS {
            self.before = mem::take(&mut self.lately);
        }
        self.lately.insert(token, caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(subject: &str) -> Arc<Caller> {
        Arc::new(Caller::bare("ward".into(), subject.to_owned()))
    }

    #[test]
    fn who_is_seen_often_is_remembered_among_many() {
        let known = TokenCache::default();
        known.put("often", &caller("often"));
        for n in 0..10 * TOKENS {
            let token = format!("once-{n}");
            known.put(&token, &caller(&token));
            if n % (TOKENS / 2) == 0 {
                assert_eq!(known.get("often").as_ref().map(|c| &*c.subject), Some("often"));
            }
        }
        assert!(known.get("once-0").is_none());
        let seen = known.0.lock();
        assert!(seen.lately.len() + seen.before.len() <= 2 * TOKENS);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let known = TokenCache::default();
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        known.put(&long, &caller("long"));
        assert!(known.get(&long).is_none());
    }
}
