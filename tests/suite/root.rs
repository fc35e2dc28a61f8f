//! `GET /api/v1` leads to everything that a token may do, and to nothing else.

use vitals::auth::Scope;

use crate::support::http;
use crate::support::postgres::Database;
use crate::support::server::Server;

/// What may be asked for without a name of anything: paths with their statuses by this token.
async fn asked(server: &Server, token: &str) -> Vec<(String, u16)> {
    let document = vitals::adapter::http::openapi::document();
    let mut asked = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_some() && !path.contains('{') && path != "/" {
            let url = server.url(&format!("/api/v1{path}"));
            // Of a stream the head is enough.
            let answer = server.client().get(url).bearer_auth(token).send().await.unwrap();
            asked.push((path.trim_start_matches('/').to_owned(), answer.status().as_u16()));
        }
    }
    asked
}

#[tokio::test]
async fn a_token_is_led_to_what_it_may_and_to_nothing_else() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let all = Scope::ALL.map(Scope::name).join(" ");
    let mut tokens = vec![(all.clone(), None), (String::new(), None)];
    tokens.extend(Scope::ALL.map(|scope| (scope.name().to_owned(), None)));
    tokens.extend(["device", "patient"].map(|claim| (all.clone(), Some(claim))));
    for (scope, narrowed) in tokens {
        let token = server.token_with(|claims| {
            claims["scope"] = scope.clone().into();
            if let Some(claim) = narrowed {
                claims[claim] = "watch-7".into();
            }
        });
        let root = http::get(&server.url("/api/v1"), &token).await;
        assert_eq!(root.status, 200, "{}", root.text);
        let links = root.json["_links"].as_object().unwrap();
        for (name, status) in asked(&server, &token).await {
            let (leads, may) = (links.contains_key(&name), status != 403);
            assert_eq!(leads, may, "{name} with {scope:?}, narrowed to {narrowed:?}: {status}");
        }
        let operations = root.json["operations"].as_array().unwrap();
        let writes = operations.iter().any(|one| one["href"] == "/api/v1/readings");
        assert_eq!(writes, scope.contains("readings:write"), "{scope}");
        if let Some(claim) = narrowed {
            assert_eq!(root.json[claim], "watch-7");
        }
        assert_eq!(http::get(&server.url("/api/v1/"), &token).await.text, root.text);
        let misspelt = http::get(&server.url("/api/v1?feilds=x"), &token).await;
        assert_eq!(
            (misspelt.status.as_u16(), &misspelt.json["code"]),
            (400, &"unknown_parameter".into())
        );
    }
    assert_eq!(http::get(&server.url("/api/v1"), "").await.status, 401);
}
