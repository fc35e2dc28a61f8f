//! Errors as the outside sees them: RFC 9457 `application/problem+json`.
//!
//! Guarantees a stable code and a detail that a person can act on, and that nothing
//! of the inside (SQL, paths, another tenant's data) is in it. What went wrong
//! inside is logged here, once.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::intake::WritersError;
use crate::log::AppendError;
use crate::query::chart::ChartError;
use crate::query::reach::Unanswered;
use crate::wire;

/// An answer that is an error.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// Boxed: it is rare, and errors are moved around by value.
    document: Box<wire::Problem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a problem says, beside its document: for who tells it in another form.
#[derive(Clone, Debug)]
pub struct ProblemText {
    /// Stable.
    pub code: &'static str,
    /// For a person.
    pub detail: String,
}

impl Problem {
    /// An error of this status, with its stable code.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        let document = wire::Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            ..wire::Problem::default()
        };
        Problem { status, document: Box::new(document), headers: Vec::new() }
    }

    /// 400: cannot be read at all.
    pub fn unreadable(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 422: can be read, and is wrong.
    pub fn invalid(code: &'static str, pointer: &str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
            .with(|document| document.pointer = Some(pointer.to_owned()))
    }

    /// 404. The same words whether it never existed or is another tenant's.
    pub fn not_found(what: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 403.
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// 503: come again.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Its code and its pointer, if it has one.
    #[cfg(test)]
    pub fn place(&self) -> String {
        let pointer = self.document.pointer.as_ref().map(|pointer| format!(" {pointer}"));
        format!("{}{}", self.document.code, pointer.unwrap_or_default())
    }

    /// Its code.
    pub fn code(&self) -> &'static str {
        self.document.code
    }

    /// What it will be answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// Says more in its document.
    pub fn with(mut self, say: impl FnOnce(&mut wire::Problem)) -> Problem {
        say(&mut self.document);
        self
    }

    /// The document, as it is sent.
    pub fn text(&self) -> String {
        serde_json::to_string(&self.document).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = (header::CONTENT_TYPE, "application/problem+json");
        let mut response = (self.status, [kind], self.text()).into_response();
        response.headers_mut().extend(self.headers);
        let wire::Problem { code, detail, .. } = *self.document;
        response.extensions_mut().insert(ProblemText { code, detail });
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Problem {
        tracing::error!(%error, "a question was not answered");
        Problem::unavailable("database_unavailable", "the database cannot answer now: ask again")
    }
}

impl From<Unanswered> for Problem {
    fn from(error: Unanswered) -> Problem {
        match error {
            Unanswered::Database(error) => error.into(),
            Unanswered::Archived(span) => {
                Problem::new(StatusCode::GONE, "month_archived", error.to_string())
                    .with(|document| document.month = Some(span.to_string()))
            }
        }
    }
}

impl From<ChartError> for Problem {
    fn from(error: ChartError) -> Problem {
        match error {
            ChartError::Unanswered(error) => error.into(),
            ChartError::TooMany(_) => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_readings",
                error.to_string(),
            ),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Problem {
        tracing::error!(%error, "an event was not recorded; its sender was told");
        Problem::unavailable("log_unavailable", "the log cannot be written now: send again")
    }
}

impl From<WritersError> for Problem {
    fn from(error: WritersError) -> Problem {
        Problem::unavailable(error.code(), error.to_string())
    }
}
