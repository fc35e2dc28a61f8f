//! Query strings: a route takes the parameters that it is described to take, and no other.
//!
//! Guarantees that a misspelt parameter is refused on every route, also on one without
//! any, and before anything is done: `asof=` must not be answered with the present. What a
//! route takes is what the API's description says ([`openapi`]); what is not described
//! takes none. Does not read values: [`super::extract::Params`] does.

use axum::extract::{MatchedPath, Query, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::openapi;
use super::problem::Problem;

/// Lets a request on whose parameters are all known.
pub async fn known_only(request: Request, next: Next) -> Result<Response, Problem> {
    check(&request)?;
    Ok(next.run(request).await)
}

fn check(request: &Request) -> Result<(), Problem> {
    let unreadable = |detail: String| Problem::unreadable("invalid_query", detail);
    let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        .map_err(|error| unreadable(error.body_text()))?;
    if given.is_empty() {
        return Ok(());
    }
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let method = match *request.method() {
        Method::HEAD => &Method::GET,
        ref method => method,
    };
    // That it does not take the method is what the router says.
    let Some(known) = openapi::parameters_of(method.as_str(), path) else { return Ok(()) };
    for (name, value) in given {
        if !known.contains(&&*name) {
            return Err(unknown(&name, &known, method, path));
        }
        // PostgreSQL's text knows no NUL, and nothing of ours has one.
        if value.contains('\0') {
            return Err(unreadable(format!("{name} holds a NUL character")));
        }
    }
    Ok(())
}

fn unknown(name: &str, known: &[&'static str], method: &Method, path: &str) -> Problem {
    let meant = known.iter().find(|known| known.eq_ignore_ascii_case(name));
    let takes = match (meant, known) {
        (Some(meant), _) => format!("write it {meant}"),
        (None, []) => "it takes none".to_owned(),
        (None, known) => format!("it takes {}", known.join(", ")),
    };
    let detail = format!("{method} {path} does not take the parameter {name:?}: {takes}");
    Problem::unreadable("unknown_parameter", detail).with(|document| {
        document.parameter = Some(name.to_owned());
        document.known = Some(known.to_vec());
    })
}
