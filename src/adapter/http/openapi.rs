//! `GET /api/v1/openapi.json`: the API in the words of OpenAPI 3.1.
//!
//! Guarantees an entry for every route of the router and none beside them, and that what is
//! answered (status, media type, every member, every code) is what stands here: schemas are
//! of the types that write the answers ([`crate::wire`]), and tests hold every answer they
//! get against it. One example of each is written by hand, in `examples.json`.

mod answers;
pub mod operation;
pub mod operations;

use std::collections::BTreeMap;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use serde_json::{Map, Value, json};

use self::operation::{Answer, Operation};
use self::operations::{BODY, CHANGE, EVERY, OPERATIONS, PARAMETERS};
use crate::auth::Scope;
use crate::vital::Vital;
use crate::wire::{self, Shapes, shape};

/// One example of each that is a whole body.
const EXAMPLES: &str = include_str!("openapi/examples.json");
/// What follows the name of what a list holds.
const LIST: &str = "List";
const PROBLEM: &str = "#/components/schemas/Problem";
/// The headers of every answer to a good token.
const STANDING: [&str; 4] =
    ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy"];

/// The document, without a token: it holds no data.
pub fn routes() -> Router {
    let text = document().to_string();
    let answer = move || {
        let text = text.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], text) }
    };
    Router::new().route("/api/v1/openapi.json", get(answer))
}

/// The document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut shapes = Shapes::default();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation, &mut shapes);
    }
    let webhooks = webhooks(&mut shapes);
    // Referred to by every operation.
    shapes.answered(shape::<wire::Problem>());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vitals",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Readings in, an immutable log, rules, signed webhooks, and questions \
                            about any moment. Errors are RFC 9457 problem documents with a stable \
                            code. Times are RFC 3339 with a zone.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/api/v1" }],
        "paths": paths,
        "webhooks": webhooks,
        "components": {
            "schemas": with_examples(shapes.by_name()),
            "headers": headers(),
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "A JWT, or an API key (vk_…), which may stand in X-API-Key instead.",
                },
                "link": { "type": "apiKey", "in": "query", "name": "link" },
                "ticket": { "type": "apiKey", "in": "query", "name": "ticket" },
            },
        },
        "security": [{ "token": [] }],
    })
}

/// What is posted to an endpoint of a hospital, by what it is about.
fn webhooks(shapes: &mut Shapes) -> Value {
    let mut all = Map::new();
    for (name, summary, bodies) in [
        (
            "alert",
            "A rule has something to say of a patient. The stub goes to endpoints whose payload \
             is `thin`",
            vec![shape::<wire::AlertBody<'_>>(), shape::<wire::AlertStub<'_>>()],
        ),
        (
            "endpoint",
            "An endpoint is disabled, cannot be reached, or can be reached again",
            vec![shape::<wire::NoticeBody<'_>>()],
        ),
        ("heartbeat", "The way to the endpoint is open", vec![shape::<wire::HeartbeatBody>()]),
        ("ping", "A test, now", vec![shape::<wire::PingBody>()]),
    ] {
        let mut schemas: Vec<Value> =
            bodies.into_iter().map(|shape| shapes.answered(shape)).collect();
        let schema = match schemas.len() {
            1 => schemas.swap_remove(0),
            _ => json!({ "anyOf": schemas }),
        };
        let taken = "Any 2xx: it has arrived. Everything else is tried again.";
        all.insert(
            name.to_owned(),
            json!({ "post": {
                "summary": summary,
                "description": "Signed as Standard Webhooks has it.",
                "tags": ["webhooks"],
                "requestBody": {
                    "required": true,
                    "content": { "application/json": { "schema": schema } },
                },
                "responses": { "2XX": { "description": taken } },
                "security": [],
            }}),
        );
    }
    all.into()
}

/// The names of an operation's query parameters, by the path that the router has it under.
/// Of a path that is not described there are none; of a method that its path does not take
/// it cannot be said.
pub fn parameters_of(method: &str, path: &str) -> Option<Vec<&'static str>> {
    let path = path.strip_prefix("/api/v1").unwrap_or_default();
    let mut of_path = OPERATIONS.iter().filter(|of| of.path == path).peekable();
    if of_path.peek().is_none() {
        return Some(Vec::new());
    }
    let meant = of_path.find(|of| of.method.eq_ignore_ascii_case(method));
    meant.map(|of| of.query.iter().map(|text| parameter_name(text)).collect())
}

/// The schemas, each with its example, and lists with one of what they hold.
fn with_examples(mut schemas: Map<String, Value>) -> Map<String, Value> {
    let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).unwrap_or_default();
    for (name, schema) in &mut schemas {
        let of_list = || {
            let item = examples.get(name.strip_suffix(LIST)?)?;
            let links = json!({ "self": "/api/v1/…", "next": null });
            Some(json!({ "items": [item], "next": null, "_links": links }))
        };
        if let Some(example) = examples.get(name).cloned().or_else(of_list) {
            schema["examples"] = json!([example]);
        }
    }
    schemas
}

fn headers() -> Value {
    let header = |schema: Value, says: &str| json!({ "schema": schema, "description": says });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let text = || json!({ "type": "string" });
    json!({
        "RateLimit-Limit": header(number(), "What the limit of which most is used allows a minute."),
        "RateLimit-Remaining": header(number(), "What is left of it."),
        "RateLimit-Reset": header(number(), "In how many seconds all of it is back."),
        "RateLimit-Policy": header(text(), "Every limit of the token."),
        "ETag": header(text(), "For `If-None-Match`."),
        "Location": header(text(), "Where what was made is found."),
        "Retry-After": header(number(), "In how many seconds to come again."),
        "WWW-Authenticate": header(text(), "`Bearer`"),
        "vitals-behind": header(text(), "`true` when the answer is older than the log."),
    })
}

fn described(operation: &Operation, shapes: &mut Shapes) -> Value {
    let names: Vec<&str> = operation.scopes().map(Scope::name).collect();
    let token = json!({ "token": names.first().into_iter().collect::<Vec<_>>() });
    let takes = match *names {
        [] => "Any good token.".to_owned(),
        _ => format!("Scope `{}`.", names.join("` or `")),
    };
    let mut described = json!({
        "summary": operation.summary,
        "description": takes,
        "operationId": name(operation),
        "tags": [operation.path.split('/').nth(1).filter(|tag| !tag.is_empty()).unwrap_or("root")],
        "parameters": parameters(operation, shapes),
        "responses": responses(operation, shapes),
        "security": [&token],
    });
    if operation.deprecated.is_some() {
        described["deprecated"] = true.into();
    }
    if !operation.or.is_empty() {
        let ways = operation.scopes().map(|scope| json!({ "token": [scope.name()] }));
        described["security"] = ways.collect();
    }
    if operation.by_link {
        described["security"] = json!([&token, { "link": [] }]);
    }
    if operation.by_ticket {
        described["security"] = json!([&token, { "ticket": [] }]);
    }
    if let Some((schema, also_as)) = operation.body {
        let mut content = json!({ "application/json": { "schema": shapes.asked(schema) } });
        for media_type in also_as {
            content[*media_type] = json!({ "schema": { "type": "string" } });
        }
        described["requestBody"] =
            json!({ "required": !operation.may_be_empty, "content": content });
    }
    described
}

/// `get_patients_patient_id_diff`
fn name(operation: &Operation) -> String {
    let path: String =
        operation.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let words: Vec<&str> = path.split('_').filter(|word| !word.is_empty()).collect();
    format!("{}_{}", operation.method, words.join("_"))
}

fn responses(operation: &Operation, shapes: &mut Shapes) -> Map<String, Value> {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for status in operation.statuses {
        responses.insert(status.to_string(), answer(operation, *status, shapes));
    }
    if operation.is_tagged {
        let headers = named(STANDING.into_iter().chain(["ETag"]));
        let same = json!({ "description": "As it was: the ETag is the same.", "headers": headers });
        responses.insert("304".to_owned(), same);
    }
    let of_body = operation.body.map(|_| &BODY);
    let of_change = (operation.method != "get").then_some(&CHANGE);
    let all = [EVERY]
        .iter()
        .chain(of_body)
        .chain(of_change)
        .chain(operation.refusals)
        .flat_map(|some| *some);
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (status, some) in all {
        let codes = codes.entry(*status).or_default();
        codes.extend(some.split_whitespace());
        codes.sort_unstable();
        codes.dedup();
    }
    for (status, codes) in codes {
        let mut problem = problem(status, &codes);
        if operation.by_link {
            // Whoever comes by a link from a phone is told on a page.
            problem["content"]["text/html"] = json!({ "schema": { "type": "string" } });
        }
        responses.insert(status.to_string(), problem);
    }
    responses.into_iter().collect()
}

fn answer(operation: &Operation, status: u16, shapes: &mut Shapes) -> Value {
    let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    let mut headers: Vec<&str> = STANDING.to_vec();
    if operation.is_tagged {
        headers.extend(["ETag", "vitals-behind"]);
    }
    if operation.is_located {
        headers.push("Location");
    }
    let mut answer =
        json!({ "description": reason.unwrap_or_default(), "headers": named(headers) });
    let (media_type, schema) = match operation.answer {
        Answer::Nothing => return answer,
        Answer::Events => ("text/event-stream", shapes.answered(shape::<wire::Events>())),
        Answer::Page => ("text/html", json!({ "type": "string" })),
        Answer::File => ("application/octet-stream", json!({ "type": "string" })),
        Answer::Json(of) => ("application/json", shapes.answered(of)),
    };
    let mut content = json!({ media_type: { "schema": schema } });
    for also in operation.also_as {
        content[*also] = json!({ "schema": { "type": "string" } });
    }
    answer["content"] = content;
    answer
}

fn problem(status: u16, codes: &[&str]) -> Value {
    let names: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let schema = json!({
        "allOf": [
            { "$ref": PROBLEM },
            { "properties": { "status": { "const": status }, "code": { "enum": codes } } },
        ],
    });
    let headers: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        429 => &["Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"],
        503 => &["Retry-After"],
        _ => &[],
    };
    json!({
        "description": names.join(", "),
        "headers": named(headers.iter().copied()),
        "content": { "application/problem+json": { "schema": schema } },
    })
}

fn named<'a>(headers: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    let header = |name: &str| json!({ "$ref": format!("#/components/headers/{name}") });
    headers.into_iter().map(|name| (name.to_owned(), header(name))).collect()
}

fn parameters(operation: &Operation, shapes: &mut Shapes) -> Vec<Value> {
    let id = shapes.answered(shape::<wire::Id>());
    let in_path = operation.path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        let fhir_id = ["/rules", "/devices", "/api-keys"].iter().any(|of| operation.path.starts_with(of));
        let schema = match name {
            "vital" => json!({ "type": "string", "enum": Vital::all().map(Vital::path).collect::<Vec<_>>() }),
            "ward" => json!({ "type": "string", "minLength": 1, "maxLength": 64 }),
            "id" if !fhir_id => json!({ "type": "string", "format": "uuid" }),
            _ => id.clone(),
        };
        Some(json!({ "name": name, "in": "path", "required": true, "schema": schema }))
    });
    let in_query = operation.query.iter().map(|name| in_query(name));
    let header = |name: &str, says: &str| json!({ "name": name, "in": "header", "schema": { "type": "string" }, "description": says });
    let tag = operation.is_tagged.then(|| {
        header("If-None-Match", "The ETag of an answer that you have: 304 if it still is.")
    });
    let resumes = operation
        .resumes
        .then(|| header("Last-Event-ID", "The `id` of the last event that came: what follows it."));
    in_path.chain(in_query).chain(tag).chain(resumes).collect()
}

/// `limit` of `limit<=500`, and `state` of either of two with values of their own.
fn parameter_name(text: &'static str) -> &'static str {
    match text.split("<=").next().unwrap_or_default() {
        "alertState" | "deliveryState" => "state",
        name => name,
    }
}

fn in_query(text: &'static str) -> Value {
    let (key, most) = text.split_once("<=").unwrap_or((text, ""));
    let found = PARAMETERS.iter().find(|(parameter, ..)| *parameter == key);
    let (_, schema, says) = found.unwrap_or(&("", "{}", ""));
    let mut schema: Value = serde_json::from_str(schema).unwrap_or_default();
    if let Ok(most) = most.parse::<u64>() {
        schema["maximum"] = most.into();
    }
    let name = parameter_name(text);
    json!({ "name": name, "in": "query", "schema": schema, "description": says })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(key, value)| match value {
                Value::String(to) if key == "$ref" => found.push(to.clone()),
                other => references(other, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    /// Every reference and every parameter of the document is there.
    #[test]
    fn what_the_document_names_it_has() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "the schemas cannot be read");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let mut names = std::collections::BTreeSet::new();
        for operation in OPERATIONS {
            assert!(names.insert(name(operation)), "{} twice", name(operation));
            for query in operation.query {
                assert!(!in_query(query)["schema"].as_object().unwrap().is_empty(), "{query}");
            }
        }
    }

    /// Whoever reads of a body sees what one looks like.
    #[test]
    fn every_body_has_an_example() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).unwrap();
        for name in examples.keys() {
            assert!(schemas.contains_key(name), "an example of {name}, which is nowhere");
        }
        for body in ["AlertBody", "AlertStub", "NoticeBody", "HeartbeatBody", "PingBody"] {
            assert!(schemas[body].get("examples").is_some(), "no example of {body}");
        }
        let mut shapes = Shapes::default();
        for operation in OPERATIONS {
            let answer = match operation.answer {
                Answer::Json(of) => Some(shapes.answered(of)),
                _ => None,
            };
            let asked = operation.body.map(|(of, _)| shapes.asked(of));
            for schema in answer.iter().chain(&asked) {
                let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
                assert!(schemas[name].get("examples").is_some(), "no example of {name}");
            }
        }
    }

    /// What is both asked for and answered has one shape, or two names.
    #[test]
    fn a_name_is_of_one_schema() {
        let (mut answered, mut asked) = (Shapes::default(), Shapes::default());
        for operation in OPERATIONS {
            if let Answer::Json(of) = operation.answer {
                answered.answered(of);
            }
            if let Some((of, _)) = operation.body {
                asked.asked(of);
            }
        }
        let answered = answered.by_name();
        for (name, schema) in asked.by_name() {
            let other = answered.get(&name);
            assert!(other.is_none_or(|other| *other == schema), "{name}: {schema}, {other:?}");
        }
    }
}
