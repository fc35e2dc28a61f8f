//! Whether an answer is one that the API's own description tells of: its status, media type,
//! every member, every code; and whether a body that was taken is one that it asks for.
//!
//! Every answer that a test gets by `support::http` or `Hospital` comes by here, so the
//! description cannot drift from what is answered. A member that no schema names is a fault,
//! also where the description leaves room for what is to come. Knows the keywords that the
//! description uses; another one is a panic and not a silence.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use chrono::{DateTime, NaiveDate};
use serde_json::Value;
use uuid::Uuid;
use vitals::adapter::http::openapi;

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(openapi::document)
}

/// What was asked, and what came.
pub struct Exchange<'a> {
    pub method: &'a str,
    /// The URL or its path, from where `/api/v1` begins.
    pub url: &'a str,
    /// JSON that was sent.
    pub sent: Option<&'a [u8]>,
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub text: &'a str,
}

impl Exchange<'_> {
    /// Panics unless it is as described. What is no operation of the description, and no
    /// answer of a handler (404 of the router, 405), is none of its business.
    pub fn check(&self) {
        let Some((_, path)) = self.url.split_once("/api/v1") else { return };
        let path = path.split('?').next().unwrap_or_default();
        let Some(operation) = operation(&self.method.to_lowercase(), path) else { return };
        let mut faults = self.faults(operation);
        // Who names fields gets no others, also of those that are required.
        if self.url.contains("fields=") {
            faults.retain(|fault| !fault.contains(": required "));
        }
        let Exchange { method, status, text, .. } = self;
        assert!(
            faults.is_empty(),
            "{method} {path} answered {status}, and not as src/adapter/http/openapi says:\n{}\n{text}",
            faults.join("\n")
        );
    }

    fn faults(&self, operation: &Value) -> Vec<String> {
        let Some(response) = operation["responses"].get(self.status.to_string()) else {
            return vec![format!("it has no status {}", self.status)];
        };
        let mut faults = self.faults_of_sent(operation);
        let Some(content) = response.get("content") else {
            if !self.text.is_empty() {
                faults.push("it has no body".to_owned());
            }
            return faults;
        };
        let kind = self.content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        let Some(media) = content.get(kind) else {
            faults.push(format!("it does not come as {kind}"));
            return faults;
        };
        if kind.ends_with("json") {
            match serde_json::from_str(self.text) {
                Ok(body) => faults.extend(judge(&media["schema"], &body)),
                Err(error) => faults.push(format!("no JSON: {error}")),
            }
        }
        faults
    }

    fn faults_of_sent(&self, operation: &Value) -> Vec<String> {
        let schema = operation.pointer("/requestBody/content/application~1json/schema");
        // Of many readings some may be refused, and then they are as they should not be.
        let taken = (200..300).contains(&self.status) && self.status != 207;
        let (Some(schema), Some(sent)) = (schema, self.sent.filter(|_| taken)) else {
            return Vec::new();
        };
        let Ok(body) = serde_json::from_slice(sent) else { return Vec::new() };
        judge(schema, &body).into_iter().map(|fault| format!("what was taken: {fault}")).collect()
    }
}

/// What is wrong with the body of a webhook, by the description.
pub fn faults_of_webhook(body: &Value) -> Vec<String> {
    let kind = body["type"].as_str().unwrap_or_default();
    let name = match kind {
        "PING" => "ping",
        "HEARTBEAT" => "heartbeat",
        _ if kind.starts_with("ENDPOINT_") => "endpoint",
        _ => "alert",
    };
    let pointer = format!("/webhooks/{name}/post/requestBody/content/application~1json/schema");
    judge(document().pointer(&pointer).expect("a webhook"), body)
}

/// The operation of a path; where several fit, that with the fewest parameters.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        let (mut asked, mut parts) = (path.split('/'), template.split('/'));
        template.split('/').count() == path.split('/').count()
            && parts.all(|part| {
                asked.next().is_some_and(|asked| part.starts_with('{') || part == asked)
            })
    };
    let paths = document()["paths"].as_object().expect("paths");
    let fitting = paths.iter().filter(|(template, _)| fits(template));
    let (_, item) = fitting.min_by_key(|(template, _)| template.matches('{').count())?;
    item.get(method)
}

/// What is wrong with a value, by a schema of the description; nothing when it fits.
pub fn judge(schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    closed(schema, value, "", &mut faults);
    faults
}

/// As [`open`], and no member that the schema does not name.
fn closed(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    if let (Some(named), Some(members)) = (members(schema), value.as_object()) {
        for key in members.keys().filter(|key| !named.contains(key.as_str())) {
            faults.push(format!("{at}/{key} stands in no schema"));
        }
    }
    open(schema, value, at, faults);
}

fn open(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    for (keyword, says) in schema.as_object().expect("a schema") {
        match keyword.as_str() {
            "$ref" => open(target(says), value, at, faults),
            "allOf" => each(says).for_each(|schema| open(schema, value, at, faults)),
            "anyOf" => any(says, value, at, faults),
            "properties" | "additionalProperties" | "propertyNames" | "items" => {
                parts(keyword, schema, value, at, faults);
            }
            "description" | "examples" | "default" => {}
            _ if !holds(keyword, says, value) => {
                faults.push(format!("{at}: {keyword} {says} does not hold for {value}"));
            }
            _ => {}
        }
    }
}

fn any(schemas: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let tried: Vec<Vec<String>> = each(schemas)
        .map(|schema| {
            let mut faults = Vec::new();
            closed(schema, value, at, &mut faults);
            faults
        })
        .collect();
    if !tried.iter().any(Vec::is_empty) {
        // The nearest is what was meant.
        faults.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
    }
}

fn parts(keyword: &str, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let says = &schema[keyword];
    if keyword == "items" {
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            closed(says, item, &format!("{at}/{n}"), faults);
        }
        return;
    }
    let properties = schema.get("properties");
    for (key, member) in value.as_object().into_iter().flatten() {
        let place = format!("{at}/{key}");
        match keyword {
            "properties" => {
                if let Some(schema) = says.get(key) {
                    closed(schema, member, &place, faults);
                }
            }
            "propertyNames" => closed(says, &Value::from(key.as_str()), &place, faults),
            _ if says.is_object() && properties.is_none_or(|named| named.get(key).is_none()) => {
                closed(says, member, &place, faults);
            }
            _ => {}
        }
    }
}

fn holds(keyword: &str, says: &Value, value: &Value) -> bool {
    let number = || says.as_f64().expect("a number");
    let length = |n: Option<usize>| n.map(|n| n as f64);
    let count = || length(value.as_object().map(|members| members.len()));
    let items = || length(value.as_array().map(Vec::len));
    let chars = || length(value.as_str().map(|text| text.chars().count()));
    match keyword {
        "type" => each_or_one(says).any(|name| is(name.as_str().expect("a type"), value)),
        "enum" => each(says).any(|one| one == value),
        "const" => says == value,
        "required" => each(says).all(|key| {
            value.as_object().is_none_or(|members| members.contains_key(key.as_str().unwrap()))
        }),
        "minimum" => value.as_f64().is_none_or(|n| n >= number()),
        "maximum" => value.as_f64().is_none_or(|n| n <= number()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|n| n > number()),
        "minProperties" => count().is_none_or(|n| n >= number()),
        "maxProperties" => count().is_none_or(|n| n <= number()),
        "minItems" => items().is_none_or(|n| n >= number()),
        "maxItems" => items().is_none_or(|n| n <= number()),
        "minLength" => chars().is_none_or(|n| n >= number()),
        "maxLength" => chars().is_none_or(|n| n <= number()),
        "pattern" => value.as_str().is_none_or(|text| matches(says.as_str().unwrap(), text)),
        "format" => value.as_str().is_none_or(|text| is_of(says.as_str().unwrap(), text)),
        other => panic!("this test does not know the keyword {other}"),
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("this test does not know the type {other}"),
    }
}

fn is_of(format: &str, text: &str) -> bool {
    match format {
        "date-time" => DateTime::parse_from_rfc3339(text).is_ok(),
        "date" => text.parse::<NaiveDate>().is_ok(),
        "uuid" => text.parse::<Uuid>().is_ok(),
        "uri" => text.contains("://"),
        // Of numbers: it says nothing of a text that may stand in a number's place.
        "double" => true,
        other => panic!("this test does not know the format {other}"),
    }
}

/// `^[A-Z…]{1,64}$` and its like: one class of characters, so many times.
fn matches(pattern: &str, text: &str) -> bool {
    let fhir_id = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let event = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let fits = match pattern {
        r"^[A-Za-z0-9\-.]{1,64}$" => text.chars().all(fhir_id),
        "^[A-Z][A-Z0-9_]{0,63}$" => text.starts_with(char::is_uppercase) && text.chars().all(event),
        other => panic!("this test does not know the pattern {other}"),
    };
    fits && (1..=64).contains(&text.len())
}

/// The members that a schema names; nothing when it leaves them open.
fn members(schema: &Value) -> Option<BTreeSet<&str>> {
    let mut named = BTreeSet::new();
    if schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false)) {
        return None;
    }
    if let Some(reference) = schema.get("$ref") {
        named.extend(members(target(reference))?);
    }
    for part in schema.get("allOf").into_iter().flat_map(each) {
        named.extend(members(part)?);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    named.extend(properties.into_iter().flatten().map(|(key, _)| key.as_str()));
    (!named.is_empty()).then_some(named)
}

fn target(reference: &Value) -> &'static Value {
    let pointer = reference.as_str().and_then(|to| to.strip_prefix('#')).expect("a reference");
    document().pointer(pointer).expect("what is referred to")
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().expect("a list").iter()
}

fn each_or_one(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter()
}
