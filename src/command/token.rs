//! `vitals token`: a JWT and nothing else.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::error::Error;
use super::secret;
use crate::auth::wards::is_ward;
use crate::auth::{AUDIENCE, Claims, Scope, is_subject};
use crate::clock::Clock;
use crate::config::{Common, duration};

/// Options of `vitals token`.
#[derive(Args)]
pub struct Options {
    /// Whose data it opens
    #[arg(long, value_parser = crate::config::id)]
    tenant: String,
    /// Who will use it
    #[arg(long)]
    subject: String,
    /// What it allows, with spaces between, as "readings:write vitals:read"
    #[arg(long)]
    scope: String,
    /// Only this device
    #[arg(long, value_parser = crate::config::id)]
    device: Option<String>,
    /// Only this patient
    #[arg(long, value_parser = crate::config::id)]
    patient: Option<String>,
    /// Only who lies in this ward; may be given several times
    #[arg(long = "ward", value_name = "WARD")]
    wards: Vec<String>,
    /// How long it is good for
    #[arg(long, value_parser = duration, default_value = "12h")]
    ttl: Duration,
    /// Who makes it ("iss"), as the server expects it; of several the first
    #[arg(long, env = "VITALS_JWT_ISSUER", value_name = "ISS", value_delimiter = ',')]
    jwt_issuer: Vec<String>,
}

/// Prints the token.
pub fn run(common: &Common, options: &Options) -> Result<ExitCode, Error> {
    if !is_subject(&options.subject) {
        return Err("--subject must have 1 to 255 printable characters".into());
    }
    if let Some(unknown) = options.scope.split_whitespace().find(|s| Scope::named(s).is_none()) {
        return Err(format!("no scope is called {unknown}: use {}", Scope::names()).into());
    }
    if let Some(ward) = options.wards.iter().find(|ward| !is_ward(ward)) {
        return Err(format!("--ward {ward:?} is no name of a ward").into());
    }
    let ttl = i64::try_from(options.ttl.as_secs())?;
    let now = Clock::system().now().timestamp();
    let exp = now.checked_add(ttl).ok_or("--ttl is too long")?;
    let keys = secret::keys(common)?.of_issuers(&options.jwt_issuer);
    let claims = Claims {
        iss: keys.issuer().to_owned(),
        aud: AUDIENCE.into(),
        sub: options.subject.clone(),
        tenant: Some(options.tenant.clone()),
        scope: options.scope.split_whitespace().collect::<Vec<_>>().join(" "),
        exp: exp.into(),
        nbf: None,
        iat: Some(now.into()),
        jti: Some(Uuid::now_v7().to_string()),
        device: options.device.clone(),
        patient: options.patient.clone(),
        wards: (!options.wards.is_empty()).then(|| options.wards.clone()),
    };
    println!("{}", keys.sign(&claims)?);
    Ok(ExitCode::SUCCESS)
}
