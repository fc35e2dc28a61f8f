//! In which wards somebody may do what.
//!
//! Guarantees that a scope reaches as far as what gives it, and no farther: what gives another
//! scope, or the same one for other wards, takes away no narrowing that a scope has elsewhere.
//! A token's own claim narrows all of it. Does not know where a patient lies: that is the
//! log's.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::scope::{Scope, Scopes};

/// The longest name of a ward.
pub const WARD_CHARS_MAX: usize = 64;
/// Wards that one claim, or one entry of a map, may name.
pub const WARDS_MAX: usize = 100;

/// Whether a text can be the name of a ward, as a record takes it.
pub fn is_ward(text: &str) -> bool {
    let fits = (1..=WARD_CHARS_MAX).contains(&text.chars().count());
    fits && text.trim() == text && !text.chars().any(char::is_control)
}

/// What a list of wards is, for whoever wrote another one.
pub(super) fn check(wards: &[String]) -> Result<(), String> {
    if wards.len() > WARDS_MAX {
        return Err(format!("wards: more than {WARDS_MAX}"));
    }
    match wards.iter().find(|ward| !is_ward(ward)) {
        Some(ward) => {
            Err(format!("wards: {ward:?} is no name of 1 to {WARD_CHARS_MAX} characters"))
        }
        None => Ok(()),
    }
}

/// Scopes, and the wards that they are for; all wards where none are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What may be done.
    pub scopes: Scopes,
    /// Where.
    pub wards: Option<BTreeSet<String>>,
}

/// Where somebody may do what; by default everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wards(Option<Arc<[Held]>>);

impl Wards {
    /// What a token's own scopes, the claims that a map knows and the token's own narrowing
    /// come to.
    ///
    /// Where the map names wards, the scopes that stand in the token beside it are for these
    /// wards: a provider that writes what an application may into each token (`scope`) does
    /// not open the hospital to a ward's nurse.
    pub fn of_token(own: Scopes, given: Vec<Held>, only: Option<&[String]>) -> Wards {
        let named: Vec<&BTreeSet<String>> =
            given.iter().filter_map(|held| held.wards.as_ref()).collect();
        let wards = (!named.is_empty()).then(|| named.into_iter().flatten().cloned().collect());
        let own = Held { scopes: own, wards };
        let only: Option<BTreeSet<String>> = only.map(|wards| wards.iter().cloned().collect());
        let narrowed = |held: Held| {
            let wards = match (held.wards, &only) {
                (Some(wards), Some(only)) => Some(wards.intersection(only).cloned().collect()),
                (None, Some(only)) => Some(only.clone()),
                (wards, None) => wards,
            };
            Held { wards, ..held }
        };
        let all: Vec<Held> = given.into_iter().chain([own]).map(narrowed).collect();
        let is_narrow = all.iter().any(|held| held.wards.is_some());
        Wards(is_narrow.then(|| all.into()))
    }

    /// The wards in which a scope may be used, in order; `None` is everywhere.
    pub fn of(&self, scope: Scope) -> Option<Vec<String>> {
        let mut wards = BTreeSet::new();
        for held in self.0.as_ref()?.iter().filter(|held| held.scopes.has(scope)) {
            wards.extend(held.wards.as_ref()?);
        }
        Some(wards.into_iter().cloned().collect())
    }

    /// All that are named for anything; `None` where nothing is narrowed.
    pub fn named(&self) -> Option<Vec<String>> {
        let all: BTreeSet<&String> =
            self.0.as_ref()?.iter().filter_map(|held| held.wards.as_ref()).flatten().collect();
        Some(all.into_iter().cloned().collect())
    }

    /// Whether there is anything that may not be done everywhere.
    pub fn is_narrow(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(wards: &[&str]) -> BTreeSet<String> {
        wards.iter().map(|ward| (*ward).to_owned()).collect()
    }

    fn held(scopes: Scopes, wards: &[&str]) -> Held {
        Held { scopes, wards: (!wards.is_empty()).then(|| set(wards)) }
    }

    fn list(wards: &[&str]) -> Option<Vec<String>> {
        Some(set(wards).into_iter().collect())
    }

    const READ: Scopes = Scopes::of(&[Scope::VitalsRead, Scope::AlertsRead]);
    const ANSWER: Scopes = Scopes::of(&[Scope::VitalsRead, Scope::AlertsAck]);
    const RULES: Scopes = Scopes::of(&[Scope::RulesManage]);
    const NONE: Scopes = Scopes::of(&[]);

    #[test]
    fn a_scope_reaches_the_wards_of_all_that_gives_it_and_of_nothing_else() {
        let two = Wards::of_token(NONE, vec![held(ANSWER, &["icu"]), held(READ, &["7b"])], None);
        assert_eq!(two.of(Scope::VitalsRead), list(&["7b", "icu"]));
        assert_eq!(two.of(Scope::AlertsAck), list(&["icu"]));
        assert_eq!(two.of(Scope::AlertsRead), list(&["7b"]));
        // Reading everywhere is reading everywhere, and no answering.
        let all = Wards::of_token(NONE, vec![held(ANSWER, &["icu"]), held(READ, &[])], None);
        assert_eq!((all.of(Scope::VitalsRead), all.of(Scope::AlertsRead)), (None, None));
        assert_eq!(all.of(Scope::AlertsAck), list(&["icu"]));
        // What gives no reading opens nothing to read.
        let other = Wards::of_token(NONE, vec![held(ANSWER, &["icu"]), held(RULES, &[])], None);
        assert_eq!(other.of(Scope::VitalsRead), list(&["icu"]));
        assert_eq!(other.of(Scope::RulesManage), None);
        assert!(!Wards::of_token(READ, vec![held(RULES, &[])], None).is_narrow());
    }

    #[test]
    fn a_tokens_own_claim_narrows_all_of_it_and_its_own_scopes_widen_nothing() {
        let icu = ["icu".to_owned()];
        let given = || vec![held(ANSWER, &["icu", "7b"]), held(READ, &[])];
        let both = Wards::of_token(RULES, given(), Some(&icu));
        for scope in [Scope::VitalsRead, Scope::AlertsAck, Scope::AlertsRead, Scope::RulesManage] {
            assert_eq!(both.of(scope), list(&["icu"]), "{scope:?}");
        }
        let apart = Wards::of_token(NONE, vec![held(ANSWER, &["7b"])], Some(&icu));
        assert_eq!(apart.of(Scope::VitalsRead), list(&[]), "no ward is none, and not all");
        assert_eq!(Wards::of_token(READ, vec![], Some(&[])).of(Scope::VitalsRead), list(&[]));
        let beside = Wards::of_token(READ, vec![held(ANSWER, &["icu"])], None);
        assert_eq!(beside.of(Scope::AlertsRead), list(&["icu"]));
    }
}
