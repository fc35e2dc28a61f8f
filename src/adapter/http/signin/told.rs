//! What comes of signing in: for whoever tried, in a page; for who runs this, in the log and
//! in numbers.
//!
//! Guarantees that all of it is known at one place, [`tell`], which has it on record. No code,
//! token or cookie is in it.

use std::net::IpAddr;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::super::html::{answer, document, escaped};
use super::super::problem::ProblemText;
use crate::audit::{Access, Action, Audit, Means, NotRecorded, Resource, Who};
use crate::auth::oidc::ProviderError;
use crate::auth::sessions::{Session, SessionError};

/// Something that happened.
pub enum Known<'a> {
    /// Somebody came.
    SignedIn(&'a Session),
    /// Somebody, or nobody who can be named, was not let in.
    Refused(&'a Refused),
    /// Somebody went.
    SignedOut(&'a Session),
}

/// Takes note of it, from where it came. Who came is on record when this returns.
pub async fn tell(
    audit: &Audit,
    address: Option<IpAddr>,
    known: &Known<'_>,
) -> Result<(), NotRecorded> {
    let (outcome, action, session) = match known {
        Known::SignedIn(session) => ("signed_in", Action::SignIn, Some(session)),
        Known::SignedOut(session) => ("signed_out", Action::SignOut, Some(session)),
        Known::Refused(refused) => {
            let (outcome, why) = (refused.outcome(), refused.why());
            tracing::warn!(outcome, why, "a sign-in did not come about");
            (outcome, Action::SignIn, None)
        }
    };
    metrics::counter!("vitals_sign_ins_total", "outcome" => outcome).increment(1);
    let who = session.map(|Session { caller, .. }| {
        let (tenant, subject) = (&*caller.tenant, &*caller.subject);
        tracing::info!(outcome, tenant, subject, session = caller.token_id);
        Who {
            tenant: caller.tenant.clone(),
            subject: caller.subject.clone(),
            token_id: caller.token_id.clone(),
            by: Means::Session,
        }
    });
    let (method, route) = match action {
        Action::SignOut => ("POST", "/auth/logout"),
        _ => ("GET", "/auth/callback"),
    };
    let (status, code) = match known {
        Known::Refused(refused) => (refused.status(), Some(outcome.to_owned())),
        _ => (StatusCode::OK, None),
    };
    let access = Access {
        action,
        who,
        method,
        route: route.to_owned(),
        resource: Resource::default(),
        address,
        status: Some(status.as_u16()),
        code,
    };
    audit.signed(access).await
}

/// Why somebody is not let in.
#[derive(Debug)]
pub enum Refused {
    /// There is no provider.
    NotConfigured,
    /// It was to lead back to another site.
    Elsewhere,
    /// Not in this browser, or too long ago, or it is over already.
    NotBegun,
    /// The answer is another provider's.
    OtherIssuer,
    /// The provider says no.
    ByProvider(String),
    /// See there.
    Provider(ProviderError),
    /// Nothing of what the provider says gives them anything to do here.
    NoRole {
        /// What they are called there.
        subject: String,
        /// In which of their claims it was looked for.
        claims: Option<Vec<String>>,
    },
    /// What the provider says of them cannot be somebody here.
    Nobody(String),
    /// The database does not answer.
    Database(sqlx::Error),
    /// Too many at once.
    Busy,
}

impl From<ProviderError> for Refused {
    fn from(error: ProviderError) -> Refused {
        Refused::Provider(error)
    }
}

impl Refused {
    /// Of a session that did not begin; `claims` are those that the map looks at.
    pub fn of(error: SessionError, claims: Option<Vec<String>>) -> Refused {
        match error {
            SessionError::Database(error) => Refused::Database(error),
            SessionError::Denied(denied) => Refused::Nobody(denied.to_string()),
            SessionError::NoRole(subject) => Refused::NoRole { subject, claims },
        }
    }

    /// Short, and one of few.
    fn outcome(&self) -> &'static str {
        match self {
            Refused::NotConfigured => "not_configured",
            Refused::Elsewhere => "elsewhere",
            Refused::NotBegun => "not_begun",
            Refused::OtherIssuer => "other_issuer",
            Refused::ByProvider(_) => "refused_by_provider",
            Refused::Provider(ProviderError::Away(_)) => "provider_away",
            Refused::Provider(ProviderError::Unusable(_)) => "provider_unusable",
            Refused::Provider(ProviderError::Refused(_)) => "code_refused",
            Refused::Provider(ProviderError::IdToken(_)) => "id_token_refused",
            Refused::NoRole { .. } => "no_role",
            Refused::Nobody(_) => "nobody",
            Refused::Database(_) => "database_unavailable",
            Refused::Busy => "busy",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Refused::NotConfigured => StatusCode::NOT_FOUND,
            Refused::Elsewhere | Refused::NotBegun | Refused::OtherIssuer => {
                StatusCode::BAD_REQUEST
            }
            Refused::ByProvider(_) | Refused::NoRole { .. } | Refused::Nobody(_) => {
                StatusCode::FORBIDDEN
            }
            Refused::Provider(ProviderError::Away(_)) | Refused::Database(_) | Refused::Busy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refused::Provider(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Refused::NotConfigured => "There is no sign-in here",
            Refused::Elsewhere | Refused::NotBegun | Refused::OtherIssuer => "Please sign in again",
            Refused::ByProvider(_) => "The identity provider did not let you in",
            Refused::Provider(ProviderError::Away(_)) => "The identity provider does not answer",
            Refused::Provider(_) => "The identity provider’s answer was not taken",
            Refused::NoRole { .. } | Refused::Nobody(_) => "You have no role here",
            Refused::Database(_) | Refused::Busy => "Not now",
        }
    }

    fn why(&self) -> String {
        match self {
            Refused::NotConfigured => {
                "the operator has named no identity provider; paste a token into the page".to_owned()
            }
            Refused::Elsewhere => "a sign-in leads back to a path of this server".to_owned(),
            Refused::NotBegun => {
                "this sign-in was begun in another browser or tab, took too long, or was used already"
                    .to_owned()
            }
            Refused::OtherIssuer => {
                "the answer is not of the identity provider that was asked".to_owned()
            }
            Refused::ByProvider(said) => format!("it said: {said}"),
            Refused::Provider(error) => format!("{error}"),
            Refused::NoRole { subject, claims: Some(claims) } => format!(
                "the identity provider knows you as {subject}, and none of your {} stands for \
                 something here: ask who runs this to give you a role",
                claims.join(", ")
            ),
            Refused::NoRole { subject, claims: None } => format!(
                "the identity provider knows you as {subject}, and no map says what that stands for \
                 here: whoever runs this has to write one (--jwt-roles)"
            ),
            Refused::Nobody(why) => why.clone(),
            Refused::Database(_) => "the database cannot answer now".to_owned(),
            Refused::Busy => "too many are signing in at this moment".to_owned(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        if let Refused::Database(error) = &self {
            tracing::error!(%error, "a session could not be begun");
        }
        let again = match self {
            Refused::NotConfigured => "<a href=\"/\">To the page</a>",
            _ => "<a href=\"/auth/login\">Sign in</a> · <a href=\"/\">To the page</a>",
        };
        let main = format!(
            "<h1>{}</h1>\n<p class=\"told\">You are not signed in: {}.</p>\n<p class=\"hint\">{again}</p>\n",
            escaped(self.title()),
            escaped(&self.why()),
        );
        let mut response = answer(self.status(), document(self.title(), &main));
        let told = ProblemText { code: self.outcome(), detail: self.why() };
        response.extensions_mut().insert(told);
        response
    }
}
