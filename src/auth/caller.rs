//! Whoever calls: of which tenant, and what they may.
//!
//! Guarantees that a [`Caller`] is made of claims whose names are names, for whoever made
//! them. Whether the claims are true is [`super::Keys`]'s to know.

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use serde_json::Number;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::claims::{Claims, unauthorised};
use super::denied::Denied;
use super::revocations::Revocations;
use super::roles::Granted;
use super::scope::{Scope, Scopes};
use super::wards::{self, Wards};
use crate::event::{ID_RULE, is_fhir_id};

/// The longest name of a subject.
const SUBJECT_CHARS_MAX: usize = 255;

/// What a token may touch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Narrowing<'a> {
    /// Only this device's readings.
    pub device: Option<&'a str>,
    /// Only this patient's readings.
    pub patient: Option<&'a str>,
}

/// Who is counted: 128 bits of the SHA-256 of tenant and subject, whose names may be
/// long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject(pub [u8; 16]);

impl Subject {
    /// The subject of a tenant.
    pub fn new(tenant: &str, subject: &str) -> Subject {
        // No tenant holds a zero byte, so no two pairs are the same text.
        let hash = Sha256::new_with_prefix(tenant).chain_update([0]).chain_update(subject);
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize()[..16]);
        Subject(first)
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Their tenant: nothing else exists for them.
    pub tenant: Arc<str>,
    /// Their name.
    pub subject: String,
    /// What they may do.
    pub scopes: Scopes,
    /// If set, the one device that they may write and read.
    pub device: Option<String>,
    /// If set, the one patient that they may write and read.
    pub patient: Option<String>,
    /// In which wards they may do what.
    pub wards: Wards,
    /// The token's own name.
    pub token_id: Option<String>,
    /// When it was made, begins and ceases to be good, milliseconds since 1970.
    pub(super) issued_ms: Option<i64>,
    pub(super) begins_ms: Option<i64>,
    pub(super) expires_ms: i64,
    /// Came by a link and not by a token: nobody knows who it is, and they are shown
    /// nothing but what they did.
    pub linked: bool,
    /// Where it would stand that they are no longer let in.
    pub(super) revocations: Option<Arc<Revocations>>,
    /// By what limits know them, once they have asked.
    pub(super) counted_as: OnceLock<Subject>,
}

/// Whether a text can be the name of a subject: it is looked for in logs and on screens.
pub fn is_subject(text: &str) -> bool {
    let fits = (1..=SUBJECT_CHARS_MAX).contains(&text.chars().count());
    fits && !text.trim().is_empty() && !text.chars().any(char::is_control)
}

/// A time of a token in milliseconds; beyond what can be told it is never, or always was.
fn milliseconds(seconds: &Number) -> i64 {
    match seconds.as_i64() {
        Some(whole) => whole.saturating_mul(1_000),
        None => (seconds.as_f64().unwrap_or_default() * 1_000.0) as i64,
    }
}

impl Caller {
    /// Whoever these claims are about, if one of `issuers` (or there are none) says so; with
    /// what the operator's map makes of them.
    pub(super) fn of(
        claims: Claims,
        granted: Granted,
        issuers: &[String],
    ) -> Result<Caller, Denied> {
        if !issuers.is_empty() && !issuers.contains(&claims.iss) {
            return Err(unauthorised("the token was made by another issuer (iss) than is taken"));
        }
        if !is_subject(&claims.sub) {
            let detail = format!("sub must have 1 to {SUBJECT_CHARS_MAX} printable characters");
            return Err(unauthorised(detail));
        }
        let tenant = match (claims.tenant, granted.tenant) {
            (Some(own), Some(mapped)) if own != mapped => {
                return Err(unauthorised(
                    "the token names another tenant than its claims stand for",
                ));
            }
            (own, mapped) => own.or(mapped),
        };
        let tenant = tenant.ok_or_else(|| {
            unauthorised("the token names no tenant (claim tenant), and no map of roles does")
        })?;
        let ids = [Some(&tenant), claims.device.as_ref(), claims.patient.as_ref()];
        if !ids.into_iter().flatten().all(|id| is_fhir_id(id)) {
            return Err(unauthorised(format!("each of tenant, device and patient {ID_RULE}")));
        }
        wards::check(claims.wards.as_deref().unwrap_or_default()).map_err(unauthorised)?;
        let own = Scopes::read(&claims.scope);
        Ok(Caller {
            scopes: own.and(granted.scopes),
            device: claims.device,
            patient: claims.patient,
            wards: Wards::of_token(own, granted.held, claims.wards.as_deref()),
            token_id: claims.jti,
            issued_ms: claims.iat.as_ref().map(milliseconds),
            begins_ms: claims.nbf.as_ref().map(milliseconds),
            expires_ms: milliseconds(&claims.exp),
            ..Caller::bare(tenant.into(), claims.sub)
        })
    }

    /// Who has the database and hands in readings at the command line: no token says so.
    pub fn operator(tenant: Arc<str>) -> Caller {
        Caller::configured(tenant, "operator")
    }

    /// A sender without a token that the operator's configuration lets in, by this name: it
    /// may hand in readings. Narrow it by `device` and `patient`.
    pub fn configured(tenant: Arc<str>, subject: &str) -> Caller {
        let scopes = Scopes::of(&[Scope::ReadingsWrite]);
        Caller { scopes, ..Caller::bare(tenant, subject.to_owned()) }
    }

    /// Who came by the link of an alert: may acknowledge, for this one request. Each link
    /// is a subject of its own: who knows one can use up no other's limits.
    pub fn linked(tenant: &str, alert: Uuid, now: DateTime<Utc>) -> Caller {
        Caller {
            scopes: Scopes::of(&[Scope::AlertsAck]),
            expires_ms: now.timestamp_millis(),
            linked: true,
            ..Caller::bare(tenant.into(), format!("link {alert}"))
        }
    }

    /// Who may nothing, for ever and everywhere.
    pub(super) fn bare(tenant: Arc<str>, subject: String) -> Caller {
        Caller {
            tenant,
            subject,
            scopes: Scopes::default(),
            device: None,
            patient: None,
            wards: Wards::default(),
            token_id: None,
            issued_ms: None,
            begins_ms: None,
            expires_ms: i64::MAX,
            linked: false,
            revocations: None,
            counted_as: OnceLock::new(),
        }
    }

    /// The same, unless it stands there that they are no longer let in.
    pub(super) fn unless_in(self, revocations: &Arc<Revocations>) -> Caller {
        Caller { revocations: Some(revocations.clone()), ..self }
    }

    /// Not once the token has expired or was revoked: for what lasts longer than a request.
    pub fn may_still(&self, now: DateTime<Utc>) -> Result<(), Denied> {
        let is_revoked = |all: &Arc<Revocations>| {
            all.has(&self.tenant, &self.subject, self.token_id.as_deref(), self.issued_ms)
        };
        if self.revocations.as_ref().is_some_and(is_revoked) {
            return Err(unauthorised("the token was revoked: ask who runs this for another one"));
        }
        if self.expires_ms > now.timestamp_millis() {
            return Ok(());
        }
        Err(unauthorised("the token has expired: get a new one"))
    }

    /// Only with the scope.
    pub fn may(&self, scope: Scope) -> Result<(), Denied> {
        if self.scopes.has(scope) { Ok(()) } else { Err(Denied::ScopeMissing(scope.name())) }
    }

    /// Not when the token is narrowed to another patient.
    pub fn may_see(&self, patient_id: &str) -> Result<(), Denied> {
        match &self.patient {
            Some(only) if only != patient_id => {
                Err(Denied::OutsideToken("the token is for another patient"))
            }
            _ => Ok(()),
        }
    }

    /// Not with a token of one device, patient or ward, where the whole tenant is meant.
    pub fn may_administer(&self, scope: Scope) -> Result<(), Denied> {
        self.may_in_wards(scope)?;
        if self.wards.of(scope).is_some() {
            return Err(Denied::OutsideToken("the token is for some wards only"));
        }
        Ok(())
    }

    /// Not with a token of one device or patient; which wards it is for is looked at elsewhere.
    pub fn may_in_wards(&self, scope: Scope) -> Result<(), Denied> {
        self.may(scope)?;
        if self.device.is_some() || self.patient.is_some() {
            return Err(Denied::OutsideToken("the token is for one device or patient only"));
        }
        Ok(())
    }

    /// By what limits know them.
    pub fn counted(&self) -> Subject {
        *self.counted_as.get_or_init(|| Subject::new(&self.tenant, &self.subject))
    }

    /// Whether readings of this device are theirs to see.
    pub fn sees_device(&self, device_id: &str) -> bool {
        self.device.as_deref().is_none_or(|only| only == device_id)
    }

    /// What they may write.
    pub fn narrowing(&self) -> Narrowing<'_> {
        Narrowing { device: self.device.as_deref(), patient: self.patient.as_deref() }
    }
}
