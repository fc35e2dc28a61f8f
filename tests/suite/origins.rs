//! Pages of other sites: those that the operator names may call, and no others.

use reqwest::{Method, Response, StatusCode};

use crate::support::postgres::Database;
use crate::support::server::Server;

const NAMED: &str = "https://app.example.org";

async fn ask(server: &Server, method: &str, path: &str, origin: &str) -> Response {
    let method: Method = method.parse().unwrap();
    let asks_first = method == Method::OPTIONS;
    let request = server.client().request(method, server.url(path)).header("origin", origin);
    let request = match asks_first {
        true => request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type"),
        false => request.bearer_auth(server.token("vitals:read")),
    };
    request.send().await.unwrap()
}

fn said(answer: &Response, header: &str) -> String {
    let value = answer.headers().get(header).map(|value| value.to_str().unwrap());
    value.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_call_and_of_another_may_not() {
    let database = Database::new().await;
    let options = ["--cors-origin", "https://app.example.org,http://localhost:5173"];
    let server = Server::start_with(&database, &options).await;
    // Also readings, which go a shorter way than the rest.
    for path in ["/api/v1/patients", "/api/v1/readings", "/api/v1/alerts/x/ack"] {
        for origin in [NAMED, "http://localhost:5173"] {
            let leave = ask(&server, "OPTIONS", path, origin).await;
            assert_eq!(leave.status(), StatusCode::NO_CONTENT, "{path}");
            assert_eq!(said(&leave, "access-control-allow-origin"), origin);
            assert!(said(&leave, "access-control-allow-methods").contains("POST"));
            assert!(said(&leave, "access-control-allow-headers").contains("authorization"));
            assert_eq!(said(&leave, "access-control-allow-credentials"), "");
        }
        let refused = ask(&server, "OPTIONS", path, "https://evil.example.org").await;
        assert_eq!(said(&refused, "access-control-allow-origin"), "");
        assert_eq!(said(&refused, "vary"), "origin");
    }
    // The answer itself, also a refusal, with what a page wants to read of it.
    for (method, path, status) in
        [("GET", "/api/v1/patients", 200), ("POST", "/api/v1/readings", 403)]
    {
        let answer = ask(&server, method, path, NAMED).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(said(&answer, "access-control-allow-origin"), NAMED);
        for header in ["RateLimit-Remaining", "ETag", "Location", "Retry-After"] {
            assert!(said(&answer, "access-control-expose-headers").contains(header), "{header}");
        }
        let other = ask(&server, method, path, "https://app.example.org.evil.org").await;
        assert_eq!(other.status().as_u16(), status);
        assert_eq!(said(&other, "access-control-allow-origin"), "");
    }
    // Pages and what operators read are nobody's to call.
    for path in ["/", "/metrics", "/health/ready"] {
        let answer = ask(&server, "GET", path, NAMED).await;
        assert_eq!(said(&answer, "access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test]
async fn no_page_of_another_site_may_call_unless_it_is_named_as_browsers_do() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let answer = ask(&server, "OPTIONS", "/api/v1/patients", NAMED).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(said(&answer, "access-control-allow-origin"), "");
    let dir = crate::support::scratch_dir();
    for wrong in ["*", "null", "app.example.org", "https://app.example.org/", "HTTPS://a.b"] {
        let options = ["--cors-origin", wrong];
        let said = Server::try_start_in(&dir, Some(&database.url), &options).await.err().unwrap();
        assert!(said.contains("write it as"), "{wrong}: {said}");
    }
}
