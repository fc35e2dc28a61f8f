//! The third way in: the session of a browser, by its cookie.
//!
//! Guarantees that a cookie counts for requests of our own page alone: what another origin has
//! a browser send is refused, and so is whatever changes something without the session's own
//! CSRF token; that a cookie which was not made here asks nothing of the database; and that no
//! script can read one. Does not look at a request with an `Authorization` header: that counts
//! instead.
//!
//! `SameSite=Strict`: the page is static and asks for everything itself, so that no
//! navigation from elsewhere needs the cookie. Beside TLS its name begins with `__Host-`, so
//! that no sibling of this host can set it. It lasts until the browser is closed.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::auth::Denied;
use crate::auth::sessions::{Session, SessionError, SessionSecret, Sessions};
use crate::delivery::seal::Seal;

/// How long somebody may take at the provider.
pub const SIGN_IN_SECONDS_MAX: i64 = 600;

const SESSION: &str = "vitals_session";
const SIGN_IN: &str = "vitals_sign_in";
const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What is needed to know browsers.
pub struct Browsers {
    sessions: Sessions,
    /// Of what browsers keep for us.
    seal: Seal,
    /// Ours, as browsers write it.
    origin: String,
    is_tls: bool,
}

impl Browsers {
    /// Browsers that reach us at this URL.
    pub fn new(sessions: Sessions, seal: Seal, public_url: &Url) -> Browsers {
        let origin = public_url.origin().ascii_serialization();
        Browsers { sessions, seal, origin, is_tls: public_url.scheme() == "https" }
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Whose session a request belongs to; `None` for one without a cookie.
    pub async fn session(
        &self,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Option<Session>, Problem> {
        let Some(secret) = self.secret(method, headers)? else { return Ok(None) };
        Ok(Some(self.sessions.find(&secret).await?))
    }

    /// What the cookie of a request holds, if it may count for it; `None` without one.
    pub fn secret(
        &self,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Option<SessionSecret>, Problem> {
        let Some(cookie) = self.cookie(headers, SESSION) else { return Ok(None) };
        let asks = matches!(*method, Method::GET | Method::HEAD);
        self.is_of_our_page(headers, asks)?;
        let over = || Denied::Unauthorised("the session has ended: sign in again".to_owned());
        let secret: SessionSecret = self.opened(SESSION, cookie).ok_or_else(over)?;
        let shown = headers.get(CSRF).map(HeaderValue::as_bytes).unwrap_or_default();
        // By their hashes: how long it takes says nothing of where they differ.
        if !asks && Sha256::digest(shown) != Sha256::digest(csrf(&secret)) {
            let detail = "what changes something by a session's cookie has its token: send \
                          X-CSRF-Token as GET /auth/session says it";
            return Err(Problem::forbidden("csrf", detail));
        }
        Ok(Some(secret))
    }

    /// Whether a browser was made to send it by our page; or, of what only asks, whether
    /// nobody says that it was not.
    fn is_of_our_page(&self, headers: &HeaderMap, asks: bool) -> Result<(), Problem> {
        let site = headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
        let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
        let of_site = match site {
            None => true,
            Some(b"none") => asks,
            Some(site) => site == b"same-origin",
        };
        let of_origin = origin.is_none_or(|origin| origin == self.origin.as_bytes());
        if of_site && of_origin && (asks || site.or(origin).is_some()) {
            return Ok(());
        }
        let detail =
            format!("a session counts for the page at {} alone, and not elsewhere", self.origin);
        Err(Problem::forbidden("csrf", detail))
    }

    /// The cookie of a session.
    pub fn begin_session(&self, secret: &SessionSecret) -> HeaderValue {
        self.set(SESSION, &self.sealed(SESSION, secret), "Strict", None)
    }

    /// Takes it away.
    pub fn end_session(&self) -> HeaderValue {
        self.set(SESSION, "", "Strict", Some(0))
    }

    /// The cookie of a sign-in that has begun. `Lax`: the provider's own page leads back.
    pub fn begin_sign_in(&self, of: &impl Serialize) -> HeaderValue {
        self.set(SIGN_IN, &self.sealed(SIGN_IN, of), "Lax", Some(SIGN_IN_SECONDS_MAX))
    }

    /// Takes it away.
    pub fn end_sign_in(&self) -> HeaderValue {
        self.set(SIGN_IN, "", "Lax", Some(0))
    }

    /// What sign-in a browser has begun.
    pub fn sign_in<T: DeserializeOwned>(&self, headers: &HeaderMap) -> Option<T> {
        self.opened(SIGN_IN, self.cookie(headers, SIGN_IN)?)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", if self.is_tls { "__Host-" } else { "" })
    }

    fn set(&self, name: &str, value: &str, same_site: &str, age: Option<i64>) -> HeaderValue {
        let mut text =
            format!("{}={value}; Path=/; HttpOnly; SameSite={same_site}", self.name(name));
        if let Some(seconds) = age {
            text += &format!("; Max-Age={seconds}");
        }
        if self.is_tls {
            text += "; Secure";
        }
        // What is sealed is letters, digits and dots.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn cookie<'a>(&self, headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        let name = self.name(name);
        let all = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|one| one.split_once('='));
        pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
    }

    fn sealed(&self, place: &str, of: &impl Serialize) -> String {
        let text = serde_json::to_string(of).unwrap_or_default();
        self.seal.seal(place, &text, rand::random())
    }

    /// Nothing but what was sealed here: a text that is not sealed would open as itself.
    fn opened<T: DeserializeOwned>(&self, place: &str, text: &str) -> Option<T> {
        let sealed = Some(text).filter(|text| self.seal.is_current(text))?;
        serde_json::from_str(&self.seal.open(place, sealed).ok()?).ok()
    }
}

/// What a page proves by that it could read an answer: of the session's secret, which it
/// cannot be told from.
pub fn csrf(secret: &SessionSecret) -> String {
    let bound = Sha256::new_with_prefix("vitals csrf\0").chain_update(secret);
    URL_SAFE_NO_PAD.encode(bound.finalize())
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Problem {
        match error {
            SessionError::Database(error) => error.into(),
            SessionError::Denied(denied) => denied.into(),
            SessionError::NoRole(_) => Denied::Unauthorised(error.to_string()).into(),
        }
    }
}
