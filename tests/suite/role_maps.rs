//! Tokens as identity providers shape them, and what the operator's map makes of them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hospital::now;
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT};
use crate::support::{eventually, http, scratch_dir};

const SOON: Duration = Duration::from_secs(30);

const MAP: &str = r#"
claims = ["groups", "scp", "roles", "realm_access.roles", "resource_access.vitals.roles",
          "permissions", "https://vitals.example.org/roles"]
tenant = "hospital-1"

[[grant]]
value = "icu-nurses"
role = "nurse"

[[grant]]
value = "Vitals.Read"
scope = "vitals:read"

[[grant]]
value = "clinic"
role = "viewer"
tenant = "clinic-2"
"#;

async fn start(database: &Database, map: &str) -> (Server, std::path::PathBuf) {
    let dir = scratch_dir();
    let file = dir.join("roles.toml");
    std::fs::write(&file, map).unwrap();
    let options = ["--jwt-roles", file.to_str().unwrap()];
    let server = Server::try_start_in(&dir, Some(&database.url), &options).await;
    (server.unwrap_or_else(|said| panic!("{said}")), file)
}

/// A token with these claims and none of ours.
fn token(server: &Server, claims: &Value) -> String {
    server.token_with(|token| {
        let own = token.as_object_mut().unwrap();
        own.remove("tenant");
        own.remove("scope");
        own.extend(claims.as_object().unwrap().clone());
    })
}

async fn status(server: &Server, path: &str, token: &str) -> u16 {
    http::get(&server.url(&format!("/api/v1{path}")), token).await.status.as_u16()
}

#[tokio::test]
async fn tokens_as_keycloak_entra_and_auth0_shape_them_get_what_the_map_says() {
    let database = Database::new().await;
    let (server, _) = start(&database, MAP).await;
    let own = server.token("readings:write");
    let reading = json!({ "patientId": "101", "deviceId": "w", "vital": "heart_rate", "value": 130,
                          "measuredAt": now() });
    let stored = http::post(&server.url("/api/v1/readings"), &own, &reading).await;
    assert_eq!(stored.status, 201, "a token of our own shape: {}", stored.text);
    // What comes, and the status of /patients, /alerts and /rules.
    for (claims, expected) in [
        // Keycloak: in the realm, or for this client.
        (json!({ "realm_access": { "roles": ["offline_access", "icu-nurses"] } }), [200, 200, 403]),
        (json!({ "resource_access": { "vitals": { "roles": ["icu-nurses"] } } }), [200, 200, 403]),
        (json!({ "resource_access": { "account": { "roles": ["icu-nurses"] } } }), [403; 3]),
        // Entra ID: delegated scopes in a text, application roles in a list, groups by id.
        (json!({ "scp": "openid Vitals.Read", "tid": "6f1c" }), [200, 403, 403]),
        (json!({ "roles": ["Vitals.Read"], "groups": ["8a3e-77"] }), [200, 403, 403]),
        // Auth0: permissions in a list, claims with the name of a URL.
        (json!({ "permissions": ["Vitals.Read"] }), [200, 403, 403]),
        (json!({ "https://vitals.example.org/roles": ["icu-nurses"] }), [200, 200, 403]),
        // Scopes of our own beside it, as a list.
        (json!({ "groups": "icu-nurses", "scope": ["rules:manage", "openid"] }), [200, 200, 200]),
        (json!({ "groups": ["ICU-NURSES"] }), [403; 3]),
        (json!({}), [403; 3]),
    ] {
        let token = token(&server, &claims);
        let mut found = [0; 3];
        for (status_of, path) in found.iter_mut().zip(["/patients", "/alerts", "/rules"]) {
            *status_of = status(&server, path, &token).await;
        }
        assert_eq!(found, expected, "{claims}");
    }
    let nurse = token(&server, &json!({ "groups": ["icu-nurses"] }));
    assert_eq!(status(&server, "/patients/101", &nurse).await, 200, "of {TENANT}, as the map says");
    let clinic = token(&server, &json!({ "groups": ["clinic"] }));
    assert_eq!(status(&server, "/patients/101", &clinic).await, 404, "of another tenant");
    let two = token(&server, &json!({ "groups": ["clinic"], "tenant": "hospital-1" }));
    let said = http::get(&server.url("/api/v1/patients"), &two).await;
    assert!(said.status == 401 && said.text.contains("another tenant"), "{}", said.text);
    let wrong = token(&server, &json!({ "groups": ["icu-nurses"], "scope": { "a": 1 } }));
    let said = http::get(&server.url("/api/v1/patients"), &wrong).await;
    assert!(said.status == 401 && said.text.contains("a text with spaces"), "{}", said.text);
}

#[tokio::test]
async fn a_map_changes_without_a_restart_and_survives_a_broken_one() {
    let database = Database::new().await;
    let (server, file) = start(&database, MAP).await;
    let nurse = token(&server, &json!({ "groups": ["icu-nurses"] }));
    assert_eq!(status(&server, "/patients", &nurse).await, 200);
    std::fs::write(&file, "claims = [\"groups\"]\nrole = \"nurse\"").unwrap();
    eventually("the broken map to be told", SOON, || async {
        server.logged().contains("the last map of roles stays").then_some(())
    })
    .await;
    assert_eq!(status(&server, "/patients", &nurse).await, 200, "the map of before is in force");
    std::fs::write(&file, MAP.replace("icu-nurses", "nurses-of-the-icu")).unwrap();
    eventually("what was met before to be met anew", SOON, || async {
        (status(&server, "/patients", &nurse).await == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_map_a_token_names_its_tenant_and_a_wrong_map_ends_the_start() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let nobodys = token(&server, &json!({ "scope": "vitals:read" }));
    let said = http::get(&server.url("/api/v1/patients"), &nobodys).await;
    assert!(said.status == 401 && said.text.contains("names no tenant"), "{}", said.text);
    let dir = scratch_dir();
    let file = dir.join("roles.toml");
    std::fs::write(&file, "claims = [\"groups\"]\n[[grant]]\nvalue = \"x\"\nrole = \"nurs\"")
        .unwrap();
    let options = ["--jwt-roles", file.to_str().unwrap()];
    let said = Server::try_start_in(&dir, Some(&database.url), &options).await.err().unwrap();
    assert!(said.contains("roles.toml: grant 1 (\"x\"): \"nurs\" is no role"), "{said}");
}

#[tokio::test]
async fn clocks_may_be_apart_by_the_leeway_and_no_more() {
    let database = Database::new().await;
    let options = ["--jwt-leeway", "30s"];
    let server = Server::start_with(&database, &options).await;
    let at = |claim: &'static str, seconds: i64| {
        let seconds_now = now().timestamp();
        server.token_with(|claims| {
            claims["scope"] = "vitals:read".into();
            claims[claim] = (seconds_now + seconds).into();
        })
    };
    for (claim, seconds, expected) in
        [("nbf", 20, 200), ("nbf", 60, 401), ("exp", -20, 200), ("exp", -60, 401)]
    {
        let found = status(&server, "/patients", &at(claim, seconds)).await;
        assert_eq!(found, expected, "{claim} {seconds}");
    }
}

#[test]
fn the_guides_maps_are_maps() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide/access.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let blocks: Vec<&str> =
        guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [_, clients, roles] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    vitals::auth::ClientMap::parse(clients).unwrap();
    vitals::auth::RoleMap::parse(roles).unwrap();
}
