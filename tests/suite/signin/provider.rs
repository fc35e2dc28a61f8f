//! An OpenID provider of the tests: it does what the standard says, and on demand what it
//! must not.
//!
//! Guarantees that a code is good once, for the client that it was asked for, with the verifier
//! of its challenge. Does not show a login: who signs in is said by the test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::seconds_from_now;

pub const CLIENT: &str = "vitals";
pub const SECRET: &str = "p&ss w=rd";
// Made for these tests, and good for nothing else.
const RSA: &[u8] = include_bytes!("../../keys/rsa.pem");

/// Somebody of the ward.
pub fn nurse() -> Value {
    json!({ "sub": "f3a1", "name": "Joy Nurse", "groups": ["icu-nurses"] })
}

/// Makes something else of the ID token: from its claims.
type Tamper = Box<dyn Fn(&Provider, Value) -> String + Send>;

#[derive(Clone)]
pub struct Provider {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    codes: HashMap<String, Code>,
    tamper: Option<Tamper>,
    is_away: bool,
    document: Value,
}

/// What a code stands for.
#[derive(Clone)]
struct Code {
    challenge: String,
    redirect_uri: String,
    claims: Value,
}

pub fn key() -> EncodingKey {
    EncodingKey::from_rsa_pem(RSA).unwrap()
}

pub fn parameters(url: &str) -> HashMap<String, String> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

impl Provider {
    pub async fn start() -> Provider {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let document = json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/keys"),
            "end_session_endpoint": format!("{url}/end"),
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
        });
        let shared = Arc::new(Mutex::new(Shared { document, ..Shared::default() }));
        let provider = Provider { url, shared };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(document_of))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    /// Somebody signs in there; where their browser is sent back to.
    pub fn signed_in(&self, address: &str, person: Value) -> String {
        assert!(address.starts_with(&format!("{}/authorize?", self.url)), "{address}");
        let asked = parameters(address);
        let is = |name: &str, value: &str| assert_eq!(asked[name], value, "{address}");
        is("response_type", "code");
        is("client_id", CLIENT);
        is("scope", "openid");
        is("code_challenge_method", "S256");
        let mut claims = json!({
            "iss": self.url, "aud": CLIENT, "nonce": asked["nonce"],
            "iat": seconds_from_now(0), "exp": seconds_from_now(300),
        });
        claims.as_object_mut().unwrap().extend(person.as_object().unwrap().clone());
        let code = Uuid::new_v4().to_string();
        let stands_for = Code {
            challenge: asked["code_challenge"].clone(),
            redirect_uri: asked["redirect_uri"].clone(),
            claims,
        };
        self.shared.lock().unwrap().codes.insert(code.clone(), stands_for);
        let mut back = Url::parse(&asked["redirect_uri"]).unwrap();
        back.query_pairs_mut()
            .append_pair("code", &code)
            .append_pair("state", &asked["state"])
            .append_pair("iss", &self.url)
            // As Keycloak does.
            .append_pair("session_state", "s-1");
        assert_eq!(back.path(), "/auth/callback");
        format!("{}?{}", back.path(), back.query().unwrap())
    }

    /// From now on ID tokens are what this makes of their claims.
    pub fn tampers(&self, tamper: impl Fn(&Provider, Value) -> String + Send + 'static) {
        self.shared.lock().unwrap().tamper = Some(Box::new(tamper));
    }

    pub fn is_away(&self, is_away: bool) {
        self.shared.lock().unwrap().is_away = is_away;
    }

    /// Changes what it says of itself.
    pub fn says(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.shared.lock().unwrap().document);
    }

    pub fn signed(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("rsa".to_owned());
        jsonwebtoken::encode(&header, claims, &key()).unwrap()
    }
}

async fn document_of(State(provider): State<Provider>) -> Result<Json<Value>, StatusCode> {
    let shared = provider.shared.lock().unwrap();
    if shared.is_away { Err(StatusCode::BAD_GATEWAY) } else { Ok(Json(shared.document.clone())) }
}

async fn keys() -> Json<Value> {
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::RS256).unwrap();
    jwk.common.key_id = Some("rsa".to_owned());
    Json(json!({ "keys": [jwk] }))
}

async fn token(State(provider): State<Provider>, headers: HeaderMap, asked: Bytes) -> Response {
    let asked: HashMap<String, String> = serde_urlencoded::from_bytes(&asked).unwrap();
    let refused = |error: &str| {
        let told = json!({ "error": error, "error_description": "<b>no</b>" });
        (StatusCode::BAD_REQUEST, Json(told)).into_response()
    };
    if provider.shared.lock().unwrap().is_away {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let client = format!("Basic {}", STANDARD.encode("vitals:p%26ss+w%3Drd"));
    if headers.get("authorization").is_none_or(|sent| sent != &*client) {
        return refused("invalid_client");
    }
    let code = provider.shared.lock().unwrap().codes.remove(&asked["code"]);
    let Some(code) = code else { return refused("invalid_grant") };
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&asked["code_verifier"]));
    if challenge != code.challenge || asked["redirect_uri"] != code.redirect_uri {
        return refused("invalid_grant");
    }
    let tamper = provider.shared.lock().unwrap().tamper.take();
    let id_token = match &tamper {
        Some(tamper) => tamper(&provider, code.claims),
        None => provider.signed(&code.claims),
    };
    let tokens = json!({ "access_token": "a", "token_type": "Bearer", "id_token": id_token });
    Json(tokens).into_response()
}
