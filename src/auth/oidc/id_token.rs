//! An ID token (OpenID Connect Core 1.0, 3.1.3.7).
//!
//! Guarantees that its claims are of the issuer, for this client, for this sign-in, and not
//! over. Of the algorithms only those that [`Jwks`] has keys of: never `none`, and never a
//! shared secret.

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use super::client::{OidcClient, ProviderError};
use crate::auth::jwks::{Jwks, Unverified};

/// The claims of a token; `now` is what its end is held against.
pub async fn verified(
    token: &str,
    keys: &Jwks,
    client: &OidcClient,
    nonce: &str,
    now: DateTime<Utc>,
) -> Result<Map<String, Value>, ProviderError> {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| refused("it is no token that is signed as is taken here"))?;
    if header.crit.is_some() {
        return Err(refused("it demands what is not understood here (crit)"));
    }
    let validation = |algorithm: Algorithm| {
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&client.id]);
        validation.set_issuer(&[&client.issuer]);
        validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
        // By our clock, below.
        validation.validate_exp = false;
        validation
    };
    let claims = keys.claims(token, &header, validation).await.map_err(|why| match why {
        Unverified::NoKeys => ProviderError::Away("its keys are not known yet".to_owned()),
        Unverified::UnknownKey => {
            refused("it is signed with a key that is not in the provider's set, or not with RS256, ES256 or EdDSA")
        }
        Unverified::Refused(kind) => refused(&reason(&kind)),
    })?;
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let is_over = |exp: f64| exp * 1_000.0 <= now.timestamp_millis() as f64;
    if claims.get("exp").and_then(Value::as_f64).is_none_or(is_over) {
        return Err(refused("it has expired (exp): do the clocks agree?"));
    }
    if text("nonce") != Some(nonce) {
        return Err(refused("it was made for another sign-in (nonce)"));
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    match claims.contains_key("azp") {
        true if text("azp") != Some(&client.id) => {
            Err(refused("it was given to another client (azp)"))
        }
        false if several => {
            Err(refused("it is for several, and does not say for whom it was made (azp)"))
        }
        _ => Ok(claims),
    }
}

fn refused(why: &str) -> ProviderError {
    ProviderError::IdToken(why.to_owned())
}

fn reason(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::InvalidSignature => "its signature is not by the provider's key".to_owned(),
        ErrorKind::InvalidAudience => "it is for another client (aud)".to_owned(),
        ErrorKind::InvalidIssuer => "it is of another issuer (iss)".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it lacks the claim {claim}"),
        other => format!("{other:?}"),
    }
}
