//! What an endpoint may ask for, read and judged: each refusal has its place and its mend.

use std::collections::BTreeMap;

use super::super::problem::Problem;
use crate::delivery::endpoint::Payload;
use crate::delivery::heartbeat::{PACE_SECONDS_MAX, PACE_SECONDS_MIN};
use crate::delivery::state::EndpointState;
use crate::delivery::webhook::guard::{ForbiddenUrl, Guard};
use crate::delivery::webhook::key::{Key, Scheme};
use crate::delivery::webhook::{Certificate, Headers, HeadersError, pem};
use crate::event::{
    ALERT_CORRECTED, ALERT_MISSED, ALERT_RETRACTED, ENDPOINT_DISABLED, ENDPOINT_REACHABLE,
    ENDPOINT_UNREACHABLE,
};

/// Event names of one endpoint.
const EVENTS_MAX: usize = 50;
const DESCRIPTION_CHARS_MAX: usize = 500;

/// What the platform says by itself, whatever the rules are.
const OF_THE_PLATFORM: [&str; 6] = [
    ALERT_CORRECTED,
    ALERT_MISSED,
    ALERT_RETRACTED,
    ENDPOINT_DISABLED,
    ENDPOINT_UNREACHABLE,
    ENDPOINT_REACHABLE,
];

/// Whether a tenant's URL may be called, as far as it can be known now.
pub async fn check_url(guard: &Guard, tenant: &str, url: &str) -> Result<(), Problem> {
    let guard = guard.of_tenant(tenant);
    let refused = |error: ForbiddenUrl| Problem::invalid(error.code(), "/url", error.to_string());
    let url = guard.check_url(url).map_err(refused)?;
    guard.check_resolved(&url).await.map_err(refused)
}

/// Whether these are names of events. `of_rules` are those that the tenant's rules raise. A
/// fallback may name none: it gets what others cannot take.
pub fn check_events(events: &[String], of_rules: &[String], fallback: bool) -> Result<(), Problem> {
    if (events.is_empty() && !fallback) || events.len() > EVENTS_MAX {
        let detail = format!("events holds 1 to {EVENTS_MAX} event names, or \"*\"");
        return Err(Problem::invalid("invalid_events", "/events", detail));
    }
    let mut known: Vec<&str> = of_rules.iter().map(|event| &**event).collect();
    known.extend(OF_THE_PLATFORM);
    for (i, event) in events.iter().enumerate() {
        if event != "*" && !known.contains(&&**event) {
            let detail = format!(
                "nothing raises an event of this name: it is \"*\" for every alert, or one of {}; a rule has \
                 to be there before its event is named",
                known.join(", ")
            );
            return Err(Problem::invalid("invalid_events", &format!("/events/{i}"), detail));
        }
    }
    Ok(())
}

/// Whether a description fits.
pub fn check_description(description: Option<&str>) -> Result<(), Problem> {
    let text = description.unwrap_or_default();
    if text.chars().count() > DESCRIPTION_CHARS_MAX || text.contains('\0') {
        let detail = format!("description has {DESCRIPTION_CHARS_MAX} characters at most, no NUL");
        return Err(Problem::invalid("invalid_description", "/description", detail));
    }
    Ok(())
}

/// What an endpoint's owner may make of its state.
pub fn state(name: &str) -> Result<EndpointState, Problem> {
    let own = EndpointState::of(name).filter(|state| *state != EndpointState::Disabled);
    own.ok_or_else(|| Problem::invalid("invalid_state", "/state", "state is active or paused"))
}

/// How deliveries are signed: HMAC unless asked otherwise.
pub fn scheme(name: Option<&str>) -> Result<Scheme, Problem> {
    name.map_or(Some(Scheme::Hmac), Scheme::of).ok_or_else(|| {
        let detail = "signature is \"hmac\" (v1, a shared secret) or \"ed25519\" (v1a, a key pair)";
        Problem::invalid("invalid_signature", "/signature", detail)
    })
}

/// The key that was sent, or a fresh one.
pub fn key(scheme: Scheme, secret: Option<&str>) -> Result<Key, Problem> {
    match secret {
        Some(text) => Key::parse_as(scheme, text)
            .map_err(|error| Problem::invalid("invalid_secret", "/secret", error.to_string())),
        None => Ok(Key::generate(scheme, rand::random())),
    }
}

/// Headers of the endpoint's own.
pub fn headers(headers: &BTreeMap<String, String>) -> Result<Headers, Problem> {
    let pairs = headers.iter().map(|(name, value)| (&**name, &**value));
    Headers::read(pairs).map_err(|error: HeadersError| {
        let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
        let name = error.name().map(|name| format!("/{}", escaped(name))).unwrap_or_default();
        Problem::invalid("invalid_headers", &format!("/headers{name}"), error.to_string())
    })
}

/// A client certificate and its key: both, or neither.
pub fn certificate(
    certificate: Option<String>,
    key: Option<String>,
) -> Result<Option<Certificate>, Problem> {
    let no = |pointer: &str, detail: String| {
        Problem::invalid("invalid_client_certificate", pointer, detail)
    };
    let pair = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (None, Some(_)) => {
            return Err(no("/clientCertificate", "a clientKey needs its certificate".to_owned()));
        }
        (Some(_), None) => {
            return Err(no("/clientKey", "a clientCertificate needs its key".to_owned()));
        }
    };
    if let Some(kind) = pem::what_else(&pair.0) {
        let detail = format!(
            "clientCertificate is shown to whoever asks, and holds a block \"{kind}\": it takes \
             certificates alone, and the private key goes into clientKey; if this one was sent before, \
             make a new one"
        );
        return Err(no("/clientCertificate", detail));
    }
    let read = Certificate::read(pair.0, pair.1);
    read.map(Some).map_err(|error| no("/clientCertificate", error.to_string()))
}

/// A certificate is only ever asked for over TLS.
pub fn check_tls(url: &str, certificate: bool) -> Result<(), Problem> {
    if certificate && !url.starts_with("https:") {
        let detail = "a client certificate is only used with https";
        return Err(Problem::invalid("invalid_client_certificate", "/url", detail));
    }
    Ok(())
}

/// How much deliveries tell: everything unless asked otherwise.
pub fn payload(name: &str) -> Result<Payload, Problem> {
    Payload::of(name).ok_or_else(|| {
        let detail = "payload is \"full\", or \"thin\" for links without patient and values";
        Problem::invalid("invalid_payload", "/payload", detail)
    })
}

/// The pace of heartbeats in seconds, from a text like 60s.
pub fn heartbeat(text: &str) -> Result<i32, Problem> {
    let pace = humantime::parse_duration(text).ok().filter(|pace| pace.subsec_nanos() == 0);
    let seconds = pace.and_then(|pace| i32::try_from(pace.as_secs()).ok());
    let in_range = seconds.filter(|s| (PACE_SECONDS_MIN..=PACE_SECONDS_MAX).contains(s));
    in_range.ok_or_else(|| {
        let detail = format!(
            "heartbeat is a time of {PACE_SECONDS_MIN} to {PACE_SECONDS_MAX} whole seconds, like \
             \"60s\" or \"5m\""
        );
        Problem::invalid("invalid_heartbeat", "/heartbeat", detail)
    })
}
