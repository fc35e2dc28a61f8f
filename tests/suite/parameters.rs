//! A route takes the query parameters that it is described to take, and refuses any other.

use reqwest::Method;
use serde_json::{Value, json};

use crate::hospital::Hospital;
use crate::support::http;
use crate::support::postgres::Database;
use crate::support::server::Server;

const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

async fn refused(method: &str, url: &str, token: &str) -> Value {
    let method: Method = method.to_uppercase().parse().unwrap();
    let answer = http::send(method.clone(), url, token, None).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json["code"]),
        (400, &json!("unknown_parameter")),
        "{method} {url}: {}",
        answer.text
    );
    answer.json
}

#[tokio::test]
async fn every_route_refuses_a_parameter_that_it_does_not_take() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let document = http::get(&server.url("/api/v1/openapi.json"), "").await.json;
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["token"][0].as_str().unwrap_or_default();
            let token = server.token(scope);
            let path = path.replace("{vital}", "spo2").replace("{patient_id}", "p");
            let url = server.url(&format!("/api/v1{}", path.replace("{id}", NO_ID)));
            let problem = refused(method, &format!("{url}?limitt=1"), &token).await;
            assert_eq!(problem["parameter"], "limitt");
            let takes: Vec<&Value> = operation["parameters"].as_array().unwrap().iter().collect();
            let takes = takes.iter().filter(|p| p["in"] == "query").map(|p| p["name"].clone());
            assert_eq!(problem["known"], takes.collect::<Value>(), "{method} {path}");
            asked += 1;
        }
    }
    assert!(asked > 35, "{asked} operations");
    for path in ["/", "/docs", "/health/live", "/health/ready", "/metrics", "/api/v1/openapi.json"]
    {
        refused("GET", &server.url(&format!("{path}?verbose=1")), "").await;
        let url = server.url(&format!("{path}?verbose=1"));
        assert_eq!(http::send(Method::HEAD, &url, "", None).await.status, 400, "HEAD {path}");
    }
}

#[tokio::test]
async fn a_question_about_the_past_is_never_answered_with_the_present() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "hospital-1");
    hospital.measure("101", 82.0).await;
    for (path, code) in [
        ("/patients/101?asof=2026-01-01T00:00:00Z", "unknown_parameter"),
        ("/patients/101?asOf=garbage", "invalid_query"),
        ("/patients/101?as_of=2026-01-01T00:00:00Z", "unknown_parameter"),
        ("/patients/101/heart-rate?asOf=2026-01-01T00:00:00Z", "unknown_parameter"),
        ("/patients?asof=2026-01-01T00:00:00Z", "unknown_parameter"),
        ("/patients/101?asOf=2026-01-01T00:00:00Z&asOf=2026-01-02T00:00:00Z", "invalid_query"),
        ("/alerts?from=2026-01-01T00:00:00Z", "unknown_parameter"),
        ("/alerts?State=active", "unknown_parameter"),
        ("/alerts?patientId=101%00", "invalid_query"),
        ("/alerts?patientId=101&a%00=1", "unknown_parameter"),
    ] {
        let (status, problem) = hospital.get(path).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{path}: {problem}");
    }
    let (_, problem) = hospital.get("/patients/101?asof=2026-01-01T00:00:00Z").await;
    assert!(problem["detail"].as_str().unwrap().contains("write it asOf"), "{problem}");
    // What is empty asks for nothing.
    for path in ["/patients/101?", "/patients/101?&"] {
        hospital.found(path).await;
    }
}
