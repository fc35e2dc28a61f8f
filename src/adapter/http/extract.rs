//! Requests, taken apart: every failure is a problem document with its place.
//!
//! Guarantees bounded memory for bodies. Does not look into them, and does not read
//! them: [`Incoming`] does.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_path_to_error::Segment;

use super::body::{BODY_BYTES_MAX, Incoming};
use super::problem::Problem;
use crate::event::{ID_RULE, is_fhir_id};

/// A whole body within the limit, whatever it came encoded in.
pub struct Body(pub Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body, Problem> {
        let body = Incoming::from_request(request, state).await?.whole(BODY_BYTES_MAX).await?;
        Ok(Body(body.bytes))
    }
}

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Json<T>, Problem> {
        let Body(body) = Body::from_request(request, state).await?;
        json(&body).map(Json)
    }
}

/// Reads a whole body as JSON.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    refuse_nul(body)?;
    // What serde derives takes an array of the values as well, in the order of the fields.
    if body.trim_ascii_start().starts_with(b"[")
        && serde_json::from_slice::<IgnoredAny>(body).is_ok()
    {
        return Err(Problem::invalid(
            "invalid_body",
            "",
            "the body is an object, and not an array",
        ));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => placed::<T>(body, &error),
        _ => Problem::unreadable("unreadable_json", error.to_string()),
    })
}

/// 422 for a text with a NUL character, wherever it is: PostgreSQL's text knows none, and
/// nothing of ours has one.
pub fn refuse_nul(body: &[u8]) -> Result<(), Problem> {
    // In JSON it is always written so, and hardly ever.
    if !body.windows(6).any(|text| text == b"\\u0000") {
        return Ok(());
    }
    // What cannot be read is refused by whoever reads it.
    let found = serde_json::from_slice(body).ok().and_then(|value: Value| nul_in(&value));
    found.map_or(Ok(()), |pointer| {
        let detail = "a text holds a NUL character, which cannot be stored: leave it out";
        Err(Problem::invalid("nul_character", &pointer, detail))
    })
}

fn nul_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(n, item)| nul_in(item).map(|rest| format!("/{n}{rest}"))),
        Value::Object(members) => members.iter().find_map(|(key, member)| {
            let rest = if key.contains('\0') { Some(String::new()) } else { nul_in(member) };
            rest.map(|rest| format!("/{}{rest}", pointer_part(key)))
        }),
        _ => None,
    }
}

/// A key as part of a JSON pointer.
pub fn pointer_part(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What is wrong with a body that is JSON, and where. It is read once more for that.
fn placed<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> Problem {
    let again =
        serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(body));
    let mut pointer = String::new();
    for segment in again.as_ref().err().map(|wrong| wrong.path().iter()).into_iter().flatten() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", pointer_part(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let detail = error.to_string();
    let lacks = detail.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    pointer.extend(lacks.map(|field| format!("/{field}")));
    let is_unknown = detail.starts_with("unknown field");
    Problem::invalid(if is_unknown { "unknown_field" } else { "invalid_body" }, &pointer, detail)
}

/// A JSON body that may be left out.
pub struct Optional<T>(pub T);

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for Optional<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Optional<T>, Problem> {
        let Body(body) = Body::from_request(request, state).await?;
        if body.is_empty() { Ok(Optional(T::default())) } else { json(&body).map(Optional) }
    }
}

/// The query string's parameters. Those that the route does not take were refused before:
/// [`super::parameters`].
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Problem> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::unreadable("invalid_query", error.body_text()))?;
        Ok(Params(params))
    }
}

/// A patient's id from the path.
pub struct PatientId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PatientId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PatientId, Problem> {
        #[derive(serde::Deserialize)]
        struct Segments {
            patient_id: String,
        }
        let Path(segments): Path<Segments> = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::unreadable("invalid_path", error.body_text()))?;
        if is_fhir_id(&segments.patient_id) {
            Ok(PatientId(segments.patient_id))
        } else {
            Err(Problem::invalid("invalid_id", "", format!("a patient's id {ID_RULE}")))
        }
    }
}

/// The `{id}` of the path.
pub struct Id(pub uuid::Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Problem> {
        let path: Result<Path<uuid::Uuid>, _> = Path::from_request_parts(parts, state).await;
        // What is no id of ours is the id of nothing.
        path.map(|Path(id)| Id(id)).map_err(|_| Problem::not_found("thing"))
    }
}

/// What is no JSON, with the place at which it ceases to be.
pub(super) fn unreadable_json(error: &serde_json::Error, hint: &str) -> Problem {
    Problem::unreadable("unreadable_json", format!("{error}{hint}")).with(|document| {
        document.line = Some(error.line());
        document.column = Some(error.column());
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "what is read is not looked at")]
    struct Asked {
        url: String,
        #[serde(default)]
        more: BTreeMap<String, Vec<Part>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "as above")]
    struct Part {
        n: u8,
    }

    #[track_caller]
    fn check(body: &str, expected: &str) {
        let problem = json::<Asked>(body.as_bytes()).expect_err(body);
        assert_eq!(problem.place(), expected, "{body}");
    }

    #[test]
    fn what_is_wrong_with_a_body_has_its_place() {
        check("{", "unreadable_json");
        check("7", "invalid_body ");
        check(r#"["u",{}]"#, "invalid_body ");
        check("{}", "invalid_body /url");
        check(r#"{"url":7}"#, "invalid_body /url");
        check(r#"{"url":"u","urls":1}"#, "unknown_field /urls");
        check(r#"{"url":"u","a/b":1}"#, "unknown_field /a~1b");
        check(r#"{"url":"u","more":{"x~":[{"n":1},{"n":256}]}}"#, "invalid_body /more/x~0/1/n");
        check(r#"{"url":"u","more":{"x":[{"n":1,"m":2}]}}"#, "unknown_field /more/x/0/m");
        check(r#"{"url":"u","more":{"x":[{}]}}"#, "invalid_body /more/x/0/n");
    }

    #[test]
    fn a_nul_is_refused_wherever_it_stands() {
        check(r#"{"url":"a\u0000b"}"#, "nul_character /url");
        check(r#"{"url":"u","more":{"a/":[{"n":"\u0000"}]}}"#, "nul_character /more/a~1/0/n");
        check(r#"{"url":"u","x\u0000":1}"#, "nul_character /x\0");
        // A backslash and some letters are none.
        assert!(json::<Asked>(br#"{"url":"\\u0000"}"#).is_ok());
        check(r#"{"url":"\u0000""#, "unreadable_json");
    }
}
