//! Public keys of whoever signs tokens elsewhere: a JWKS (RFC 7517) from a file or a URL.
//!
//! Guarantees that a token is verified only by a key of the set whose kind fits the
//! token's algorithm (RS256, ES256, EdDSA), and that a set which changes is noticed
//! without a restart: a file within [`FILE_SECONDS`], a URL within [`URL_SECONDS`], and
//! within [`UNKNOWN_SECONDS_MIN`] when a token names a key that is not there yet. A set that
//! cannot be read leaves the last one in force: a directory that is away must not shut a
//! ward out. Symmetric keys in a set are passed over, for whoever can read it has them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use parking_lot::RwLock;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::acceptance::Acceptance;
use super::caller::Caller;
use super::claims::{reason, unauthorised, validation};
use super::denied::Denied;
use super::file;
use super::token_cache::TokenCache;

/// How often a file is looked at.
const FILE_SECONDS: u64 = 2;
/// How often a URL is asked.
const URL_SECONDS: u64 = 300;
/// How often a URL is asked while it has not answered.
const URL_RETRY_SECONDS: u64 = 5;
/// The shortest time between two looks because of tokens that name an unknown key.
const UNKNOWN_SECONDS_MIN: u64 = 5;
/// How long a URL may take.
const FETCH_MS_MAX: u64 = 5_000;
/// The largest set.
const SET_BYTES_MAX: usize = 256 * 1_024;
/// Keys of a set; the others are passed over.
const KEYS_MAX: usize = 100;
/// RFC 7518, 3.3: an RSA key has 2048 bits at least.
const RSA_BYTES_MIN: usize = 256;

/// Why there is no set.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum JwksError {
    #[error("reading the keys {path}: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("asking for the keys: {0}")]
    Http(reqwest::Error),
    #[error("asking for the keys: the answer was {0}")]
    Status(reqwest::StatusCode),
    #[error("the set of keys has more than {SET_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the set of keys is no JWKS: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the set of keys holds none for RS256, ES256 or EdDSA")]
    Empty,
}

/// Why a token's claims are not believed.
pub(super) enum Unverified {
    /// No set could be read yet.
    NoKeys,
    /// None of the set is named so, or fits the algorithm.
    UnknownKey,
    /// See there.
    Refused(ErrorKind),
}

impl From<reqwest::Error> for JwksError {
    /// Without the URL: it may hold a secret, and this is logged.
    fn from(error: reqwest::Error) -> JwksError {
        JwksError::Http(error.without_url())
    }
}

/// A set of keys that is kept up to date.
pub struct Jwks {
    source: Source,
    /// `None` until it could be read for the first time.
    set: RwLock<Option<Arc<Set>>>,
    /// When a token last made us look.
    looked: Mutex<Option<Instant>>,
}

enum Source {
    File(PathBuf),
    Url { url: reqwest::Url, client: reqwest::Client },
}

/// The keys of one reading of the source.
struct Set {
    /// What they were read from.
    text: Vec<u8>,
    keys: Vec<PublicKey>,
    /// Forgotten with the keys.
    known: TokenCache,
}

struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Jwks {
    /// The set of a file or an http(s) URL. A file has to be there now; a URL that does
    /// not answer yet is asked again.
    pub async fn open(source: &str) -> Result<Jwks, JwksError> {
        let url = reqwest::Url::parse(source).ok().filter(|url| url.scheme().starts_with("http"));
        let source = match url {
            Some(url) => {
                let limit = Duration::from_millis(FETCH_MS_MAX);
                Source::Url { url, client: reqwest::Client::builder().timeout(limit).build()? }
            }
            None => Source::File(source.into()),
        };
        let jwks = Jwks { source, set: RwLock::default(), looked: Mutex::default() };
        match (jwks.look().await, &jwks.source) {
            (Err(error), Source::File(_)) => return Err(error),
            (Err(error), Source::Url { .. }) => {
                tracing::error!(%error, "no token is accepted until the keys are known; asking again");
            }
            (Ok(()), _) => {}
        }
        Ok(jwks)
    }

    /// The set of a URL that nobody has looked at yet.
    pub(super) fn at(url: reqwest::Url, client: reqwest::Client) -> Jwks {
        let source = Source::Url { url, client };
        Jwks { source, set: RwLock::default(), looked: Mutex::default() }
    }

    /// Keeps the set up to date, for ever.
    pub async fn keep(&self) {
        loop {
            let pause = match self.source {
                Source::File(_) => FILE_SECONDS,
                Source::Url { .. } if self.set().is_none() => URL_RETRY_SECONDS,
                Source::Url { .. } => URL_SECONDS,
            };
            tokio::time::sleep(Duration::from_secs(pause)).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the keys were not renewed; those of before are in force");
            }
        }
    }

    /// Whose token it is, if a key that is in force has verified it already.
    pub fn known(&self, token: &str) -> Option<Arc<Caller>> {
        self.set()?.known.get(token)
    }

    /// Forgets who has verified tokens, not the keys.
    pub fn forget(&self) {
        if let Some(set) = self.set() {
            set.known.clear();
        }
    }

    /// Whose token it is, if one of the keys signed it.
    pub async fn caller(
        &self,
        token: &str,
        header: &Header,
        acceptance: &Acceptance,
    ) -> Result<Arc<Caller>, Denied> {
        let (set, claims) =
            self.verified(token, header, validation).await.map_err(|why| match why {
                Unverified::NoKeys => Denied::KeysUnavailable,
                Unverified::UnknownKey => {
                    unauthorised("the token was signed with a key that is not known here")
                }
                Unverified::Refused(kind) => unauthorised(reason(&kind)),
            })?;
        set.known.remember(token, claims, acceptance)
    }

    /// What a token says that one of the keys signed, and that is as `validation` has it.
    pub(super) async fn claims(
        &self,
        token: &str,
        header: &Header,
        validation: impl Fn(Algorithm) -> Validation,
    ) -> Result<Map<String, Value>, Unverified> {
        self.verified(token, header, validation).await.map(|(_, claims)| claims)
    }

    async fn verified(
        &self,
        token: &str,
        header: &Header,
        validation: impl Fn(Algorithm) -> Validation,
    ) -> Result<(Arc<Set>, Map<String, Value>), Unverified> {
        if !self.knows(header) {
            self.look_for_unknown().await;
        }
        let set = self.set().ok_or(Unverified::NoKeys)?;
        let mut refused = None;
        for key in set.keys.iter().filter(|key| key.fits(header)) {
            match jsonwebtoken::decode(token, &key.key, &validation(key.algorithm)) {
                Ok(decoded) => return Ok((set.clone(), decoded.claims)),
                Err(error) => refused = Some(Unverified::Refused(error.into_kind())),
            }
        }
        Err(refused.unwrap_or(Unverified::UnknownKey))
    }

    fn set(&self) -> Option<Arc<Set>> {
        self.set.read().clone()
    }

    fn knows(&self, header: &Header) -> bool {
        self.set().is_some_and(|set| set.keys.iter().any(|key| key.fits(header)))
    }

    /// One look for all who wait, and not more often than the pace: whoever makes up
    /// names of keys must not make us a hammer.
    async fn look_for_unknown(&self) {
        let mut looked = self.looked.lock().await;
        let pace = Duration::from_secs(UNKNOWN_SECONDS_MIN);
        if looked.is_some_and(|at| at.elapsed() < pace) {
            return;
        }
        if let Err(error) = self.look().await {
            tracing::warn!(%error, "the keys were not renewed; those of before are in force");
        }
        *looked = Some(Instant::now());
    }

    /// One look at the source.
    pub(super) async fn look(&self) -> Result<(), JwksError> {
        let text = match &self.source {
            Source::File(path) => {
                let failed = |source| JwksError::File { path: path.clone(), source };
                file::read(path, SET_BYTES_MAX).await.map_err(failed)?
            }
            Source::Url { url, client } => fetch(client, url.clone()).await?,
        };
        if self.set().is_none_or(|set| set.text != text) {
            let set = Set { keys: read(&text)?, text, known: TokenCache::default() };
            *self.set.write() = Some(Arc::new(set));
        }
        Ok(())
    }
}

/// What stands at a URL.
pub(super) async fn fetch(
    client: &reqwest::Client,
    url: reqwest::Url,
) -> Result<Vec<u8>, JwksError> {
    let answer = client.get(url).send().await?;
    if !answer.status().is_success() {
        return Err(JwksError::Status(answer.status()));
    }
    whole(answer).await
}

/// The body of an answer, unless it is larger than a set may be.
pub(super) async fn whole(mut answer: reqwest::Response) -> Result<Vec<u8>, JwksError> {
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
        if text.len() > SET_BYTES_MAX {
            return Err(JwksError::TooLarge);
        }
    }
    Ok(text)
}

/// The keys of a set that can verify tokens; those that cannot are passed over.
fn read(text: &[u8]) -> Result<Vec<PublicKey>, JwksError> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let Set { keys } = serde_json::from_slice(text)?;
    let read = keys.into_iter().take(KEYS_MAX).filter_map(|key| PublicKey::of(key).ok());
    let keys: Vec<PublicKey> = read.flatten().collect();
    if keys.is_empty() { Err(JwksError::Empty) } else { Ok(keys) }
}

impl PublicKey {
    fn of(key: Value) -> Result<Option<PublicKey>, serde_json::Error> {
        let jwk: Jwk = serde_json::from_value(key)?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if modulus_bytes(&rsa.n) >= RSA_BYTES_MIN => {
                (Algorithm::RS256, KeyAlgorithm::RS256)
            }
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return Ok(None),
        };
        // What a key says of itself is believed: one for encryption verifies nothing.
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let fits = common.key_algorithm.is_none_or(|named| named == algorithm.1);
        Ok(match DecodingKey::from_jwk(&jwk) {
            Ok(key) if signs && fits => {
                Some(PublicKey { id: jwk.common.key_id, algorithm: algorithm.0, key })
            }
            _ => None,
        })
    }

    fn fits(&self, header: &Header) -> bool {
        let named = header.kid.as_ref().is_none_or(|kid| self.id.as_ref() == Some(kid));
        named && self.algorithm == header.alg
    }
}

fn modulus_bytes(n: &str) -> usize {
    URL_SAFE_NO_PAD.decode(n.trim_end_matches('=')).map_or(0, |bytes| bytes.len())
}
