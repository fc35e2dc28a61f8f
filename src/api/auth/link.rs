//! The second door of one route: the link that came with an alert.
//!
//! Guarantees that whoever comes by a link may acknowledge the one alert of the path, and
//! nothing else: this stands before that route alone, and the link's signature is over
//! the alert's id. A request with a token is judged by its token.

use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::{Caller, Keys, bearer};
use crate::api::problem::Problem;
use crate::clock::Clock;
use crate::webhook::ack::{AckLinks, LinkError};

/// What opens the route.
#[derive(Clone)]
pub struct Doors {
    /// Tokens.
    pub keys: Keys,
    /// Links.
    pub links: AckLinks,
    /// Until when a link is good.
    pub clock: Clock,
}

#[derive(Deserialize)]
struct Linked {
    link: String,
}

/// Lets a request with a good token or a good link through, with its [`Caller`].
pub async fn authenticate_or_link(
    State(doors): State<Doors>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let link = Query::<Linked>::from_request_parts(&mut parts, &()).await.ok();
    let caller = match link {
        Some(Query(Linked { link })) if !parts.headers.contains_key(header::AUTHORIZATION) => {
            let path = Path::<Uuid>::from_request_parts(&mut parts, &()).await;
            // What is no id of ours is the id of nothing.
            let Path(alert) = path.map_err(|_| Problem::not_found("alert"))?;
            by_link(&doors, &link, alert)?
        }
        _ => doors.keys.verify(bearer(&parts.headers)?).await?,
    };
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

fn by_link(doors: &Doors, link: &str, alert: Uuid) -> Result<Caller, Problem> {
    let tenant = doors.links.tenant(link, alert, doors.clock.now());
    let tenant = tenant.map_err(|error| {
        let code = match error {
            LinkError::Invalid => "link_invalid",
            LinkError::Expired(_) => "link_expired",
        };
        Problem::forbidden(code, error.to_string())
    })?;
    Ok(Caller {
        tenant: tenant.into(),
        // Its own subject: who knows one link can use up no other's limits.
        subject: format!("link {alert}"),
        scope: "alerts:ack".to_owned(),
        device: None,
        patient: None,
        // For this one request.
        expires: doors.clock.now().timestamp(),
        linked: true,
    })
}
