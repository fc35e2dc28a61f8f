//! Tokens that are no longer taken although they were good.
//!
//! Guarantees that whoever was revoked is refused from the moment that it is known here, also
//! on what lasts longer than a request. Who says so, and how other processes learn it, is the
//! log's: `record/revoke.rs` and `query/revoked.rs`.

use std::collections::HashMap;

use parking_lot::RwLock;

use super::caller::Caller;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// Every token of a subject that was made until then.
    Subject(String),
    /// One token, by its `jti`.
    Token(String),
}

/// What is revoked, by tenant: when, in milliseconds since 1970.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<HashMap<(String, Revoked), i64>>);

impl Revocations {
    /// From now on. Of two moments the later one counts.
    pub fn revoke(&self, tenant: &str, what: Revoked, at_ms: i64) {
        let mut all = self.0.write();
        let at = all.entry((tenant.to_owned(), what)).or_insert(at_ms);
        *at = (*at).max(at_ms);
    }

    /// Whether a caller's token is revoked. A token that does not say when it was made is
    /// taken for an old one.
    pub fn has(&self, caller: &Caller) -> bool {
        let all = self.0.read();
        if all.is_empty() {
            return false;
        }
        let at = |what| all.get(&(caller.tenant.to_string(), what)).copied();
        let of_token = caller.token_id.clone().and_then(|id| at(Revoked::Token(id)));
        let of_subject = at(Revoked::Subject(caller.subject.clone()));
        of_token.is_some()
            || of_subject.is_some_and(|at| caller.issued_ms.is_none_or(|made| made <= at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Caller;

    fn token(tenant: &str, id: Option<&str>, issued_ms: Option<i64>) -> Caller {
        let token_id = id.map(str::to_owned);
        Caller { token_id, issued_ms, ..Caller::configured(tenant.into(), "watch") }
    }

    #[test]
    fn a_subject_is_refused_with_what_it_had_and_not_with_what_it_gets_later() {
        let revocations = Revocations::default();
        assert!(!revocations.has(&token("ward", None, None)));
        revocations.revoke("ward", Revoked::Subject("watch".to_owned()), 10_000);
        // Told late, or once more: the later moment stands.
        revocations.revoke("ward", Revoked::Subject("watch".to_owned()), 5_000);
        for (issued_ms, is_revoked) in [(None, true), (Some(9_000), true), (Some(10_001), false)] {
            assert_eq!(
                revocations.has(&token("ward", None, issued_ms)),
                is_revoked,
                "{issued_ms:?}"
            );
        }
        assert!(!revocations.has(&token("other", None, None)), "another tenant's subject");
    }

    #[test]
    fn one_token_is_refused_and_its_subjects_others_are_not() {
        let revocations = Revocations::default();
        revocations.revoke("ward", Revoked::Token("t-1".to_owned()), 10_000);
        assert!(revocations.has(&token("ward", Some("t-1"), Some(20_000))));
        assert!(!revocations.has(&token("ward", Some("t-2"), None)));
        assert!(!revocations.has(&token("ward", None, None)));
        assert!(!revocations.has(&token("other", Some("t-1"), None)));
    }
}
