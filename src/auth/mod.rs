//! Who is calling, and what they may do.
//!
//! Guarantees that a [`Caller`] comes from a token signed with our key, for us, not
//! expired, of one tenant. Does not decide what is needed: whoever does something names
//! its scope. Knows no protocol: where a token stands is a door's to know, and how a
//! [`Denied`] is said.

pub mod jwks;
mod known;
pub mod strength;

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::jwks::Jwks;
use self::known::Known;
use self::strength::{Guessable, check};
use crate::clock::Clock;
use crate::event::{ID_RULE, is_fhir_id};

/// Whom our tokens are for.
pub const AUDIENCE: &str = "vitals";
/// The issuer of tokens that this program makes itself.
pub const ISSUER: &str = "vitals";
/// The longest name of a subject.
const SUBJECT_CHARS_MAX: usize = 255;
/// The shortest secret that HS256 is worth using with (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Every scope there is.
pub const SCOPES: [&str; 8] = [
    "patients:manage",
    "readings:write",
    "readings:correct",
    "vitals:read",
    "alerts:read",
    "alerts:ack",
    "rules:manage",
    "webhooks:manage",
];

/// Why somebody is not let in, or may not do what they want.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token, or none that is good here.
    #[error("{0}")]
    Unauthorised(String),
    /// The token lacks a scope.
    #[error("the token lacks the scope {0}")]
    ScopeMissing(&'static str),
    /// The token is narrowed to something else.
    #[error("{0}")]
    OutsideToken(&'static str),
    /// Nobody can be judged now.
    #[error("the keys of tokens are not known yet: try again")]
    KeysUnavailable,
}

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

/// A token's claims.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it; checked where the operator says who may.
    #[serde(default)]
    pub iss: String,
    /// [`AUDIENCE`], or a list with it; checked while decoding.
    pub aud: serde_json::Value,
    /// Who calls.
    pub sub: String,
    /// For whom.
    pub tenant: String,
    /// What they may do, separated by spaces.
    #[serde(default)]
    pub scope: String,
    /// Until when, seconds since 1970, whole or not (RFC 7519, 2).
    pub exp: Number,
    /// From when on, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<Number>,
    /// Only this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Only this patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
}

/// The keys that tokens are signed with, ours or others': cheap to clone.
#[derive(Clone)]
pub struct Keys {
    ours: Option<Arc<Signing>>,
    others: Option<Arc<Jwks>>,
    /// Whose tokens are taken; empty: anybody's who has the key.
    issuers: Arc<[String]>,
    clock: Clock,
}

struct Signing {
    decoding: DecodingKey,
    encoding: EncodingKey,
    validation: Validation,
    known: Known,
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeakSecret {
    /// Fewer bytes than the algorithm has.
    #[error("the token secret has {0} bytes: use at least {SECRET_BYTES_MIN} random ones")]
    Short(usize),
    /// As many as it takes, and not random.
    #[error("the token secret {0}")]
    Guessable(#[from] Guessable),
}

impl Keys {
    /// Keys of an HS256 secret.
    pub fn hs256(secret: &[u8], clock: Clock) -> Result<Keys, WeakSecret> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(WeakSecret::Short(secret.len()));
        }
        check(secret)?;
        let signing = Signing {
            decoding: DecodingKey::from_secret(secret),
            encoding: EncodingKey::from_secret(secret),
            validation: validation(Algorithm::HS256),
            known: Known::default(),
        };
        Ok(Keys { ours: Some(Arc::new(signing)), others: None, issuers: Arc::default(), clock })
    }

    /// Keys of a set and no secret: tokens are verified, and cannot be made here.
    pub fn jwks(set: Jwks, clock: Clock) -> Keys {
        Keys { ours: None, others: Some(Arc::new(set)), issuers: Arc::default(), clock }
    }

    /// These keys, and those of a set beside them.
    pub fn with_jwks(self, set: Jwks) -> Keys {
        Keys { others: Some(Arc::new(set)), ..self }
    }

    /// The same keys for tokens of these issuers alone; none: of any.
    pub fn of_issuers(self, issuers: &[String]) -> Keys {
        Keys { issuers: issuers.into(), ..self }
    }

    /// The issuer of tokens that are made here.
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or(ISSUER, |issuer| issuer)
    }

    /// Keeps a set up to date, for ever.
    pub async fn keep(self) {
        match &self.others {
            Some(set) => set.keep().await,
            None => std::future::pending().await,
        }
    }

    /// Signs claims, with our secret.
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let ours = self.ours.as_ref().ok_or(ErrorKind::InvalidKeyFormat)?;
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &ours.encoding)
    }

    /// Whose a token is, if a key that fits its algorithm signed it. HS256 is only ever
    /// our secret, and everything else only ever a key of the set.
    async fn signed(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        let known = self.ours.as_ref().and_then(|ours| ours.known.get(token));
        if let Some(caller) = known.or_else(|| self.others.as_ref()?.known(token)) {
            return Ok(caller);
        }
        let refused = |error: jsonwebtoken::errors::Error| unauthorised(reason(error.kind()));
        let header = jsonwebtoken::decode_header(token).map_err(refused)?;
        if header.crit.is_some() {
            // RFC 7515, 4.1.11: who does not understand all of them refuses, and nothing is here.
            return Err(unauthorised("the token demands what is not understood here (crit)"));
        }
        match (header.alg, &self.ours, &self.others) {
            (Algorithm::HS256, Some(ours), _) => {
                let decoded =
                    jsonwebtoken::decode::<Claims>(token, &ours.decoding, &ours.validation);
                let claims = decoded.map_err(refused)?.claims;
                let caller = Arc::new(Caller::of(claims, &self.issuers)?);
                ours.known.put(token, &caller);
                Ok(caller)
            }
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(set)) => {
                set.caller(token, &header, &self.issuers).await
            }
            (_, Some(_), None) => Err(unauthorised("the token is not signed with HS256")),
            _ => Err(unauthorised("the token is not signed with RS256, ES256 or EdDSA")),
        }
    }

    /// Who calls, by their token.
    pub async fn caller(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        let caller = self.signed(token).await?;
        let now = self.clock.now();
        caller.may_still(now)?;
        if caller.begins_ms.is_some_and(|begins| begins > now.timestamp_millis()) {
            return Err(unauthorised("the token is not good yet"));
        }
        Ok(caller)
    }
}

/// What a token has to hold, whatever signed it.
fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    // By our clock, above, and to the second.
    validation.validate_exp = false;
    validation
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Their tenant: nothing else exists for them.
    pub tenant: Arc<str>,
    /// Their name.
    pub subject: String,
    scope: String,
    /// If set, the one device that they may write and read.
    pub device: Option<String>,
    /// If set, the one patient that they may write and read.
    pub patient: Option<String>,
    /// When the token begins and ceases to be good, milliseconds since 1970.
    begins_ms: Option<i64>,
    expires_ms: i64,
    /// Came by a link and not by a token: nobody knows who it is, and they are shown
    /// nothing but what they did.
    pub linked: bool,
    /// By what limits know them, once they have asked.
    counted_as: OnceLock<Subject>,
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
    /// Whoever these claims are about, if one of `issuers` (or there are none) says so.
    fn of(claims: Claims, issuers: &[String]) -> Result<Caller, Denied> {
        if !issuers.is_empty() && !issuers.contains(&claims.iss) {
            return Err(unauthorised("the token was made by another issuer (iss) than is taken"));
        }
        if !is_subject(&claims.sub) {
            let detail = format!("sub must have 1 to {SUBJECT_CHARS_MAX} printable characters");
            return Err(unauthorised(detail));
        }
        let ids = [Some(&claims.tenant), claims.device.as_ref(), claims.patient.as_ref()];
        if !ids.into_iter().flatten().all(|id| is_fhir_id(id)) {
            return Err(unauthorised(format!("each of tenant, device and patient {ID_RULE}")));
        }
        Ok(Caller {
            tenant: claims.tenant.into(),
            subject: claims.sub,
            scope: claims.scope,
            device: claims.device,
            patient: claims.patient,
            begins_ms: claims.nbf.as_ref().map(milliseconds),
            expires_ms: milliseconds(&claims.exp),
            linked: false,
            counted_as: OnceLock::new(),
        })
    }

    /// Who has the database and hands in readings at the command line: no token says so.
    pub fn operator(tenant: Arc<str>) -> Caller {
        Caller {
            tenant,
            subject: "operator".to_owned(),
            scope: "readings:write".to_owned(),
            device: None,
            patient: None,
            begins_ms: None,
            expires_ms: i64::MAX,
            linked: false,
            counted_as: OnceLock::new(),
        }
    }

    /// Who came by the link of an alert: may acknowledge, for this one request. Each link
    /// is a subject of its own: who knows one can use up no other's limits.
    pub fn linked(tenant: &str, alert: Uuid, now: DateTime<Utc>) -> Caller {
        Caller {
            tenant: tenant.into(),
            subject: format!("link {alert}"),
            scope: "alerts:ack".to_owned(),
            device: None,
            patient: None,
            begins_ms: None,
            expires_ms: now.timestamp_millis(),
            linked: true,
            counted_as: OnceLock::new(),
        }
    }

    /// Not once the token has expired: for what lasts longer than a request.
    pub fn may_still(&self, now: DateTime<Utc>) -> Result<(), Denied> {
        if self.expires_ms > now.timestamp_millis() {
            return Ok(());
        }
        Err(unauthorised("the token has expired: get a new one"))
    }

    /// Only with the scope.
    pub fn may(&self, scope: &'static str) -> Result<(), Denied> {
        let has = self.scope.split(' ').any(|s| s == scope);
        if has { Ok(()) } else { Err(Denied::ScopeMissing(scope)) }
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

    /// Not with a token of one device or patient, where the whole tenant is meant.
    pub fn may_administer(&self, scope: &'static str) -> Result<(), Denied> {
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

/// What is wrong with a token, for whoever pasted it.
fn reason(error: &ErrorKind) -> String {
    match error {
        ErrorKind::InvalidSignature => "the token was signed with another key".to_owned(),
        ErrorKind::InvalidAudience => format!("the token is not for \"{AUDIENCE}\" (aud)"),
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "the token is signed by an algorithm that is not taken".to_owned()
        }
        ErrorKind::MissingRequiredClaim(claim) => format!("the token lacks the claim {claim}"),
        ErrorKind::Json(error) => format!("the token's claims cannot be read: {error}"),
        _ => "this is no token: send the whole JWT, as \"vitals token\" prints it".to_owned(),
    }
}

fn unauthorised(detail: impl Into<String>) -> Denied {
    Denied::Unauthorised(detail.into())
}
