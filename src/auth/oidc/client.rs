//! Who we are to a provider, and why its part of a sign-in does not come about.
//!
//! Guarantees nothing: it is what the other files of this folder tell each other.

/// What we are to the provider.
#[derive(Clone)]
pub struct OidcClient {
    /// The provider, as it calls itself.
    pub issuer: String,
    /// Our name there.
    pub id: String,
    /// Ours, unless PKCE alone is to do.
    pub secret: Option<String>,
    /// What is asked for.
    pub scope: String,
    /// Where the provider sends browsers back to.
    pub redirect_uri: String,
}

/// Why the provider's part does not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It is away, or in trouble.
    #[error("it cannot be reached: {0}")]
    Away(String),
    /// It is there, and what it says of itself cannot be used.
    #[error("what it says of itself cannot be used: {0}")]
    Unusable(String),
    /// It does not take the code, or us.
    #[error("it does not take the code: {0}")]
    Refused(String),
    /// It signed what it should not have, or somebody else did.
    #[error("its ID token is not taken: {0}")]
    IdToken(String),
}
