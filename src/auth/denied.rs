//! Why somebody is not let in: said by every adapter in its own way.

/// Why somebody is not let in, or may not do what they want.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token, or none that is good here.
    #[error("{0}")]
    Unauthorised(String),
    /// The token lacks a scope.
    #[error("the token lacks the scope {0}")]
    ScopeMissing(&'static str),
    /// The token is narrowed to something else.
    #[error("{0}")]
    OutsideToken(&'static str),
    /// No token can be checked now.
    #[error("the keys of tokens are not known yet: try again")]
    KeysUnavailable,
}

impl Denied {
    /// Stable, and the same by every adapter.
    pub fn code(&self) -> &'static str {
        match self {
            Denied::Unauthorised(_) => "unauthorised",
            Denied::ScopeMissing(_) => "scope_missing",
            Denied::OutsideToken(_) => "outside_token",
            Denied::KeysUnavailable => "keys_unavailable",
        }
    }
}
