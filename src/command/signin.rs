//! Signing in with a browser: its options, checked at the start.
//!
//! Guarantees that options which mean nothing without each other are refused, and that nobody
//! signs in over a connection that others can read. A provider that does not answer keeps
//! nothing from starting.

use std::sync::Arc;

use reqwest::Url;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::secret;
use crate::adapter::http::browser::Browsers;
use crate::adapter::http::signin::SignIn;
use crate::audit::Audit;
use crate::auth::Keys;
use crate::auth::oidc::{OidcClient, Provider, is_loopback};
use crate::auth::sessions::Sessions;
use crate::clock::Clock;
use crate::config::{Common, Serving};
use crate::delivery::ack::AckLinks;
use crate::log::Log;
use crate::tasks::Tasks;

/// How people sign in, and the tasks that it takes; nothing without an issuer.
pub fn start(
    (common, serving): (&Common, &Serving),
    log: &Log,
    keys: &Keys,
    links: &AckLinks,
    audit: &Audit,
    (stop, tasks): (&CancellationToken, &Tasks),
) -> Result<Option<Arc<SignIn>>, Error> {
    let Some((client, public_url)) = client(common, serving)? else { return Ok(None) };
    let clock = Clock::system();
    let provider = Arc::new(Provider::new(client, clock.clone(), keys.leeway())?);
    let kept = provider.clone();
    tasks.spawn_until("the identity provider", stop, async move { kept.keep().await });
    let sessions = Sessions::new(log.pool().clone(), keys.clone(), clock.clone());
    tasks.spawn_until("who follows which sessions end", stop, sessions.clone().follow_ended());
    let browsers = Browsers::new(sessions, links.seal("browsers")?, &public_url);
    let of_map = keys.clone();
    let claims = move || of_map.claims_looked_at();
    Ok(Some(Arc::new(SignIn::new(provider, browsers, public_url, claims, audit.clone(), clock))))
}

fn client(common: &Common, serving: &Serving) -> Result<Option<(OidcClient, Url)>, Error> {
    let (issuer, id) = match (&serving.oidc_issuer, &serving.oidc_client_id) {
        (Some(issuer), Some(id)) => (issuer.clone(), id.clone()),
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err("--oidc-issuer needs --oidc-client-id: our name at the provider".into());
        }
        (None, Some(_)) => return Err("--oidc-client-id needs --oidc-issuer: whose client".into()),
    };
    let written = serving.public_url.trim_end_matches('/');
    let url = Url::parse(written).map_err(|_| {
        "--oidc-issuer needs --public-url: the provider sends browsers back to its /auth/callback"
    })?;
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
        let text = format!("{written}: who signs in needs https; http is for this machine only");
        return Err(text.into());
    }
    if !serving.oidc_scope.split_whitespace().any(|scope| scope == "openid") {
        return Err("--oidc-scope has to have openid in it".into());
    }
    let client = OidcClient {
        issuer,
        id,
        secret: secret::oidc_client_secret(common)?,
        scope: serving.oidc_scope.clone(),
        redirect_uri: format!("{written}/auth/callback"),
    };
    Ok(Some((client, url)))
}
