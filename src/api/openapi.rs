//! `GET /api/v1/openapi.json`: the API in the words of OpenAPI 3.1.
//!
//! Guarantees an entry for every route of the router and none beside them: a test walks
//! both. Does not generate anything from types: what a field means is written by hand.

mod operations;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use serde_json::{Map, Value, json};

use self::operations::{OPERATIONS, Operation, PARAMETERS};
use crate::vital::Vital;

/// What is answered and asked, by name.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

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
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
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
        "components": {
            "schemas": serde_json::from_str::<Value>(SCHEMAS).unwrap_or_default(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
        },
        "security": [{ "token": [] }],
    })
}

/// The query parameters of an operation, by the path that the router has it under. `None`
/// for what is not described.
pub fn parameters_of(method: &str, path: &str) -> Option<&'static [&'static str]> {
    let path = path.strip_prefix("/api/v1")?;
    let is_meant = |of: &&Operation| of.path == path && of.method.eq_ignore_ascii_case(method);
    OPERATIONS.iter().find(is_meant).map(|of| of.query)
}

fn described(operation: &Operation) -> Value {
    let (status, answer) = operation.answer;
    let schema = json!({ "$ref": format!("#/components/schemas/{answer}") });
    let media_type = if answer == "Events" { "text/event-stream" } else { "application/json" };
    let mut good = json!({ "description": "as asked" });
    if answer != "Nothing" {
        good["content"] = json!({ media_type: { "schema": schema } });
    }
    let problem = json!({
        "description": "a problem document with a stable code",
        "content": { "application/problem+json": {
            "schema": { "$ref": "#/components/schemas/Problem" },
        } },
    });
    let mut described = json!({
        "summary": operation.summary,
        "description": format!("Scope `{}`.", operation.scope),
        "operationId": name(operation),
        "tags": [operation.path.split('/').nth(1).unwrap_or_default()],
        "parameters": parameters(operation),
        "responses": { status: good, "4XX": problem, "5XX": problem },
        "security": [{ "token": [operation.scope] }],
    });
    if let Some(body) = operation.body {
        let schema = json!({ "$ref": format!("#/components/schemas/{body}") });
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": schema } },
        });
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

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path = operation.path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        let schema = match name {
            "vital" => json!({ "type": "string", "enum": Vital::all().map(Vital::path).collect::<Vec<_>>() }),
            "patient_id" => json!({ "type": "string", "pattern": "^[A-Za-z0-9\\-.]{1,64}$" }),
            _ => json!({ "type": "string" }),
        };
        Some(json!({ "name": name, "in": "path", "required": true, "schema": schema }))
    });
    let in_query = operation.query.iter().map(|name| {
        let found = PARAMETERS.iter().find(|(parameter, ..)| parameter == name);
        let (kind, says) = found.map_or(("string", ""), |(_, kind, says)| (*kind, *says));
        let schema = match kind {
            "time" => json!({ "type": "string", "format": "date-time" }),
            other => json!({ "type": other }),
        };
        json!({ "name": name, "in": "query", "schema": schema, "description": says })
    });
    in_path.chain(in_query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference and every parameter of the document is there.
    #[test]
    fn what_the_document_names_it_has() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(schemas.len() > 10, "the schemas cannot be read");
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
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{reference}");
        }
        let mut names = std::collections::BTreeSet::new();
        for operation in OPERATIONS {
            assert!(names.insert(name(operation)), "{} twice", name(operation));
            for query in operation.query {
                assert!(PARAMETERS.iter().any(|(name, ..)| name == query), "{query}");
            }
        }
    }
}
