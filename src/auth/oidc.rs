//! An OpenID provider, and we as its client: OpenID Connect Core 1.0 and Discovery 1.0, by
//! the code flow with PKCE (RFC 7636).
//!
//! Guarantees that claims come from an ID token which the provider that is configured signed
//! (RS256, ES256, EdDSA) for this client and for this one sign-in, and which has not expired;
//! that what is fetched is small, comes soon or not at all, over TLS or from this machine, and
//! from no other address than was asked; and that nothing of it is kept but the claims. The
//! provider is looked at every [`LOOK_SECONDS`], and anew when somebody wants to sign in.
//! Does not decide what claims mean, and asks for no more of a person than the token holds.

mod client;
mod id_token;
mod metadata;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::RwLock;
use reqwest::{Url, redirect};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use self::client::{OidcClient, ProviderError};
use self::metadata::Metadata;
pub use self::metadata::{is_loopback, issuer};
use super::jwks::{self, Jwks};
use crate::clock::Clock;

/// How often the provider is looked at.
const LOOK_SECONDS: u64 = 300;
/// How often it is looked at while it does not answer.
const LOOK_RETRY_SECONDS: u64 = 5;
/// How long a look is good for whoever wants to sign in.
const LOOK_GOOD_MS: u64 = 3_000;
/// How long one answer of the provider may take.
const PROVIDER_MS_MAX: u64 = 5_000;
/// How much of a provider's own words is told.
const SAID_CHARS_MAX: usize = 300;

/// What one sign-in is known by: its browser keeps it, and nobody else.
#[derive(Clone, Serialize, Deserialize)]
pub struct Begun {
    /// Comes back with the code.
    pub state: String,
    nonce: String,
    verifier: String,
}

impl Begun {
    /// A sign-in by three random numbers.
    pub fn new(random: [[u8; 32]; 3]) -> Begun {
        let [state, nonce, verifier] = random.map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        Begun { state, nonce, verifier }
    }
}

/// The provider.
pub struct Provider {
    client: OidcClient,
    http: reqwest::Client,
    clock: Clock,
    leeway: Duration,
    known: RwLock<Option<Arc<Known>>>,
    /// The last look, and what came of it.
    looked: Mutex<Option<(Instant, Result<(), ProviderError>)>>,
}

/// What it says of itself.
struct Known {
    metadata: Metadata,
    keys: Arc<Jwks>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

#[derive(Default, Deserialize)]
struct TokenError {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Provider {
    /// The provider of a client; it is not asked yet.
    pub fn new(
        client: OidcClient,
        clock: Clock,
        leeway: Duration,
    ) -> Result<Provider, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_millis(PROVIDER_MS_MAX))
            // Where it sends us is not where the operator meant.
            .redirect(redirect::Policy::none())
            .build()?;
        let (known, looked) = (RwLock::default(), Mutex::default());
        Ok(Provider { client, http, clock, leeway, known, looked })
    }

    /// As it calls itself.
    pub fn issuer(&self) -> &str {
        &self.client.issuer
    }

    /// Looks at it for ever, and says when it goes away and comes back.
    pub async fn keep(&self) {
        let mut failed: Option<ProviderError> = None;
        loop {
            let said = self.look(Duration::ZERO).await.err();
            let pause = if said.is_some() { LOOK_RETRY_SECONDS } else { LOOK_SECONDS };
            if said != failed {
                match &said {
                    Some(error) => {
                        tracing::error!(%error, "nobody can sign in by the identity provider");
                    }
                    None => tracing::info!("the identity provider answers again"),
                }
            }
            failed = said;
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }

    /// Where a browser goes to sign in.
    pub async fn address(&self, begun: &Begun) -> Result<Url, ProviderError> {
        self.look(Duration::from_millis(LOOK_GOOD_MS)).await?;
        let known = self.known()?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&begun.verifier));
        let mut url = known.metadata.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client.id)
            .append_pair("redirect_uri", &self.client.redirect_uri)
            .append_pair("scope", &self.client.scope)
            .append_pair("state", &begun.state)
            .append_pair("nonce", &begun.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Whether an answer that names its issuer, or does not, is of this provider (RFC 9207).
    pub fn may_be_of(&self, issuer: Option<&str>) -> bool {
        match issuer {
            Some(issuer) => issuer == self.client.issuer,
            None => !self.known().is_ok_and(|known| known.metadata.names_itself),
        }
    }

    /// What it says of who came back with a code.
    pub async fn claims(
        &self,
        code: &str,
        begun: &Begun,
    ) -> Result<Map<String, Value>, ProviderError> {
        if self.known().is_err() {
            self.look(Duration::from_millis(LOOK_GOOD_MS)).await?;
        }
        let known = self.known()?;
        let token = self.exchange(&known.metadata, code, begun).await?;
        let now = self.clock.now() - self.leeway;
        id_token::verified(&token, &known.keys, &self.client, &begun.nonce, now).await
    }

    /// Where a browser ends what it has with the provider; nothing where that is not known.
    pub fn end(&self, return_to: &str) -> Option<Url> {
        let mut url = self.known().ok()?.metadata.end_session_endpoint.clone()?;
        // Without the ID token as a hint: it would go through the browser.
        url.query_pairs_mut()
            .append_pair("client_id", &self.client.id)
            .append_pair("post_logout_redirect_uri", return_to);
        Some(url)
    }

    fn known(&self) -> Result<Arc<Known>, ProviderError> {
        let known = self.known.read().clone();
        known.ok_or_else(|| ProviderError::Away("it has not answered yet".to_owned()))
    }

    /// One look for all who wait, unless the last one is not older than that.
    async fn look(&self, good_for: Duration) -> Result<(), ProviderError> {
        let mut looked = self.looked.lock().await;
        if let Some((_, said)) = looked.as_ref().filter(|(at, _)| at.elapsed() < good_for) {
            return said.clone();
        }
        let said = self.ask().await;
        *looked = Some((Instant::now(), said.clone()));
        metrics::gauge!("vitals_identity_provider_up").set(f64::from(u8::from(said.is_ok())));
        said
    }

    async fn ask(&self) -> Result<(), ProviderError> {
        let unusable = |error: String| ProviderError::Unusable(error);
        let url = metadata::address(&self.client.issuer).map_err(unusable)?;
        let text = jwks::fetch(&self.http, url).await.map_err(away)?;
        let metadata = Metadata::read(&text, &self.client.issuer).map_err(unusable)?;
        let before = self.known().ok().filter(|k| k.metadata.jwks_uri == metadata.jwks_uri);
        let keys = match before {
            Some(known) => known.keys.clone(),
            None => Arc::new(Jwks::at(metadata.jwks_uri.clone(), self.http.clone())),
        };
        keys.look().await.map_err(away)?;
        *self.known.write() = Some(Arc::new(Known { metadata, keys }));
        Ok(())
    }

    /// A code against an ID token (OpenID Connect Core, 3.1.3).
    async fn exchange(
        &self,
        metadata: &Metadata,
        code: &str,
        begun: &Begun,
    ) -> Result<String, ProviderError> {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.client.redirect_uri),
            ("code_verifier", &begun.verifier),
        ];
        let mut request = self.http.post(metadata.token_endpoint.clone());
        match &self.client.secret {
            Some(secret) if metadata.takes_basic() => {
                request = request.header("authorization", basic(&self.client.id, secret));
            }
            Some(secret) => {
                form.extend([("client_id", &*self.client.id), ("client_secret", secret)]);
            }
            None => form.push(("client_id", &self.client.id)),
        }
        let unsent = |error: serde_urlencoded::ser::Error| ProviderError::Away(error.to_string());
        let answer = request
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(serde_urlencoded::to_string(&form).map_err(unsent)?)
            .send()
            .await
            .map_err(|error| away(error.into()))?;
        let status = answer.status();
        let text = jwks::whole(answer).await.map_err(away)?;
        if status.is_success() {
            let tokens: Option<Tokens> = serde_json::from_slice(&text).ok();
            let token = tokens.and_then(|tokens| tokens.id_token);
            let none = "the answer has no id_token: is openid in --oidc-scope?";
            return token.ok_or_else(|| ProviderError::IdToken(none.to_owned()));
        }
        if status.is_client_error() {
            let TokenError { error, error_description } =
                serde_json::from_slice(&text).unwrap_or_default();
            return Err(ProviderError::Refused(said(&format!(
                "{status} {error} {error_description}"
            ))));
        }
        Err(ProviderError::Away(format!("the answer to the code was {status}")))
    }
}

fn away(error: jwks::JwksError) -> ProviderError {
    match &error {
        jwks::JwksError::Json(_) | jwks::JwksError::Empty | jwks::JwksError::TooLarge => {
            ProviderError::Unusable(error.to_string())
        }
        // reqwest says what failed, and only its last source says why.
        jwks::JwksError::Http(failed) => {
            let first = std::error::Error::source(failed);
            let why = std::iter::successors(first, |error| error.source()).last();
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            ProviderError::Away(format!("{failed}{why}"))
        }
        other => ProviderError::Away(other.to_string()),
    }
}

/// RFC 6749, 2.3.1: both are encoded as in forms first.
fn basic(id: &str, secret: &str) -> String {
    let encoded = |text: &str| {
        let pair = serde_urlencoded::to_string([("", text)]).unwrap_or_default();
        pair.trim_start_matches('=').to_owned()
    };
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret))))
}

/// What somebody else wrote, cut, and without what a line of a log must not have.
pub fn said(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sent_as_the_standard_has_it() {
        let sent = basic("vitals:1", "p&ss w=rd");
        let sent = STANDARD.decode(sent.strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(sent, b"vitals%3A1:p%26ss+w%3Drd");
        // The secret's own sign of equality at its beginning is kept.
        let sent = basic("a", "=b");
        assert_eq!(STANDARD.decode(&sent[6..]).unwrap(), b"a:%3Db");
    }

    #[test]
    fn what_others_say_is_cut_and_on_one_line() {
        assert_eq!(said("a\r\nb\u{1b}[31m"), "ab[31m");
        assert_eq!(said(&"é".repeat(SAID_CHARS_MAX + 1)).chars().count(), SAID_CHARS_MAX);
    }
}
