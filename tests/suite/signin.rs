//! Signing in with a browser: what a session is, what it opens, and how it ends.
//!
//! The provider is one of the tests (`signin/provider.rs`), over real sockets, and the browser
//! a client that keeps cookies. What a real provider and a real browser say of it:
//! `tests/outside/signin.sh`.

mod browser;
mod hostile;
mod provider;
mod tickets;

use std::time::Duration;

use serde_json::json;

use self::browser::{Browser, ORIGIN};
use self::provider::{Provider, nurse};
use crate::hospital::{Hospital, now};
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT, command};
use crate::support::{eventually, http, scratch_dir};

const SOON: Duration = Duration::from_secs(20);
const MAP: &str = r#"
claims = ["groups"]
tenant = "hospital-1"
[[grant]]
value = "icu-nurses"
role = "nurse"
[[grant]]
value = "operators"
role = "administrator"
"#;

/// A server whose people sign in with this provider, as if it were reached at [`ORIGIN`].
async fn start(database: &Database, provider: &Provider) -> Server {
    start_with(database, provider, MAP).await.0
}

async fn start_with(
    database: &Database,
    provider: &Provider,
    map: &str,
) -> (Server, std::path::PathBuf) {
    let dir = scratch_dir();
    let file = dir.join("roles.toml");
    std::fs::write(&file, map).unwrap();
    let mut command = command(&dir, Some(&database.url));
    command.env("VITALS_OIDC_CLIENT_SECRET", provider::SECRET);
    let options = [
        "--oidc-issuer",
        &provider.url,
        "--oidc-client-id",
        provider::CLIENT,
        "--public-url",
        ORIGIN,
        "--jwt-roles",
        file.to_str().unwrap(),
    ];
    let server = Server::spawn(command, &dir, &options).await;
    (server.unwrap_or_else(|said| panic!("{said}")), file)
}

#[tokio::test]
async fn who_signs_in_is_who_the_provider_says_with_what_the_map_says_on_every_instance() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let (one, other) = tokio::join!(start(&database, &provider), start(&database, &provider));
    let mut browser = Browser::new(&one);
    assert_eq!(browser.session().await["signedIn"], false);
    let begun = browser.get("/auth/login?return=/%3Fward=4B").await;
    assert_eq!(begun.status, 303, "{}", begun.text);
    assert!(begun.cookie("vitals_sign_in").contains("; HttpOnly; SameSite=Lax; Max-Age=600"));
    let callback = provider.signed_in(begun.location(), nurse());
    // It began at one instance, and ends at another.
    browser.server(&other);
    let ended = browser.get(&callback).await;
    assert_eq!((ended.status, ended.location()), (303, "/?ward=4B"), "{}", ended.text);
    let cookie = ended.cookie("vitals_session");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!browser.has("vitals_sign_in"), "it does not end twice");
    let session = browser.session().await;
    assert_eq!(
        (&session["signedIn"], &session["subject"], &session["name"], &session["tenant"]),
        (&json!(true), &json!("f3a1"), &json!("Joy Nurse"), &json!(TENANT))
    );
    assert_eq!(session["scopes"], json!(["vitals:read", "alerts:read", "alerts:ack"]));
    let found = browser.get("/api/v1/patients").await;
    assert_eq!(found.status, 200, "{}", found.text);
    browser.server(&one);
    assert_eq!(browser.get("/api/v1/patients").await.status, 200);
    assert_eq!(browser.get("/api/v1/rules").await.status, 403, "no role of hers");
    // Nothing of the provider's is in the browser, and nothing of the browser's in the database.
    let kept = browser.cookies().join(" ");
    assert!(!kept.contains("Joy") && !kept.contains("f3a1"), "{kept}");
    let cookie = kept.split("vitals_session=").nth(1).unwrap();
    let stored: String = sqlx::query_scalar("select string_agg(s::text, ' ') from session s")
        .fetch_one(&database.pool())
        .await
        .unwrap();
    assert!(!stored.contains(cookie) && stored.contains("f3a1"), "{stored}");
    // A restart is none of its business.
    drop((one, other));
    let again = start(&database, &provider).await;
    browser.server(&again);
    assert_eq!(browser.get("/api/v1/patients").await.status, 200);
}

#[tokio::test]
async fn a_session_counts_for_our_own_page_and_what_it_changes_has_its_token() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    let browser = Browser::signed_in(&server, &provider, nurse()).await;
    let alert = alert(&server).await;
    let path = format!("/api/v1/alerts/{alert}/ack");
    let csrf = browser.csrf().await;
    for (what, headers) in [
        ("without the token", vec![("origin", ORIGIN)]),
        (
            "with another token",
            vec![
                ("origin", ORIGIN),
                ("x-csrf-token", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            ],
        ),
        ("from nowhere", vec![("x-csrf-token", &*csrf)]),
        ("from elsewhere", vec![("x-csrf-token", &*csrf), ("origin", "https://evil.example")]),
        ("from null", vec![("x-csrf-token", &*csrf), ("origin", "null")]),
        (
            "from a sibling",
            vec![("x-csrf-token", &*csrf), ("origin", ORIGIN), ("sec-fetch-site", "same-site")],
        ),
        ("by an address", vec![("x-csrf-token", &*csrf), ("sec-fetch-site", "none")]),
    ] {
        let answer = browser.send("POST", &path, &headers, Some("{}")).await;
        assert_eq!((answer.status, &answer.json["code"]), (403, &json!("csrf")), "{what}");
    }
    for origin in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let answer = browser.send("GET", "/api/v1/patients", &[origin], None).await;
        assert_eq!((answer.status, &answer.json["code"]), (403, &json!("csrf")), "{origin:?}");
        let answer = browser.send("GET", "/auth/session", &[origin], None).await;
        assert_eq!(answer.status, 403, "{origin:?}");
    }
    // Nothing of it came through; a token of one's own needs no proof, and is who counts.
    let own = server.token("readings:write");
    let bearer = format!("Bearer {own}");
    let answer = browser.send("POST", &path, &[("authorization", &bearer)], Some("{}")).await;
    assert_eq!(answer.json["code"], "scope_missing", "{}", answer.text);
    let read = server.token("alerts:read");
    let found = http::get(&server.url(&format!("/api/v1/alerts/{alert}")), &read).await;
    assert_eq!(found.json["acknowledged"], json!(null));
    let headers = [("origin", ORIGIN), ("x-csrf-token", &*csrf), ("sec-fetch-site", "same-origin")];
    let answer = browser.send("POST", &path, &headers, Some("{}")).await;
    assert_eq!((answer.status, &answer.json["acknowledged"]["subject"]), (200, &json!("f3a1")));
    // Readings have a way of their own, with the same judge.
    let answer = browser.send("POST", "/api/v1/readings", &[("origin", ORIGIN)], Some("[]")).await;
    assert_eq!((answer.status, &answer.json["code"]), (403, &json!("csrf")));
}

async fn alert(server: &Server) -> String {
    let hospital = Hospital::new(server, TENANT);
    hospital.measure("101", 130.0).await;
    eventually("an alert", SOON, async || {
        let found = hospital.found("/alerts?state=active").await;
        found["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn signing_out_ends_it_everywhere_with_what_it_has_open() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let (one, other) = tokio::join!(start(&database, &provider), start(&database, &provider));
    let mut browser = Browser::signed_in(&one, &provider, nurse()).await;
    let mut second = Browser::signed_in(&one, &provider, nurse()).await;
    browser.server(&other);
    let mut stream = browser.open("/api/v1/stream").await;
    browser.server(&one);
    // Not by another site, and not without the token.
    let forged = browser.send("POST", "/auth/logout", &[("origin", "https://evil.example")], None);
    assert_eq!(forged.await.status, 403);
    assert_eq!(browser.send("POST", "/auth/logout", &[("origin", ORIGIN)], None).await.status, 403);
    let kept = browser.cookies();
    let answer = browser.post("/auth/logout", "").await;
    let next = answer.json["next"].as_str().unwrap();
    assert!(next.starts_with(&format!("{}/end?client_id=vitals&", provider.url)), "{next}");
    assert!(!next.contains("id_token"), "{next}");
    assert!(!browser.has("vitals_session"));
    // Whoever has kept the cookie has nothing.
    for server in [&one, &other] {
        browser.server(server);
        let answer = browser.send("GET", "/api/v1/patients", &[("cookie", &kept[0])], None).await;
        assert_eq!(answer.status, 401, "{}", answer.text);
        assert!(answer.json["detail"].as_str().unwrap().contains("sign in again"));
    }
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(SOON, ended).await.expect("the stream ends");
    // The same person at another browser goes on.
    second.server(&other);
    assert_eq!(second.get("/api/v1/patients").await.status, 200);
}

#[tokio::test]
async fn who_is_revoked_is_out_at_once_with_what_they_have_open() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let (one, other) = tokio::join!(start(&database, &provider), start(&database, &provider));
    let mut browser = Browser::signed_in(&one, &provider, nurse()).await;
    let mut stream = browser.open("/api/v1/stream").await;
    let revoke = json!({ "sub": "f3a1", "reason": "left" });
    let answer =
        http::post(&one.url("/api/v1/tokens/revoke"), &one.token("tokens:revoke"), &revoke).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = browser.get("/api/v1/patients").await;
    assert_eq!(answer.status, 401);
    assert!(answer.text.contains("was revoked"), "{}", answer.text);
    browser.server(&other);
    eventually("the other instance to know", SOON, async || {
        (browser.get_as_is("/api/v1/patients").await.status == 401).then_some(())
    })
    .await;
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(SOON, ended).await.expect("the stream ends");
    let session = browser.session().await;
    assert_eq!(session["signedIn"], false, "{session}");
    assert!(session["why"].as_str().unwrap().contains("revoked"), "{session}");
}

#[tokio::test]
async fn a_session_ends_by_itself_after_a_shift_and_when_nobody_uses_it() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    let pool = database.pool();
    for (what, status) in [
        ("seen_at = seen_at - interval '29 min'", 200),
        ("seen_at = seen_at - interval '31 min'", 401),
        ("ends_at = ends_at - interval '11 h 59 min'", 200),
        ("ends_at = ends_at - interval '12 h'", 401),
    ] {
        let browser = Browser::signed_in(&server, &provider, nurse()).await;
        let changed = format!("update session set {what} where ended_at is null");
        sqlx::query(sqlx::AssertSqlSafe(changed)).execute(&pool).await.unwrap();
        assert_eq!(browser.get_as_is("/api/v1/patients").await.status, status, "{what}");
        sqlx::query("delete from session").execute(&pool).await.unwrap();
    }
    // What is used goes on: an open page asks once a minute.
    let browser = Browser::signed_in(&server, &provider, nurse()).await;
    let earlier = "update session set seen_at = seen_at - interval '2 min'";
    sqlx::query(earlier).execute(&pool).await.unwrap();
    assert_eq!(browser.get_as_is("/api/v1/patients").await.status, 200);
    let fresh = "select seen_at > now() - interval '1 min' from session";
    assert!(sqlx::query_scalar::<_, bool>(fresh).fetch_one(&pool).await.unwrap());
    // And of one person's the oldest makes room.
    for _ in 0..20 {
        Browser::signed_in(&server, &provider, nurse()).await;
    }
    assert_eq!(browser.get_as_is("/api/v1/patients").await.status, 401);
    let open = "select count(*) from session where ended_at is null";
    assert_eq!(sqlx::query_scalar::<_, i64>(open).fetch_one(&pool).await.unwrap(), 20);
}

#[tokio::test]
async fn who_has_no_role_is_told_what_is_missing_and_a_changed_map_counts_at_once() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let (server, file) = start_with(&database, &provider, MAP).await;
    let mut guest = nurse();
    guest["groups"] = json!(["visitors"]);
    let mut browser = Browser::new(&server);
    let told = browser.signs_in(&provider, guest.clone()).await;
    assert_eq!(told.status, 403);
    assert!(told.text.contains("knows you as f3a1, and none of your groups"), "{}", told.text);
    assert!(!browser.has("vitals_session"));
    let none = "select count(*) from session";
    assert_eq!(sqlx::query_scalar::<_, i64>(none).fetch_one(&database.pool()).await.unwrap(), 0);
    let browser = Browser::signed_in(&server, &provider, nurse()).await;
    assert_eq!(browser.get_as_is("/api/v1/patients").await.status, 200);
    std::fs::write(&file, MAP.replace("icu-nurses", "other-nurses")).unwrap();
    eventually("the map to count", SOON, async || {
        (browser.get_as_is("/api/v1/patients").await.status == 403).then_some(())
    })
    .await;
    // For who is another tenant's by now the session is over.
    std::fs::write(&file, MAP.replace("hospital-1", "hospital-2")).unwrap();
    eventually("the map to count", SOON, async || {
        (browser.get_as_is("/api/v1/patients").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_and_sessions_go_on() {
    let (database, provider) = (Database::new().await, Provider::start().await);
    let server = start(&database, &provider).await;
    let browser = Browser::signed_in(&server, &provider, nurse()).await;
    let mut late = Browser::new(&server);
    let begun = late.get("/auth/login").await;
    let callback = provider.signed_in(begun.location(), nurse());
    provider.is_away(true);
    eventually("a page that says it", SOON, async || {
        let told = Browser::new(&server).get("/auth/login").await;
        (told.status == 503 && told.text.contains("does not answer")).then_some(())
    })
    .await;
    let told = late.get(&callback).await;
    assert_eq!(told.status, 503, "{}", told.text);
    assert!(told.text.contains("does not answer"), "{}", told.text);
    assert_eq!(browser.get_as_is("/api/v1/patients").await.status, 200);
    let metrics = http::get(&server.url("/metrics"), "").await.text;
    assert!(metrics.contains("vitals_identity_provider_up 0"), "{metrics}");
    provider.is_away(false);
    eventually("signing in again", SOON, async || {
        let mut browser = Browser::new(&server);
        let begun = browser.get("/auth/login").await;
        if begun.status != 303 {
            return None;
        }
        let callback = provider.signed_in(begun.location(), nurse());
        (browser.get(&callback).await.status == 303).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_provider_there_is_no_sign_in_and_options_that_miss_something_are_said() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let mut browser = Browser::new(&server);
    assert_eq!(browser.session().await, json!({ "signedIn": false, "signIn": null }));
    for path in ["/auth/login", "/auth/callback?code=a&state=b"] {
        let told = browser.get(path).await;
        assert_eq!(told.status, 404, "{path}");
        assert!(told.text.contains("paste a token"), "{}", told.text);
    }
    let cookie = [("cookie", "vitals_session=sealed.00000000.AAAA")];
    let answer = browser.send("GET", "/api/v1/patients", &cookie, None).await;
    assert_eq!(answer.status, 401);
    let issuer = ["--oidc-issuer", "https://login.example.org"];
    let client = ["--oidc-client-id", "vitals"];
    for (options, says) in [
        (issuer.to_vec(), "--oidc-client-id"),
        (client.to_vec(), "--oidc-issuer"),
        ([issuer, client].concat(), "--public-url"),
        ([issuer, client, ["--public-url", "http://vitals.example.org"]].concat(), "https"),
        ([issuer, client, ["--public-url", ORIGIN], ["--oidc-scope", "email"]].concat(), "openid"),
        (vec!["--oidc-issuer", "http://login.example.org"], "this machine only"),
    ] {
        let dir = scratch_dir();
        let refused = Server::try_start_in(&dir, Some(&database.url), &options).await;
        let said = refused.err().unwrap_or_else(|| panic!("{options:?} was taken"));
        assert!(said.contains(says), "{options:?}: {said}");
    }
}

/// A moment, as a claim has it.
fn seconds_from_now(seconds: i64) -> i64 {
    now().timestamp() + seconds
}
