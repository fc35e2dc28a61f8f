//! What a provider says of itself (OpenID Connect Discovery 1.0, 3 and 4).
//!
//! Guarantees that it is the provider that was configured and no other that speaks in its
//! place, and that nothing of it is reached without TLS, unless it is on this machine.

use reqwest::Url;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
const S256: &str = "S256";
const BASIC: &str = "client_secret_basic";

/// The parts of it that are used.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    issuer: String,
    #[serde(deserialize_with = "url")]
    pub authorization_endpoint: Url,
    #[serde(deserialize_with = "url")]
    pub token_endpoint: Url,
    #[serde(deserialize_with = "url")]
    pub jwks_uri: Url,
    #[serde(default, deserialize_with = "perhaps_url")]
    pub end_session_endpoint: Option<Url>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    /// Whether its answers always say whose they are (RFC 9207).
    #[serde(default, rename = "authorization_response_iss_parameter_supported")]
    pub names_itself: bool,
}

fn url<'de, D: Deserializer<'de>>(from: D) -> Result<Url, D::Error> {
    Url::parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn perhaps_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| Url::parse(&text).map_err(D::Error::custom)).transpose()
}

impl Metadata {
    /// That of an issuer.
    pub fn read(text: &[u8], issuer: &str) -> Result<Metadata, String> {
        let found: Metadata = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if found.issuer != issuer {
            return Err(format!(
                "it calls itself {:?}, and --oidc-issuer says {issuer:?}: they have to be the same to \
                 the letter",
                found.issuer
            ));
        }
        let is_local = Url::parse(issuer).is_ok_and(|url| is_plain(&url));
        let all = [&found.authorization_endpoint, &found.token_endpoint, &found.jwks_uri];
        for url in all.into_iter().chain(&found.end_session_endpoint) {
            let may = url.scheme() == "https" || is_local && is_plain(url);
            if !may {
                return Err(format!("{url} is not https"));
            }
        }
        let challenges = &found.code_challenge_methods_supported;
        if challenges.as_ref().is_some_and(|all| !all.iter().any(|one| one == S256)) {
            return Err("it does not take PKCE with S256".to_owned());
        }
        Ok(found)
    }

    /// Whether a client may send its secret as a header; else it goes into the form.
    pub fn takes_basic(&self) -> bool {
        let methods = &self.token_endpoint_auth_methods_supported;
        methods.as_ref().is_none_or(|all| all.iter().any(|one| one == BASIC))
    }
}

/// Where an issuer says it.
pub fn address(issuer: &str) -> Result<Url, String> {
    let text = format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/'));
    Url::parse(&text).map_err(|error| error.to_string())
}

/// A provider's name, as the operator writes it.
pub fn issuer(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("no URL: {error}"))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err("an issuer is a URL without a user, ? and #".to_owned());
    }
    match url.scheme() {
        "https" => Ok(text.to_owned()),
        "http" if is_loopback(&url) => Ok(text.to_owned()),
        _ => Err("an issuer is an https URL; http is for this machine only".to_owned()),
    }
}

fn is_plain(url: &Url) -> bool {
    url.scheme() == "http" && is_loopback(url)
}

/// Whether a URL leads to this machine.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut document = json!({
            "issuer": "https://login.example.org", "jwks_uri": "https://login.example.org/keys",
            "authorization_endpoint": "https://login.example.org/auth?a=b",
            "token_endpoint": "https://api.example.org/token",
        });
        change(&mut document);
        document.to_string().into_bytes()
    }

    fn read(change: impl FnOnce(&mut Value)) -> Result<Metadata, String> {
        Metadata::read(&document(change), "https://login.example.org")
    }

    #[test]
    fn a_document_of_the_issuer_is_taken_and_one_of_another_is_not() {
        assert!(read(|_| ()).unwrap().takes_basic());
        let posts =
            read(|d| d["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]));
        assert!(!posts.unwrap().takes_basic());
        for (change, says) in [
            (("issuer", json!("https://login.example.org/")), "to the letter"),
            (("issuer", json!("https://evil.example.org")), "to the letter"),
            (("token_endpoint", json!("http://login.example.org/token")), "not https"),
            (("jwks_uri", json!("http://127.0.0.1/keys")), "not https"),
            (("end_session_endpoint", json!("javascript:alert(1)")), "not https"),
            (("code_challenge_methods_supported", json!(["plain"])), "S256"),
            (("jwks_uri", Value::Null), "invalid type"),
        ] {
            let (key, value) = change;
            let said = read(|document| document[key] = value).unwrap_err();
            assert!(said.contains(says), "{key}: {said}");
        }
    }

    #[test]
    fn an_issuer_has_tls_or_is_on_this_machine() {
        for good in [
            "https://a.example/realms/x",
            "http://127.0.0.1:9",
            "http://[::1]:9/",
            "http://localhost:9",
        ] {
            assert_eq!(issuer(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "a",
            "http://a.example",
            "http://127.0.0.1.evil.example",
            "ftp://a",
            "https://a?b",
            "https://u@a",
            "https://a#b",
        ] {
            assert!(issuer(bad).is_err(), "{bad}");
        }
        let found = address("https://a.example/realms/x/").unwrap();
        assert_eq!(found.as_str(), "https://a.example/realms/x/.well-known/openid-configuration");
    }
}
