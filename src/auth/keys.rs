//! The keys that tokens are signed with, and whose a token is.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::acceptance::Acceptance;
use super::api_key::PREFIX;
use super::api_keys::ApiKeys;
use super::caller::Caller;
use super::claims::{Claims, ISSUER, reason, unauthorised, validation};
use super::denied::Denied;
use super::jwks::Jwks;
use super::revocations::Revocations;
use super::strength::{Guessable, check};
use super::token_cache::TokenCache;
use crate::clock::Clock;

/// The shortest secret that HS256 is worth using with (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// The keys that tokens are signed with, ours or others': cheap to clone.
#[derive(Clone)]
pub struct Keys {
    ours: Option<Arc<Signing>>,
    others: Option<Arc<Jwks>>,
    api_keys: Option<Arc<ApiKeys>>,
    acceptance: Arc<Acceptance>,
    clock: Clock,
}

struct Signing {
    decoding: DecodingKey,
    encoding: EncodingKey,
    validation: Validation,
    known: TokenCache,
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
            known: TokenCache::default(),
        };
        let ours = Some(Arc::new(signing));
        Ok(Keys { ours, others: None, api_keys: None, acceptance: Arc::default(), clock })
    }

    /// Keys of a set and no secret: tokens are verified, and cannot be made here.
    pub fn jwks(set: Jwks, clock: Clock) -> Keys {
        let others = Some(Arc::new(set));
        Keys { ours: None, others, api_keys: None, acceptance: Arc::default(), clock }
    }

    /// These keys, and those of a set beside them.
    pub fn with_jwks(self, set: Jwks) -> Keys {
        Keys { others: Some(Arc::new(set)), ..self }
    }

    /// These keys, and API keys beside the tokens that they sign.
    pub fn with_api_keys(self, keys: Arc<ApiKeys>) -> Keys {
        Keys { api_keys: Some(keys), ..self }
    }

    /// The same keys, for tokens that are taken so.
    pub fn accepting(self, acceptance: Acceptance) -> Keys {
        Keys { acceptance: Arc::new(acceptance), ..self }
    }

    /// The same keys for tokens of these issuers alone; none: of any.
    pub fn of_issuers(self, issuers: &[String]) -> Keys {
        self.accepting(Acceptance::new(issuers, Duration::ZERO))
    }

    /// What is no longer taken.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.acceptance.revocations.clone()
    }

    /// The issuer of tokens that are made here.
    pub fn issuer(&self) -> &str {
        self.acceptance.issuers.first().map_or(ISSUER, |issuer| issuer)
    }

    /// Keeps the set and the map of roles up to date, for ever.
    pub async fn keep(self) {
        let set = async {
            match &self.others {
                Some(set) => set.keep().await,
                None => std::future::pending().await,
            }
        };
        // Tokens that were met by the old map are met anew.
        let forget = || {
            self.ours.iter().for_each(|ours| ours.known.clear());
            self.others.iter().for_each(|set| set.forget());
        };
        tokio::join!(set, self.acceptance.keep(forget));
    }

    /// Signs claims, with our secret.
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let ours = self.ours.as_ref().ok_or(ErrorKind::InvalidKeyFormat)?;
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &ours.encoding)
    }

    /// Whose an API key is, or a token, if a key that fits its algorithm signed it. HS256 is only ever
    /// our secret, and everything else only ever a key of the set.
    async fn signed(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        if let (true, Some(keys)) = (token.starts_with(PREFIX), &self.api_keys) {
            return keys.caller(token, &self.acceptance.revocations, Instant::now()).await;
        }
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
                let decoded = jsonwebtoken::decode(token, &ours.decoding, &ours.validation);
                ours.known.remember(token, decoded.map_err(refused)?.claims, &self.acceptance)
            }
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(set)) => {
                set.caller(token, &header, &self.acceptance).await
            }
            (_, Some(_), None) => Err(unauthorised("the token is not signed with HS256")),
            _ => Err(unauthorised("the token is not signed with RS256, ES256 or EdDSA")),
        }
    }

    /// Who calls, by their token.
    pub async fn caller(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        let caller = self.signed(token).await?;
        self.is_still_good(&caller)?;
        let leeway = self.acceptance.leeway_ms();
        let begins_ms = caller.begins_ms.map(|begins| begins.saturating_sub(leeway));
        if begins_ms.is_some_and(|begins| begins > self.clock.now().timestamp_millis()) {
            return Err(unauthorised("the token is not good yet"));
        }
        Ok(caller)
    }

    /// Who signed in, by what their provider said of them then and the map says of it now.
    pub fn signed_in(&self, claims: Map<String, Value>) -> Result<Caller, Denied> {
        let caller = self.acceptance.signed_in(claims)?;
        self.is_still_good(&caller)?;
        Ok(caller)
    }

    /// In which claims the map of roles looks, if there is one.
    pub fn claims_looked_at(&self) -> Option<Vec<String>> {
        self.acceptance.map().map(|map| map.claims().to_vec())
    }

    /// By how much clocks may be apart.
    pub fn leeway(&self) -> Duration {
        self.acceptance.leeway
    }

    /// Not once what a caller showed has expired.
    pub fn is_still_good(&self, caller: &Caller) -> Result<(), Denied> {
        caller.may_still(self.clock.now() - self.acceptance.leeway)
    }
}
