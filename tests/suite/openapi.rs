//! The description of the API is true: it has every route, and the page that shows it
//! loads nothing from elsewhere.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::described::judge;
use crate::support::http;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// The routes below `/api/v1` that the router's text names, with their methods.
fn routed() -> BTreeSet<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/adapter/http/router.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let mut routes = BTreeSet::new();
    for route in text.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        // Up to the next call that is no method's.
        let calls = route.split(".with_state").next().unwrap().split(".merge").next().unwrap();
        for method in ["get", "put", "post", "patch", "delete"] {
            let named = calls.match_indices(&format!("{method}(")).any(|(at, _)| {
                !calls[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            });
            let outside = ["/health", "/metrics"].iter().any(|other| path.starts_with(other));
            if named && !outside {
                routes.insert((method.to_owned(), path.to_owned()));
            }
        }
    }
    routes
}

#[tokio::test]
async fn the_description_has_every_route_and_no_other() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let answer = http::get(&server.url("/api/v1/openapi.json"), "").await;
    assert_eq!((answer.status.as_u16(), &answer.json["openapi"]), (200, &Value::from("3.1.0")));
    let mut described = BTreeSet::new();
    for (path, item) in answer.json["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described.insert((method.clone(), path.clone()));
            // A token without the scope is told which one it lacks: the one written down.
            let Some(scope) = operation["security"][0]["token"][0].as_str() else { continue };
            let url = server.url(&format!("/api/v1{}", path.replace("{vital}", "spo2")));
            let url = url.replace("{patient_id}", "p").replace("{id}", NO_ID);
            if method == "get" {
                let refused = http::get(&url, &server.token("nothing:at-all")).await;
                assert_eq!(refused.status.as_u16(), 403, "{path}: {}", refused.text);
                assert!(refused.text.contains(scope), "{path}, {scope}: {}", refused.text);
            }
        }
    }
    let routed = routed();
    assert!(routed.len() > 15, "the router was not understood: {routed:?}");
    assert_eq!(described, routed);
}

#[test]
fn what_the_description_shows_is_as_it_says() {
    let document = vitals::adapter::http::openapi::document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut shown = 0;
    for (name, schema) in schemas {
        for example in schema.get("examples").and_then(Value::as_array).into_iter().flatten() {
            assert_eq!(judge(schema, example), Vec::<String>::new(), "the example of {name}");
            shown += 1;
        }
    }
    assert!(shown > 30, "only {shown} examples");
}

/// What holds every answer of the suite against the description sees what is wrong with one.
#[test]
fn an_answer_that_is_not_described_is_seen() {
    let schemas = &vitals::adapter::http::openapi::document()["components"]["schemas"];
    let (alert, good) = (&schemas["Alert"], &schemas["Alert"]["examples"][0]);
    assert_eq!(judge(alert, good), Vec::<String>::new());
    let wrong = |change: fn(&mut Value)| {
        let mut alert = good.clone();
        change(&mut alert);
        alert
    };
    for wrong in [
        wrong(|alert| alert["state"] = "raised".into()),
        wrong(|alert| alert["clearedAt"] = "soon".into()),
        wrong(|alert| alert["value"] = Value::Null),
        wrong(|alert| alert["patientId"] = "a b".into()),
        wrong(|alert| alert["acknowledged"]["by"] = 7.into()),
        wrong(|alert| alert["another"] = 7.into()),
        wrong(|alert| drop(alert.as_object_mut().unwrap().remove("rule"))),
    ] {
        assert_eq!(judge(alert, &wrong).len(), 1, "{wrong}: {:?}", judge(alert, &wrong));
    }
}

/// What is put together by hand has no schema; the description itself is no answer.
#[test]
fn answers_are_of_types() {
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/adapter/http")];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|of| of == "rs") && !path.ends_with("openapi.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let answers = text.split("#[cfg(test)]").next().unwrap();
            assert!(!answers.contains("json!("), "{}: answer a type of src/wire", path.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} files were found");
}

const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

#[tokio::test]
async fn the_page_of_the_description_loads_nothing_from_elsewhere() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let page = http::get(&server.url("/docs"), "").await;
    assert_eq!(page.status, 200);
    assert!(
        page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'self'")
    );
    let sources =
        page.text.split(['"', '\'']).filter(|part| part.starts_with('/') || part.contains("//"));
    for source in sources.collect::<BTreeSet<_>>() {
        assert!(source.starts_with('/') && !source.starts_with("//"), "{source}");
        assert_eq!(http::get(&server.url(source), "").await.status, 200, "{source}");
    }
}
