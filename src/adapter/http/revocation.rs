//! `POST /tokens/revoke`: what was good is no longer taken.
//!
//! Guarantees that this process refuses it from the answer on, and every other one as soon as
//! it has heard of the commit. Tokens of other tenants are not touched.

use axum::extract::State;
use axum::http::StatusCode;

use super::corrections::reason;
use super::extract::Json;
use super::problem::Problem;
use super::reply::Reply;
use super::token::TokenState;
use crate::auth::{Caller, Scope, is_subject};
use crate::event::Revoked;
use crate::record::revoke;
use crate::wire::{self, RevokedTokens};

/// Revokes a subject's tokens, or one token.
pub async fn revoke(
    State(state): State<TokenState>,
    caller: Caller,
    Json(body): Json<wire::Revocation>,
) -> Result<Reply<RevokedTokens>, Problem> {
    caller.may_administer(Scope::TokensRevoke)?;
    let what = match (body.sub, body.jti) {
        (Some(sub), None) => Revoked::Subject(named("/sub", sub)?),
        (None, Some(jti)) => Revoked::Token(named("/jti", jti)?),
        (Some(_), Some(_)) => {
            let detail = "send sub, for all tokens of a subject, or jti, for one token: not both";
            return Err(Problem::invalid("invalid_revocation", "/jti", detail));
        }
        (None, None) => {
            let detail = "sub is missing: name a subject, or one token by its jti";
            return Err(Problem::invalid("missing_field", "/sub", detail));
        }
    };
    let reason = reason(body.reason)?;
    let now = state.clock.now();
    revoke::revoke(&state.log, &caller.tenant, &what, (&caller.subject, &reason), now).await?;
    state.revocations.revoke(&caller.tenant, what.clone(), now.timestamp_millis());
    let (sub, jti) = match what {
        Revoked::Subject(sub) => (Some(sub), None),
        Revoked::Token(jti) => (None, Some(jti)),
    };
    let by = caller.subject;
    Reply::new(StatusCode::OK, &RevokedTokens { sub, jti, reason, by, revoked_at: now.into() })
}

fn named(pointer: &'static str, name: String) -> Result<String, Problem> {
    if is_subject(&name) {
        return Ok(name);
    }
    let detail = "1 to 255 printable characters, as the token has it";
    Err(Problem::invalid("invalid_revocation", pointer, detail))
}
