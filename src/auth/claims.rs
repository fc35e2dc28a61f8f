//! What a token says, and what it has to say.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

use super::denied::Denied;

/// Whom our tokens are for.
pub const AUDIENCE: &str = "vitals";
/// The issuer of tokens that this program makes itself.
pub const ISSUER: &str = "vitals";

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
    /// For whom, unless the operator's map says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What they may do, separated by spaces.
    #[serde(default, deserialize_with = "text_or_list")]
    pub scope: String,
    /// Until when, seconds since 1970, whole or not (RFC 7519, 2).
    pub exp: Number,
    /// From when on, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<Number>,
    /// When it was made, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<Number>,
    /// Its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Only this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Only this patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// Only who lies in these wards: a list, or a text with spaces.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "words_or_list")]
    pub wards: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "scope and wards are a text with spaces, or a list of texts")]
enum Either {
    Text(String),
    List(Vec<String>),
}

/// Some providers write a list where RFC 8693 has a text.
fn text_or_list<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(match Either::deserialize(from)? {
        Either::Text(text) => text,
        Either::List(list) => list.join(" "),
    })
}

/// What cannot be read is refused, and not taken for no narrowing: also null.
fn words_or_list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Some(match Either::deserialize(from)? {
        Either::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        Either::List(list) => list,
    }))
}

/// What a token has to hold, whatever signed it.
pub(super) fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    // By our clock, above, and to the second.
    validation.validate_exp = false;
    validation
}

/// What is wrong with a token, for whoever pasted it.
pub(super) fn reason(error: &ErrorKind) -> String {
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

pub(super) fn unauthorised(detail: impl Into<String>) -> Denied {
    Denied::Unauthorised(detail.into())
}
