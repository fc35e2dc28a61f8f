//! The second way into one route: the link that came with an alert.
//!
//! Guarantees that whoever comes by a link may acknowledge the one alert of the path, and
//! nothing else: this stands before that route alone, and the link's signature is over
//! the alert's id. A request with a token is judged by its token.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use uuid::Uuid;

use super::problem::Problem;
use super::token::shows_token;
use crate::auth::Caller;
use crate::clock::Clock;
use crate::delivery::ack::{AckLinks, LinkError, Shown};

/// Links, and until when they are good.
#[derive(Clone)]
pub struct Links {
    /// How they are signed.
    pub links: AckLinks,
    /// The time.
    pub clock: Clock,
}

#[derive(Deserialize)]
struct Linked {
    link: String,
}

impl Links {
    /// Who comes by a link; `None` when a token is to judge. How much the link shows stays
    /// with the request, as a [`Shown`].
    pub async fn caller(&self, parts: &mut Parts) -> Result<Option<Caller>, Problem> {
        let link = Query::<Linked>::from_request_parts(parts, &()).await.ok();
        let Some(Query(Linked { link })) = link.filter(|_| !shows_token(&parts.headers)) else {
            return Ok(None);
        };
        let path = Path::<Uuid>::from_request_parts(parts, &()).await;
        // What is no id of ours is the id of nothing.
        let Path(alert) = path.map_err(|_| Problem::not_found("alert"))?;
        let (caller, shown) = self.by_link(&link, alert)?;
        parts.extensions.insert(shown);
        Ok(Some(caller))
    }

    fn by_link(&self, link: &str, alert: Uuid) -> Result<(Caller, Shown), Problem> {
        let now = self.clock.now();
        let (tenant, shown) = self.links.opened(link, alert, now).map_err(|error| {
            let code = match error {
                LinkError::Invalid => "link_invalid",
                LinkError::Expired(_) => "link_expired",
            };
            Problem::forbidden(code, error.to_string())
        })?;
        Ok((Caller::linked(&tenant, alert, now), shown))
    }
}
