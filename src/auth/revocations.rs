//! Tokens that are no longer taken although they were good.
//!
//! Guarantees that whoever was revoked is refused from the moment that it is known here, also
//! on what lasts longer than a request. Who says so, and how other processes learn it, is the
//! log's: `record/revoke.rs` and `command/revoked.rs`.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::event::Revoked;

/// What is revoked, by tenant.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<HashMap<String, OfTenant>>);

#[derive(Debug, Default)]
struct OfTenant {
    /// Until when, in milliseconds since 1970, what they had been given is refused.
    subjects: HashMap<String, i64>,
    /// When each was, and until when that is to be remembered, likewise.
    tokens: HashMap<String, (i64, i64)>,
}

impl Revocations {
    /// From now on. Of two moments the later one counts.
    pub fn revoke(&self, tenant: &str, what: Revoked, at_ms: i64) {
        let mut all = self.0.write();
        let of_tenant = all.entry(tenant.to_owned()).or_default();
        match what {
            Revoked::Subject(subject) => {
                let at = of_tenant.subjects.entry(subject).or_insert(at_ms);
                *at = (*at).max(at_ms);
            }
            Revoked::Token(id) => {
                let of_token = of_tenant.tokens.entry(id).or_insert((at_ms, i64::MAX));
                of_token.1 = i64::MAX;
            }
        }
    }

    /// A token that is good until a moment anyway: after that it need not be remembered.
    pub fn end(&self, tenant: &str, token_id: String, until_ms: i64) {
        let mut all = self.0.write();
        let of_tenant = all.entry(tenant.to_owned()).or_default();
        of_tenant.tokens.entry(token_id).or_insert((until_ms, until_ms));
    }

    /// Forgets those that are over by now.
    pub fn forget_before(&self, now_ms: i64) {
        for of_tenant in self.0.write().values_mut() {
            of_tenant.tokens.retain(|_, (_, until_ms)| *until_ms >= now_ms);
        }
    }

    /// Whether a token is revoked, by its tenant, subject, own name and when it was made. One
    /// that does not say when is taken for an old one.
    pub fn has(
        &self,
        tenant: &str,
        subject: &str,
        token_id: Option<&str>,
        issued_ms: Option<i64>,
    ) -> bool {
        self.since(tenant, subject, token_id, issued_ms).is_some()
    }

    /// Since when it is.
    pub fn since(
        &self,
        tenant: &str,
        subject: &str,
        token_id: Option<&str>,
        issued_ms: Option<i64>,
    ) -> Option<i64> {
        let all = self.0.read();
        let of_tenant = all.get(tenant)?;
        let of_subject = of_tenant.subjects.get(subject);
        let of_subject = of_subject.filter(|at| issued_ms.is_none_or(|made| made <= **at));
        let of_token = token_id.and_then(|id| of_tenant.tokens.get(id)).map(|(since, _)| since);
        of_token.or(of_subject).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_refused_with_what_it_had_and_not_with_what_it_gets_later() {
        let revocations = Revocations::default();
        assert!(!revocations.has("ward", "watch", None, None));
        revocations.revoke("ward", Revoked::Subject("watch".to_owned()), 10_000);
        // Told late, or once more: the later moment stands.
        revocations.revoke("ward", Revoked::Subject("watch".to_owned()), 5_000);
        for (issued_ms, is_revoked) in [(None, true), (Some(9_000), true), (Some(10_001), false)] {
            let has = revocations.has("ward", "watch", Some("t"), issued_ms);
            assert_eq!(has, is_revoked, "{issued_ms:?}");
        }
        assert!(!revocations.has("other", "watch", None, None), "another tenant's subject");
        assert!(!revocations.has("ward", "watch-2", None, None));
    }

    #[test]
    fn one_token_is_refused_and_its_subjects_others_are_not() {
        let revocations = Revocations::default();
        revocations.revoke("ward", Revoked::Token("t-1".to_owned()), 10_000);
        assert!(revocations.has("ward", "watch", Some("t-1"), Some(20_000)));
        assert!(!revocations.has("ward", "watch", Some("t-2"), None));
        assert!(!revocations.has("ward", "t-1", None, None));
        // One that was over by itself is forgotten, and one that was revoked is not.
        revocations.end("ward", "t-3".to_owned(), 10_000);
        revocations.end("ward", "t-1".to_owned(), 10_000);
        let has = |id| revocations.has("ward", "watch", Some(id), Some(20_000));
        revocations.forget_before(10_000);
        assert!(has("t-1") && has("t-3"));
        revocations.forget_before(10_001);
        assert!(has("t-1") && !has("t-3"));
        assert!(!revocations.has("other", "watch", Some("t-1"), None));
    }
}
