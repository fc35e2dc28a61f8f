//! `/auth`: signing in and out with a browser, by the identity provider.
//!
//! Guarantees that a sign-in ends in the browser in which it began, once, and that nothing
//! about it is kept in a process: any instance can end it. That a browser is sent to the
//! provider and back to a path of ours, and nowhere else; that nothing of the provider's
//! reaches a browser but its own pages; and that whoever does not get in is told why on a page
//! that does not send them on. Does not judge who may what: that is [`crate::auth`]'s, as for
//! every token.

mod told;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::told::{Known, Refused, tell};
use super::accessed::Peer;
use super::browser::{Browsers, SIGN_IN_SECONDS_MAX, csrf};
use super::problem::Problem;
use crate::audit::Audit;
use crate::auth::oidc::{Begun, Provider, said};
use crate::auth::sessions::{Session, SessionError};
use crate::clock::Clock;
use crate::wire::{BrowserSession, SignedOut};

/// Sign-ins of a process that wait for the provider at one time.
const SIGN_INS_MAX: usize = 16;
/// The longest path that a sign-in leads back to.
const RETURN_CHARS_MAX: usize = 1_024;
/// The longest code of a provider.
const CODE_BYTES_MAX: usize = 4_096;

/// How people sign in, where the operator has named a provider.
pub struct SignIn {
    provider: Arc<Provider>,
    browsers: Arc<Browsers>,
    /// With no slash at its end.
    public_url: Url,
    /// In which claims the map of roles looks.
    claims: Box<dyn Fn() -> Option<Vec<String>> + Send + Sync>,
    audit: Audit,
    clock: Clock,
    places: Semaphore,
}

impl SignIn {
    /// By this provider, at this address of ours.
    pub fn new(
        provider: Arc<Provider>,
        browsers: Browsers,
        public_url: Url,
        claims: impl Fn() -> Option<Vec<String>> + Send + Sync + 'static,
        audit: Audit,
        clock: Clock,
    ) -> SignIn {
        let (browsers, claims) = (Arc::new(browsers), Box::new(claims));
        let places = Semaphore::new(SIGN_INS_MAX);
        SignIn { provider, browsers, public_url, claims, audit, clock, places }
    }

    /// How a request's session is known.
    pub fn browsers(&self) -> Arc<Browsers> {
        self.browsers.clone()
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, Refused> {
        self.places.try_acquire().map_err(|_| Refused::Busy)
    }

    /// Of a path of ours; a host of its own, however it is written, makes it none, and so does what
    /// a browser would take for one (`/.//host` is `//host` once it is resolved).
    fn return_to(&self, path: &str) -> Result<String, Refused> {
        let url = self.public_url.join(path).ok();
        let ours = url.filter(|url| url.origin() == self.public_url.origin());
        let fits = path.starts_with('/') && path.len() <= RETURN_CHARS_MAX;
        let ours = ours.filter(|url| fits && !url.path().starts_with("//"));
        let url = ours.ok_or(Refused::Elsewhere)?;
        let (query, place) = (url.query(), url.fragment());
        Ok(format!(
            "{}{}{}",
            url.path(),
            query.map(|query| format!("?{query}")).unwrap_or_default(),
            place.map(|place| format!("#{place}")).unwrap_or_default()
        ))
    }

    fn login(&self) -> String {
        format!("{}/auth/login", self.public_url.as_str().trim_end_matches('/'))
    }
}

/// All that a provider has to do with; without one they say that there is none.
pub fn routes(sign_in: Option<Arc<SignIn>>) -> Router {
    Router::new()
        .route("/auth/login", get(login))
        .route("/auth/callback", get(callback))
        .route("/auth/session", get(session))
        .route("/auth/logout", post(logout))
        .with_state(sign_in)
}

type Signing = State<Option<Arc<SignIn>>>;

#[derive(Deserialize)]
struct Login {
    #[serde(rename = "return")]
    return_to: Option<String>,
}

/// What a browser keeps while its person is with the provider.
#[derive(Serialize, Deserialize)]
struct Pending {
    begun: Begun,
    return_to: String,
    until: DateTime<Utc>,
}

/// `GET /auth/login`: to the provider.
async fn login(State(sign_in): Signing, uri: Uri) -> Result<Response, Refused> {
    let sign_in = sign_in.ok_or(Refused::NotConfigured)?;
    let Query(Login { return_to }) = Query::try_from_uri(&uri).map_err(|_| Refused::Elsewhere)?;
    let return_to = sign_in.return_to(return_to.as_deref().unwrap_or("/"))?;
    let _place = sign_in.place()?;
    let begun = Begun::new(rand::random());
    let address = sign_in.provider.address(&begun).await?;
    let until = sign_in.clock.now() + TimeDelta::seconds(SIGN_IN_SECONDS_MAX);
    let cookie = sign_in.browsers.begin_sign_in(&Pending { begun, return_to, until });
    Ok(sent_to(address.as_str(), cookie))
}

/// What the provider answers by way of the browser.
#[derive(Deserialize)]
struct Callback {
    state: Option<String>,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// `GET /auth/callback`: back from there.
async fn callback(
    State(sign_in): Signing,
    peer: Option<Extension<Peer>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(sign_in) = sign_in else { return Refused::NotConfigured.into_response() };
    let address = address(peer);
    let mut response = match ended(&sign_in, &uri, &headers, address).await {
        Ok(response) => response,
        Err(refused) => {
            let told = tell(&sign_in.audit, address, &Known::Refused(&refused)).await;
            told.map_or_else(|_| Refused::Busy, |()| refused).into_response()
        }
    };
    // Whatever came of it, it does not end a second time.
    response.headers_mut().append(header::SET_COOKIE, sign_in.browsers.end_sign_in());
    response
}

fn address(peer: Option<Extension<Peer>>) -> Option<IpAddr> {
    peer.map(|Extension(Peer(address))| address.to_canonical())
}

async fn ended(
    sign_in: &SignIn,
    uri: &Uri,
    headers: &HeaderMap,
    address: Option<IpAddr>,
) -> Result<Response, Refused> {
    let Query(answer) = Query::<Callback>::try_from_uri(uri).map_err(|_| Refused::NotBegun)?;
    let pending: Pending = sign_in.browsers.sign_in(headers).ok_or(Refused::NotBegun)?;
    if answer.state.as_ref() != Some(&pending.begun.state) || pending.until <= sign_in.clock.now() {
        return Err(Refused::NotBegun);
    }
    if !sign_in.provider.may_be_of(answer.iss.as_deref()) {
        return Err(Refused::OtherIssuer);
    }
    if let Some(error) = answer.error {
        let words = format!("{error} {}", answer.error_description.unwrap_or_default());
        return Err(Refused::ByProvider(said(words.trim())));
    }
    let code = answer.code.filter(|code| code.len() <= CODE_BYTES_MAX).ok_or(Refused::NotBegun)?;
    let _place = sign_in.place()?;
    let claims = sign_in.provider.claims(&code, &pending.begun).await?;
    let looked_at = (sign_in.claims)();
    let begun = sign_in.browsers.sessions().begin(claims).await;
    let (secret, session) = begun.map_err(|error| Refused::of(error, looked_at))?;
    if tell(&sign_in.audit, address, &Known::SignedIn(&session)).await.is_err() {
        // Nobody is in of whom it is not on record.
        sign_in.browsers.sessions().end(&secret).await.map_err(|_| Refused::Busy)?;
        return Err(Refused::Busy);
    }
    Ok(sent_to(&pending.return_to, sign_in.browsers.begin_session(&secret)))
}

/// `GET /auth/session`: who is signed in, for the page.
async fn session(State(sign_in): Signing, headers: HeaderMap) -> Result<Response, Problem> {
    let Some(sign_in) = sign_in else {
        return Ok(Json(BrowserSession::default()).into_response());
    };
    let nobody = BrowserSession { sign_in: Some(sign_in.login()), ..BrowserSession::default() };
    let Some(secret) = sign_in.browsers.secret(&Method::GET, &headers)? else {
        return Ok(Json(nobody).into_response());
    };
    let Session { caller, name, ends_at } = match sign_in.browsers.sessions().find(&secret).await {
        Ok(session) => session,
        Err(SessionError::Denied(why)) => {
            let over = BrowserSession { why: Some(why.to_string()), ..nobody };
            let mut response = Json(over).into_response();
            response.headers_mut().append(header::SET_COOKIE, sign_in.browsers.end_session());
            return Ok(response);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Json(BrowserSession {
        signed_in: true,
        subject: Some(caller.subject),
        name: Some(name),
        tenant: Some(caller.tenant.to_string()),
        scopes: caller.scopes.list().map(|scope| scope.name()).collect(),
        ends_at: Some(ends_at.into()),
        csrf: Some(csrf(&secret)),
        ..nobody
    })
    .into_response())
}

/// `POST /auth/logout`: over, here and at the provider.
async fn logout(
    State(sign_in): Signing,
    peer: Option<Extension<Peer>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Some(sign_in) = sign_in else {
        return Ok(Json(SignedOut { next: "/".to_owned() }).into_response());
    };
    if let Some(secret) = sign_in.browsers.secret(&method, &headers)? {
        let whose = sign_in.browsers.sessions().find(&secret).await.ok();
        sign_in.browsers.sessions().end(&secret).await?;
        if let Some(session) = whose {
            tell(&sign_in.audit, address(peer), &Known::SignedOut(&session)).await?;
        }
    }
    let home = sign_in.public_url.join("/").map_or_else(|_| "/".to_owned(), String::from);
    let next = sign_in.provider.end(&home).map_or_else(|| "/".to_owned(), String::from);
    let mut response = Json(SignedOut { next }).into_response();
    response.headers_mut().append(header::SET_COOKIE, sign_in.browsers.end_session());
    Ok(response)
}

/// Sends a browser on, with this cookie. Nobody learns where it came from.
fn sent_to(address: &str, cookie: HeaderValue) -> Response {
    let policy = HeaderValue::from_static("no-referrer");
    let mut response = (StatusCode::SEE_OTHER, [(header::REFERRER_POLICY, policy)]).into_response();
    let headers = response.headers_mut();
    if let Ok(address) = HeaderValue::from_str(address) {
        headers.insert(header::LOCATION, address);
    }
    headers.append(header::SET_COOKIE, cookie);
    response
}
