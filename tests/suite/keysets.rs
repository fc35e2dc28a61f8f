//! Tokens that somebody else signs: keys of a set, in a file or at a URL, that change.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get as route;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::hospital::now;
use crate::support::http::get;
use crate::support::postgres::Database;
use crate::support::server::{SECRET, Server, command};
use crate::support::{eventually, scratch_dir, write_private};

const SOON: Duration = Duration::from_secs(20);
// Made for these tests, and good for nothing else.
const RSA: &[u8] = include_bytes!("../keys/rsa.pem");
const RSA_NEXT: &[u8] = include_bytes!("../keys/rsa2.pem");
const EC: &[u8] = include_bytes!("../keys/ec.pem");
const ED: &[u8] = include_bytes!("../keys/ed.pem");

/// A key of an identity provider.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn new(id: &'static str, algorithm: Algorithm, pem: &[u8]) -> Signer {
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
            _ => EncodingKey::from_ed_pem(pem),
        };
        Signer { id, algorithm, key: key.unwrap() }
    }

    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn token_with(&self, change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        let mut claims = json!({
            "iss": "https://login.hospital.example", "aud": "vitals", "sub": "nurse",
            "tenant": "ward", "scope": "vitals:read", "exp": now().timestamp() + 600,
        });
        change(&mut header, &mut claims);
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }

    fn token(&self) -> String {
        self.token_with(|_, _| {})
    }
}

fn signers() -> [Signer; 3] {
    [
        Signer::new("rsa", Algorithm::RS256, RSA),
        Signer::new("ec", Algorithm::ES256, EC),
        Signer::new("ed", Algorithm::EdDSA, ED),
    ]
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

async fn start(database: &Database, dir: &Path, jwks: &str) -> Result<Server, String> {
    Server::try_start_in(dir, Some(&database.url), &["--jwks", jwks]).await
}

async fn status(server: &Server, token: &str) -> u16 {
    get(&server.url("/api/v1/patients"), token).await.status.as_u16()
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_are_verified_and_none_by_a_key_of_another_kind() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let file = dir.join("keys.json");
    let signers = signers();
    let mut keys: Vec<Value> = signers.iter().map(Signer::public).collect();
    // What cannot verify is passed over: a symmetric key, one for encryption, nonsense.
    let mut sealing = Signer::new("next", Algorithm::RS256, RSA_NEXT).public();
    sealing["use"] = "enc".into();
    keys.extend([json!({ "kty": "oct", "kid": "oct", "k": "c2VjcmV0" }), sealing, json!("key")]);
    std::fs::write(&file, set(&keys)).unwrap();
    let server = start(&database, &dir, file.to_str().unwrap()).await.unwrap();
    for signer in &signers {
        assert_eq!(status(&server, &signer.token()).await, 200, "{}", signer.id);
        let unnamed = signer.token_with(|header, _| header.kid = None);
        assert_eq!(status(&server, &unnamed).await, 200, "{} without its name", signer.id);
        let other = signer.token_with(|_, claims| claims["aud"] = "billing".into());
        assert_eq!(status(&server, &other).await, 401, "{} for another", signer.id);
        let late = signer.token_with(|_, claims| claims["exp"] = (now().timestamp() - 1).into());
        assert_eq!(status(&server, &late).await, 401, "{} too late", signer.id);
        let scopeless = signer.token_with(|_, claims| claims["scope"] = "".into());
        assert_eq!(status(&server, &scopeless).await, 403, "{} without scope", signer.id);
        let misnamed = signer.token_with(|header, _| header.kid = Some("oct".to_owned()));
        assert_eq!(status(&server, &misnamed).await, 401, "{} by another's name", signer.id);
    }
    let stranger = Signer::new("rsa", Algorithm::RS256, RSA_NEXT);
    assert_eq!(status(&server, &stranger.token()).await, 401, "another key of this name");
    let next = Signer::new("next", Algorithm::RS256, RSA_NEXT);
    assert_eq!(status(&server, &next.token()).await, 401, "a key for encryption");
    // A public key as the secret of HMAC, and the symmetric key of the set.
    let public = keys[0]["n"].as_str().unwrap().as_bytes().to_vec();
    for (kid, secret) in [("rsa", &public[..]), ("oct", b"secret"), ("rsa", RSA)] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let claims = json!({ "aud": "vitals", "sub": "n", "tenant": "ward", "scope": "vitals:read", "exp": now().timestamp() + 60 });
        let key = EncodingKey::from_secret(secret);
        let forged = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        assert_eq!(status(&server, &forged).await, 401, "HS256 with {kid}");
    }
    // Our own secret was given in the environment, so it counts beside the set.
    assert_eq!(status(&server, &server.token("vitals:read")).await, 200);
}

#[tokio::test]
async fn keys_of_a_file_change_without_a_restart_and_survive_a_broken_file() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let file = dir.join("keys.json");
    let missing = start(&database, &dir, file.to_str().unwrap()).await;
    assert!(missing.err().unwrap().contains("keys.json"), "a missing file is said at the start");
    let [rsa, ec, _] = signers();
    std::fs::write(&file, set(&[rsa.public()])).unwrap();
    let server = start(&database, &dir, file.to_str().unwrap()).await.unwrap();
    // The same two all along: what was verified once does not outlive its key.
    let (old, new) = (rsa.token(), ec.token());
    assert_eq!((status(&server, &old).await, status(&server, &new).await), (200, 401));
    std::fs::write(&file, set(&[ec.public()])).unwrap();
    eventually("the new key, and the old one to be gone", SOON, || async {
        let now = (status(&server, &old).await, status(&server, &new).await);
        (now == (401, 200)).then_some(())
    })
    .await;
    std::fs::write(&file, "{").unwrap();
    eventually("the broken file to be noticed", SOON, || async {
        server.logged().contains("were not renewed").then_some(())
    })
    .await;
    assert_eq!(status(&server, &new).await, 200, "the keys of before are in force");
}

/// A server of keys: what it answers, and how often it was asked.
#[derive(Clone, Default)]
struct Provider {
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(&self) -> String {
        let provider = self.clone();
        let answer = move || async move {
            provider.asked.fetch_add(1, Ordering::Relaxed);
            let answer = provider.answer.lock().unwrap().clone();
            answer.ok_or(StatusCode::BAD_GATEWAY)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let router = Router::new().route("/keys", route(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn set(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = Some(set(keys));
    }
}

#[tokio::test]
async fn a_key_that_is_new_at_a_url_is_asked_for_when_a_token_names_it_and_not_for_every_token() {
    let (database, dir, provider) = (Database::new().await, scratch_dir(), Provider::default());
    let url = provider.start().await;
    let [rsa, ec, ed] = signers();
    // Not there yet: nobody is let in, and nobody is told that they are nobody.
    let server = start(&database, &dir, &url).await.unwrap();
    assert_eq!(status(&server, &rsa.token()).await, 503);
    provider.set(&[rsa.public()]);
    eventually("the keys", SOON, || async {
        (status(&server, &rsa.token()).await == 200).then_some(())
    })
    .await;
    provider.set(&[rsa.public(), ec.public()]);
    eventually("the new key", SOON, || async {
        (status(&server, &ec.token()).await == 200).then_some(())
    })
    .await;
    // A flood of made-up names does not become a flood of questions.
    let before = provider.asked.load(Ordering::Relaxed);
    for n in 0..30 {
        let made_up = ed.token_with(|header, _| header.kid = Some(format!("made-up-{n}")));
        assert_eq!(status(&server, &made_up).await, 401);
    }
    let asked = provider.asked.load(Ordering::Relaxed) - before;
    assert!(asked <= 3, "{asked} questions");
    // Away, the last set stays in force.
    *provider.answer.lock().unwrap() = None;
    assert_eq!(
        (status(&server, &rsa.token()).await, status(&server, &ec.token()).await),
        (200, 200)
    );
}

#[tokio::test]
async fn without_a_secret_of_its_own_a_server_with_a_set_lets_nobody_in_by_hs256() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let file = dir.join("keys.json");
    std::fs::write(&file, set(&[signers()[0].public()])).unwrap();
    // The file in the data directory is not the environment.
    write_private(&dir.join("jwt-secret"), SECRET);
    let server =
        Server::try_start_without_secret(&dir, &database.url, &["--jwks", file.to_str().unwrap()])
            .await
            .unwrap();
    assert_eq!(status(&server, &signers()[0].token()).await, 200);
    assert_eq!(status(&server, &server.token("vitals:read")).await, 401);
    let said =
        command(&dir, Some(&database.url)).args(["serve", "--jwks", "no/such/file"]).output();
    let said = String::from_utf8(said.await.unwrap().stderr).unwrap();
    assert!(said.contains("no/such/file"), "{said}");
}
