//! `POST /readings`: what devices send.
//!
//! Guarantees that 201 and 207 come after the commit. A 503 may have stored some of
//! the batch: it is sent again as it was, and the log keeps each reading once.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use tokio_util::sync::CancellationToken;

use super::body::{BATCH_BYTES_MAX, Incoming};
use super::ndjson;
use super::problem::Problem;
use super::reply::Reply;
use super::stored::{Rejections, answer};
use crate::auth::{Caller, Scope};
use crate::intake::{Intake, Outcome, ParseError, Waiting, parse};
use crate::limits::shares::{Share, ShareHolder};
use crate::wire::Stored;

/// What the route stands on.
pub struct ReadingsState {
    pub(super) intake: Intake,
    pub(super) uploads: Share,
    /// Ends streams.
    pub(super) stop: CancellationToken,
}

/// Stores readings.
pub async fn store(
    State(readings): State<Arc<ReadingsState>>,
    Extension(caller): Extension<Arc<Caller>>,
    mut body: Incoming,
) -> Result<Reply<Stored>, Problem> {
    // Before anything of the body is read.
    if let Err(denied) = caller.may(Scope::ReadingsWrite) {
        body.discard().await;
        return Err(denied.into());
    }
    if body.is_ndjson() {
        let _place = match readings.uploads.lend(&ShareHolder::of(&caller), 1) {
            Ok(place) => place,
            Err(used_up) => {
                body.discard().await;
                return Err(used_up.into());
            }
        };
        // Boxed, as what is rare: it is larger than all that an array needs.
        return Box::pin(ndjson::store(&readings.intake, &readings.stop, &caller, body)).await;
    }
    let body = body.whole(BATCH_BYTES_MAX).await?;
    let mut batch = readings.intake.batch(&caller);
    parse(&body, &mut batch).map_err(refuse)?;
    // Others may need what it took of the budget while this one waits for its commit.
    drop(body);
    let outcome = readings.intake.submit(batch, Waiting::None).await?;
    let Outcome { stored, duplicates, rejected } = outcome;
    answer(stored, duplicates.len(), Rejections::of(rejected))
}

fn refuse(error: ParseError) -> Problem {
    let (code, detail) = (error.code(), error.to_string());
    match error {
        ParseError::NotUtf8 { .. } | ParseError::NotJson(_) => Problem::unreadable(code, detail),
        ParseError::NeitherObjectNorArray | ParseError::Empty => Problem::invalid(code, "", detail),
        ParseError::TooMany(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail),
    }
}
