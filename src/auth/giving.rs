//! What somebody may give to others: nothing that they do not have.
//!
//! Guarantees that whoever is given something may do nothing, and reaches nothing, that the
//! giver does not. Does not know in which form it is given.

use super::caller::Caller;
use super::denied::Denied;
use super::scope::Scopes;

/// What is given, or was.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// What may be done.
    pub scopes: Scopes,
    /// With one device only, if it is named.
    pub device: Option<&'a str>,
    /// Of one patient only, if they are named.
    pub patient: Option<&'a str>,
    /// In these wards only, if any are named.
    pub wards: Option<&'a [String]>,
}

impl Caller {
    /// Only what is no wider than what they have.
    pub fn may_give(&self, given: &Given<'_>) -> Result<(), Denied> {
        if let Some(lacking) = given.scopes.list().find(|scope| !self.scopes.has(*scope)) {
            return Err(Denied::ScopeMissing(lacking.name()));
        }
        if self.reaches(given) {
            return Ok(());
        }
        Err(Denied::OutsideToken("the token is narrower than what it is to give: narrow it, too"))
    }

    /// Whether all that this reaches is theirs to reach, whatever may be done there.
    pub fn reaches(&self, given: &Given<'_>) -> bool {
        let within = |own: Option<&str>, given| own.is_none() || own == given;
        let wards = given.scopes.list().all(|scope| match (self.wards.of(scope), given.wards) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(given)) => given.iter().all(|ward| own.contains(ward)),
        });
        within(self.device.as_deref(), given.device)
            && within(self.patient.as_deref(), given.patient)
            && wards
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Scope, Wards};

    const READ: Scopes = Scopes::of(&[Scope::VitalsRead]);

    fn caller(device: Option<&str>, wards: Option<&[String]>) -> Caller {
        let scopes = READ.and(Scopes::of(&[Scope::KeysManage]));
        Caller {
            scopes,
            device: device.map(str::to_owned),
            wards: Wards::of_token(scopes, Vec::new(), wards),
            ..Caller::bare("ward".into(), "giver".to_owned())
        }
    }

    #[test]
    fn nobody_gives_what_they_do_not_have() {
        let (icu, other, both) =
            (["icu".to_owned()], ["7b".to_owned()], ["icu".to_owned(), "7b".to_owned()]);
        let none = Given { scopes: READ, device: None, patient: None, wards: None };
        let wider = Given { scopes: Scopes::of(&[Scope::RulesManage]), ..none };
        assert_eq!(caller(None, None).may_give(&wider), Err(Denied::ScopeMissing("rules:manage")));
        for (who, given, may) in [
            (caller(None, None), none, true),
            (caller(None, None), Given { device: Some("a"), wards: Some(&icu), ..none }, true),
            (caller(Some("a"), None), none, false),
            (caller(Some("a"), None), Given { device: Some("b"), ..none }, false),
            (caller(Some("a"), None), Given { device: Some("a"), ..none }, true),
            (caller(None, Some(&icu)), none, false),
            (caller(None, Some(&icu)), Given { patient: Some("p"), ..none }, false),
            (caller(None, Some(&icu)), Given { wards: Some(&other), ..none }, false),
            (caller(None, Some(&icu)), Given { wards: Some(&both), ..none }, false),
            (caller(None, Some(&icu)), Given { wards: Some(&icu), ..none }, true),
            (caller(None, Some(&both)), Given { wards: Some(&icu), ..none }, true),
        ] {
            assert_eq!(who.may_give(&given).is_ok(), may, "{given:?} by {who:?}");
        }
    }
}
