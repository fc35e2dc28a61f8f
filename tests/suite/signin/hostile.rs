//! Sign-ins that must not come about: an ID token that is not good, an answer that was begun
//! elsewhere, a way back that leads away.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use vitals::delivery::ack::AckLinks;

use super::browser::{Browser, ORIGIN};
use super::provider::{CLIENT, Provider, SECRET, nurse, parameters};
use super::{seconds_from_now, start};
use crate::support::eventually;
use crate::support::http;
use crate::support::postgres::Database;

type Change = fn(&mut Value);

#[tokio::test]
async fn an_id_token_that_is_not_for_this_sign_in_is_refused_whatever_is_wrong_with_it() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    let changed: [(&str, Change, &str); 12] = [
        ("a wrong nonce", |c| c["nonce"] = "other".into(), "nonce"),
        ("no nonce", |c| drop(c.as_object_mut().unwrap().remove("nonce")), "nonce"),
        ("another client's", |c| c["aud"] = "billing".into(), "aud"),
        ("the API's audience", |c| c["aud"] = "billing vitals".into(), "aud"),
        ("for several", |c| c["aud"] = json!([CLIENT, "billing"]), "azp"),
        ("given to another", |c| c["azp"] = "billing".into(), "azp"),
        ("another issuer's", |c| c["iss"] = "http://127.0.0.1:1".into(), "iss"),
        ("over", |c| c["exp"] = (seconds_from_now(-1)).into(), "exp"),
        ("without an end", |c| drop(c.as_object_mut().unwrap().remove("exp")), "exp"),
        ("an end that is no number", |c| c["exp"] = "never".into(), "exp"),
        ("of nobody", |c| drop(c.as_object_mut().unwrap().remove("sub")), "sub"),
        ("without an audience", |c| drop(c.as_object_mut().unwrap().remove("aud")), "aud"),
    ];
    for (what, change, says) in changed {
        provider.tampers(move |provider, mut claims| {
            change(&mut claims);
            provider.signed(&claims)
        });
        refused(&server, &provider, what, says).await;
    }
    // A good one in between: it is not that nothing is taken.
    Browser::signed_in(&server, &provider, nurse()).await;
    provider.tampers(|provider, mut claims| {
        claims["aud"] = json!([CLIENT, "billing"]);
        claims["azp"] = CLIENT.into();
        provider.signed(&claims)
    });
    Browser::signed_in(&server, &provider, nurse()).await;

    provider.tampers(|_, claims| {
        use base64::Engine;
        let part = |value: &Value| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
        };
        format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(&claims))
    });
    refused(&server, &provider, "alg none", "signed as is taken").await;
    for secret in [SECRET.as_bytes(), include_bytes!("../../keys/rsa.pem")] {
        provider.tampers(move |_, claims| {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some("rsa".to_owned());
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
        });
        refused(&server, &provider, "HS256", "not with RS256").await;
    }
    provider.tampers(|_, claims| {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("rsa".to_owned());
        let other = EncodingKey::from_rsa_pem(include_bytes!("../../keys/rsa2.pem")).unwrap();
        jsonwebtoken::encode(&header, &claims, &other).unwrap()
    });
    refused(&server, &provider, "another key", "signature").await;
    provider.tampers(|provider, claims| provider.signed(&claims).replace('.', ""));
    refused(&server, &provider, "no token", "signed as is taken").await;
    let open = "select count(*) from session";
    assert_eq!(sqlx::query_scalar::<_, i64>(open).fetch_one(&database.pool()).await.unwrap(), 2);
    let metrics = http::get(&server.url("/metrics"), "").await.text;
    assert!(
        metrics.contains("vitals_sign_ins_total{outcome=\"id_token_refused\"} 17"),
        "{metrics}"
    );
    assert!(metrics.contains("vitals_sign_ins_total{outcome=\"signed_in\"} 2"), "{metrics}");
}

async fn refused(
    server: &crate::support::server::Server,
    provider: &Provider,
    what: &str,
    says: &str,
) {
    let mut browser = Browser::new(server);
    let told = browser.signs_in(provider, nurse()).await;
    assert_eq!(told.status, 502, "{what}: {}", told.text);
    assert!(told.text.contains(says), "{what}: {}", told.text);
    assert!(!browser.has("vitals_session") && !browser.has("vitals_sign_in"), "{what}");
}

#[tokio::test]
async fn a_sign_in_ends_once_and_in_the_browser_where_it_began() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    let began = |text: &str| text.contains("begun in another browser");

    // The attacker's own answer, in the victim's browser: without a sign-in, and with another.
    let mut attacker = Browser::new(&server);
    let begun = attacker.get("/auth/login").await;
    let theirs = provider.signed_in(begun.location(), nurse());
    let mut victim = Browser::new(&server);
    let told = victim.get(&theirs).await;
    assert!(told.status == 400 && began(&told.text), "{}", told.text);
    let begun = victim.get("/auth/login").await;
    let told = victim.get(&theirs).await;
    assert!(told.status == 400 && began(&told.text), "{}", told.text);
    // And that ends the victim's: whoever guesses has one guess.
    let own = provider.signed_in(begun.location(), nurse());
    assert_eq!(victim.get(&own).await.status, 400);
    assert!(!victim.has("vitals_session"));

    // Used once more, with the cookie of the first time.
    let cookie = attacker.cookies();
    assert_eq!(attacker.get(&theirs).await.status, 303);
    let told = attacker.get(&theirs).await;
    assert!(told.status == 400 && began(&told.text), "{}", told.text);
    let told = attacker.send("GET", &theirs, &[("cookie", &cookie[0])], None).await;
    assert_eq!(told.status, 502, "{}", told.text);
    assert!(told.text.contains("invalid_grant &lt;b&gt;no"), "{}", told.text);

    // An answer of another provider; of one that does not say whose it is, though it always does.
    for (changed, by) in [
        (format!("iss={}", "http%3A%2F%2F127.0.0.1%3A1"), "another"),
        ("nothing=".to_owned(), "nobody"),
    ] {
        let mut browser = Browser::new(&server);
        let begun = browser.get("/auth/login").await;
        let back = provider.signed_in(begun.location(), nurse());
        let (before, after) = back.split_once("iss=").unwrap();
        let rest = after.split_once('&').unwrap().1;
        let told = browser.get(&format!("{before}{changed}&{rest}")).await;
        assert_eq!(told.status, 400, "{by}: {}", told.text);
        assert!(told.text.contains("not of the identity provider"), "{by}: {}", told.text);
    }

    // What the provider says is text, on a page that sends nobody on.
    let mut browser = Browser::new(&server);
    let begun = browser.get("/auth/login").await;
    let state = &parameters(begun.location())["state"];
    let back = format!(
        "/auth/callback?state={state}&iss={}&error=access_denied&error_description=<script>no</script>",
        provider.url
    );
    let told = browser.get(&back).await;
    assert_eq!(told.status, 403);
    assert!(told.text.contains("access_denied &lt;script&gt;no"), "{}", told.text);
    let policy = told.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[tokio::test]
async fn what_a_browser_keeps_of_a_sign_in_is_sealed_and_good_for_ten_minutes() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    let key: String =
        sqlx::query_scalar("select secret from ack_key").fetch_one(&database.pool()).await.unwrap();
    let seal = AckLinks::new(&key).seal("browsers").unwrap();
    for (minutes, status) in [(1, 303), (-1, 400)] {
        let mut browser = Browser::new(&server);
        let begun = browser.get("/auth/login").await;
        let back = provider.signed_in(begun.location(), nurse());
        let cookie = browser.cookies()[0].split_once('=').unwrap().1.to_owned();
        let kept = seal.open("vitals_sign_in", &cookie).unwrap();
        let mut kept: Value = serde_json::from_str(&kept).unwrap();
        let until = crate::hospital::now() + chrono::TimeDelta::minutes(minutes);
        kept["until"] = vitals::clock::rfc3339(until).into();
        // As it lies, it is nothing: only what is sealed is read, and only in its place.
        let mut plain = Browser::new(&server);
        for written in [kept.to_string(), seal.seal("vitals_session", &kept.to_string(), [1; 12])] {
            plain.keep("vitals_sign_in", &written);
            assert_eq!(plain.get_as_is(&back).await.status, 400);
        }
        browser.keep("vitals_sign_in", &seal.seal("vitals_sign_in", &kept.to_string(), [2; 12]));
        assert_eq!(browser.get(&back).await.status, status, "{minutes}");
    }
    // A session's likewise.
    let browser = Browser::signed_in(&server, &provider, nurse()).await;
    let cookie = browser.cookies()[0].split_once('=').unwrap().1.to_owned();
    let secret = seal.open("vitals_session", &cookie).unwrap();
    for forged in [&*secret, "x", "", &cookie[..cookie.len() - 1]] {
        let cookie = format!("vitals_session={forged}");
        let answer = browser.send("GET", "/api/v1/patients", &[("cookie", &cookie)], None).await;
        assert_eq!(answer.status, 401, "{forged}");
    }
}

#[tokio::test]
async fn a_sign_in_leads_back_to_a_path_of_ours_and_nowhere_else() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    for away in [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/.//evil.example",
        "/a/..//evil.example",
        "/%252e//evil.example",
        "/%09/evil.example",
        "\\\\evil.example",
        "%20//evil.example",
        "javascript:alert(1)",
        "evil",
        "",
        "/%0d%0a//evil.example",
        "http://127.0.0.1:1@evil.example/",
        &format!("/{}", "a".repeat(1_024)),
    ] {
        let mut browser = Browser::new(&server);
        let told = browser.get(&format!("/auth/login?return={away}")).await;
        assert_eq!(told.status, 400, "{away}: {}", told.text);
        assert!(!browser.has("vitals_sign_in"), "{away}");
    }
    for (path, leads_to) in [
        ("/docs", "/docs"),
        ("/a/../docs", "/docs"),
        ("/%3Fward=4B%26a=%0d%0ab", "/?ward=4B&a=b"),
        ("/%23here", "/#here"),
    ] {
        let mut browser = Browser::new(&server);
        let begun = browser.get(&format!("/auth/login?return={path}")).await;
        assert_eq!(parameters(begun.location())["redirect_uri"], format!("{ORIGIN}/auth/callback"));
        let back = provider.signed_in(begun.location(), nurse());
        assert_eq!(browser.get(&back).await.location(), leads_to);
    }
}

#[tokio::test]
async fn a_provider_that_calls_itself_something_else_is_not_believed() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    provider.says(|document| document["issuer"] = "https://evil.example".into());
    let server = start(&database, &provider).await;
    let told = Browser::new(&server).get("/auth/login").await;
    assert_eq!(told.status, 502, "{}", told.text);
    assert!(told.text.contains("the same to the letter"), "{}", told.text);
    let url = provider.url.clone();
    provider.says(|document| {
        document["issuer"] = url.into();
        document["token_endpoint"] = "http://login.example.org/token".into();
    });
    eventually("what it says to be read anew", super::SOON, async || {
        let told = Browser::new(&server).get("/auth/login").await;
        told.text.contains("http://login.example.org/token is not https").then_some(())
    })
    .await;
}
