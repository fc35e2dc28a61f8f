//! Options: from flags, then `VITALS_*` variables, then `vitals.toml`.
//!
//! Guarantees that a key of the file which no command knows is an error and not a
//! silence. Does not hold secrets: those come from the environment or the data
//! directory.

mod audit;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Command, ValueEnum};

pub use self::audit::{AuditOptions, AuditReads, SyslogPlace};
use crate::auth::oidc;
use crate::delivery::webhook::guard::Allow;
use crate::event::is_fhir_id;

/// The file that is read unless another is named.
const FILE: &str = "vitals.toml";
/// The highest limit: one in 60 ns, which is as good as none.
const PER_MINUTE_MAX: u32 = 1_000_000_000;
/// Requests a minute of a token with a device.
const DEVICE_REQUESTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
/// Requests a minute of a token without one.
const GATEWAY_REQUESTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
/// Connections of a process. Each takes a descriptor, and some memory.
const CONNECTIONS_MAX: u32 = 4_096;
/// Readings a minute of any token.
const READINGS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10_000_000).unwrap();

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// PostgreSQL to use; without it, one is started in the data directory
    /// [also: DATABASE_URL]
    #[arg(
        long,
        global = true,
        env = "VITALS_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,
    /// The same PostgreSQL as the owner of the log, who migrates, rebuilds and archives; then
    /// --database-url is the role of the service, which appends and folds and no more
    #[arg(
        long,
        global = true,
        env = "VITALS_OWNER_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub owner_database_url: Option<String>,
    /// How long a start waits for a database that is away, as 30s; then it is an error
    /// [default: 30s for serve, no time for other commands]
    #[arg(long, global = true, env = "VITALS_DATABASE_WAIT", value_name = "TIME", value_parser = duration)]
    pub database_wait: Option<Duration>,
    /// How long the embedded database may be away until vitals ends with an error; meanwhile
    /// it is started again and again
    #[arg(long, global = true, env = "VITALS_DATABASE_AWAY", value_name = "TIME", value_parser = duration, default_value = DATABASE_AWAY)]
    pub database_away: Duration,
    /// Where the embedded database and the token secret live
    #[arg(
        long,
        global = true,
        env = "VITALS_DATA_DIR",
        value_name = "DIR",
        default_value = ".vitals"
    )]
    pub data_dir: PathBuf,
    /// Shards of a new database; fixed from then on [default: one a core, 2 to 4]
    #[arg(long, global = true, env = "VITALS_SHARDS", value_name = "N", value_parser = clap::value_parser!(i16).range(1..=64))]
    pub shards: Option<i16>,
    /// What to log, as in "info,vitals=debug"
    #[arg(
        long,
        global = true,
        env = "VITALS_LOG",
        value_name = "FILTER",
        default_value = "info,sqlx=warn"
    )]
    pub log: String,
    /// How to log
    #[arg(
        long,
        global = true,
        env = "VITALS_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// A file of options [default: vitals.toml, if it is there]
    #[arg(long, global = true, env = "VITALS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What serving takes.
#[derive(Args, Clone, Debug)]
pub struct Serving {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "VITALS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// TLS: a PEM file with the certificate and its chain. It is read anew when it changes
    #[arg(long, env = "VITALS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, env = "VITALS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Who signs the certificates of clients, PEM: then each has to show one
    #[arg(long, env = "VITALS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// A client may show no certificate; then it sends a token
    #[arg(long, env = "VITALS_TLS_CLIENT_OPTIONAL")]
    pub tls_client_optional: bool,
    /// For whom a client's certificate stands where it sends no token: a TOML file
    #[arg(long, env = "VITALS_TLS_CLIENTS", value_name = "FILE")]
    pub tls_clients: Option<PathBuf>,
    /// Listen without TLS where other machines can reach it, because a proxy before it has TLS
    #[arg(long, env = "VITALS_PLAIN_HTTP")]
    pub plain_http: bool,
    /// What this process does
    #[arg(
        long,
        env = "VITALS_ROLES",
        value_name = "ROLES",
        value_delimiter = ',',
        default_value = "api,workers"
    )]
    pub roles: Vec<Role>,
    /// Networks that webhooks may reach although they are not public, as 10.0.0.0/8; those of
    /// one tenant, or at one port, as ward-4b=10.0.0.0/8:8443
    #[arg(long, env = "VITALS_ALLOW_WEBHOOK_NET", value_name = "NET", value_delimiter = ',')]
    pub allow_webhook_net: Vec<Allow>,
    /// Where the public keys are that tokens are signed with elsewhere: a JWKS, a file or
    /// an http(s) URL. VITALS_JWT_SECRET counts beside it only if it is set
    #[arg(long, env = "VITALS_JWKS", value_name = "FILE|URL")]
    pub jwks: Option<String>,
    /// Who makes tokens ("iss"): others are not let in. "vitals token" puts the first one in
    /// [default: whoever has the key]
    #[arg(long, env = "VITALS_JWT_ISSUER", value_name = "ISS", value_delimiter = ',')]
    pub jwt_issuer: Vec<String>,
    /// What the claims of an identity provider stand for: a TOML file. It is read anew when it
    /// changes
    #[arg(long, env = "VITALS_JWT_ROLES", value_name = "FILE")]
    pub jwt_roles: Option<PathBuf>,
    /// By how much the clock of who makes tokens may be apart from this one's
    #[arg(long, env = "VITALS_JWT_LEEWAY", value_name = "TIME", value_parser = leeway, default_value = "0s")]
    pub jwt_leeway: Duration,
    /// Who people sign in with in a browser: an OpenID provider, by its issuer. Needs
    /// --oidc-client-id and --public-url; the client's secret is VITALS_OIDC_CLIENT_SECRET or
    /// the file oidc-client-secret in --data-dir, or there is none
    #[arg(long, env = "VITALS_OIDC_ISSUER", value_name = "URL", value_parser = oidc::issuer)]
    pub oidc_issuer: Option<String>,
    /// What the provider calls this installation
    #[arg(long, env = "VITALS_OIDC_CLIENT_ID", value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// What the provider is asked for; openid has to be among it
    #[arg(long, env = "VITALS_OIDC_SCOPE", value_name = "SCOPES", default_value = "openid")]
    pub oidc_scope: String,
    /// Where the heads of the log are published, so that a tail that was cut off can be proved:
    /// a file, an http(s) URL that they are posted to, or `log`. See `vitals verify --anchor`
    #[arg(long, env = "VITALS_ANCHOR", value_name = "FILE|URL|log", value_parser = anchor_place)]
    pub anchor: Option<AnchorPlace>,
    /// How the outside reaches this server: put before the links in webhooks, and where a browser
    /// comes back to that signs in
    #[arg(long, env = "VITALS_PUBLIC_URL", value_name = "URL", default_value = "")]
    pub public_url: String,
    /// How long, after SIGTERM, requests are still answered while /health/ready says that
    /// this process goes away; so that a balancer sends no more
    #[arg(long, env = "VITALS_DRAIN", value_name = "TIME", value_parser = duration, default_value = DRAIN)]
    pub drain: Duration,
    /// Origins whose pages may call the API from a browser, as https://app.example.org
    #[arg(long, env = "VITALS_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origin: Vec<String>,
    /// The patients are made up, and the page says so: not an option.
    #[arg(skip)]
    pub is_simulated: bool,
    /// Requests a minute that a token with a device may make
    #[arg(long, env = "VITALS_LIMIT_DEVICE_REQUESTS", value_name = "N", value_parser = per_minute, default_value_t = DEVICE_REQUESTS_PER_MINUTE)]
    pub limit_device_requests: NonZeroU32,
    /// Requests a minute that a token without a device may make
    #[arg(long, env = "VITALS_LIMIT_GATEWAY_REQUESTS", value_name = "N", value_parser = per_minute, default_value_t = GATEWAY_REQUESTS_PER_MINUTE)]
    pub limit_gateway_requests: NonZeroU32,
    /// Readings a minute that a token may send
    #[arg(long, env = "VITALS_LIMIT_READINGS", value_name = "N", value_parser = per_minute, default_value_t = READINGS_PER_MINUTE)]
    pub limit_readings: NonZeroU32,
    /// Connections from outside at one time; fewer where the system allows fewer open files
    #[arg(long, env = "VITALS_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value_t = CONNECTIONS_MAX)]
    pub connections: u32,
    /// Who has asked for what.
    #[command(flatten)]
    pub audit: AuditOptions,
    /// Where traces are sent: an OTLP collector over HTTP, as http://collector:4318
    /// [also: OTEL_EXPORTER_OTLP_ENDPOINT; default: nowhere, and there are none]
    #[arg(long, env = "VITALS_OTLP_ENDPOINT", value_name = "URL", value_parser = collector)]
    pub otlp_endpoint: Option<reqwest::Url>,
    /// Which part of the requests is traced of those whose senders do not say whether: 0 to 1
    #[arg(long, env = "VITALS_TRACE_RATIO", value_name = "PART", value_parser = part, default_value_t = TRACE_RATIO)]
    pub trace_ratio: f64,
    /// Pause of the self-check between some patients and the next
    #[arg(long, env = "VITALS_SELF_CHECK_PAUSE", value_name = "TIME", value_parser = duration, default_value = SELF_CHECK_PAUSE)]
    pub self_check_pause: Duration,
}

/// Names that are less like each other are not taken for one another (Jaro and Winkler).
const LIKE_MIN: f64 = 0.8;

/// See [`leeway`].
const LEEWAY_SECONDS_MAX: u64 = 300;

/// A recovery takes less, and somebody has seen that the disk is full.
const DATABASE_AWAY: &str = "5m";

/// A balancer that asks every two seconds has twice been told.
const DRAIN: &str = "5s";

/// So few that they cost nothing that can be measured.
const TRACE_RATIO: f64 = 0.01;

/// Between two looks of the self-check.
const SELF_CHECK_PAUSE: &str = "5s";

/// How archives in a bucket are reached, beside the AWS_* variables.
#[derive(Args, Clone, Debug, Default)]
pub struct Buckets {
    /// A bucket's endpoint, if it is not Amazon's
    #[arg(long, env = "VITALS_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Reach the bucket without TLS
    #[arg(long, env = "VITALS_S3_ALLOW_HTTP")]
    pub s3_allow_http: bool,
}

/// Where heads of the log are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorPlace {
    /// Lines of the program's own log.
    Log,
    /// Lines of a file.
    File(PathBuf),
    /// Posted.
    Url(reqwest::Url),
}

fn anchor_place(text: &str) -> Result<AnchorPlace, String> {
    if text == "log" {
        return Ok(AnchorPlace::Log);
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Ok(AnchorPlace::File(text.into()));
    }
    text.parse().map(AnchorPlace::Url).map_err(|error| format!("no URL: {error}"))
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// HTTP.
    Api,
    /// Projections, rules, webhooks.
    Workers,
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("reading {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}", path = path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}, line {line}: no option is called \"{key}\"{meant}", path = path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, meant: String },
    #[error("{path}: {key} must be a text, a number, true or false, or a list of them", path = path.display())]
    Value { path: PathBuf, key: String },
}

/// Gives the options of a file to a command and its subcommands as their defaults,
/// so that variables and flags go before them.
///
/// `named` is the file that the caller asked for; without one, `vitals.toml` is read
/// if it is there.
pub fn with_file(command: Command, named: Option<&Path>) -> Result<Command, ConfigError> {
    let path = named.unwrap_or(Path::new(FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            return Ok(command);
        }
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let table: toml::Table = toml::from_str(&text)
        .map_err(|source| ConfigError::Toml { path: path.to_owned(), source: Box::new(source) })?;
    let mut defaults = Vec::new();
    for (key, value) in table {
        let id = key.replace('-', "_");
        if !knows(&command, &id) {
            let (line, meant) = (line_of(&text, &key), meant(&command, &key));
            return Err(ConfigError::UnknownKey { path: path.to_owned(), line, key, meant });
        }
        let value =
            as_text(&value).ok_or_else(|| ConfigError::Value { path: path.to_owned(), key })?;
        defaults.push((id, value));
    }
    Ok(set_defaults(command, &defaults))
}

/// Where a key of the file stands.
fn line_of(text: &str, key: &str) -> usize {
    let parsed = toml::de::DeTable::parse(text);
    let at = parsed.ok().and_then(|table| {
        table.get_ref().keys().find(|name| name.get_ref() == key).map(|name| name.span().start)
    });
    let before = text.get(..at.unwrap_or_default()).unwrap_or_default();
    before.matches('\n').count() + 1
}

/// The option whose name is most like this one, if any is.
fn meant(command: &Command, key: &str) -> String {
    let like = |name: &String| strsim::jaro_winkler(name, key);
    let nearest = names(command).into_iter().max_by(|a, b| like(a).total_cmp(&like(b)));
    let nearest = nearest.filter(|name| like(name) >= LIKE_MIN);
    nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// What a file may say.
fn names(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(names)).collect()
}

fn knows(command: &Command, id: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == id && arg.get_long().is_some())
        || command.get_subcommands().any(|sub| knows(sub, id))
}

/// Gives a command and its subcommands other defaults, by the ids of options.
pub fn set_defaults(command: Command, defaults: &[(String, String)]) -> Command {
    command
        .mut_args(|arg| match defaults.iter().find(|(id, _)| arg.get_id() == id.as_str()) {
            Some((_, value)) if arg.get_long().is_some() => {
                arg.default_value(value.clone()).required(false)
            }
            _ => arg,
        })
        .mut_subcommands(|sub| set_defaults(sub, defaults))
}

fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(n) => Some(n.to_string()),
        toml::Value::Boolean(b) => Some(b.to_string()),
        toml::Value::Array(items) => {
            items.iter().map(as_text).collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// An origin as browsers write it: nothing after the port, and no port that goes without saying.
fn origin(text: &str) -> Result<String, String> {
    let of_web = |url: &reqwest::Url| ["http", "https"].contains(&url.scheme());
    let url = reqwest::Url::parse(text).ok().filter(of_web);
    let written = url.map(|url| url.origin().ascii_serialization());
    match written {
        Some(origin) if origin == text => Ok(origin),
        Some(origin) => Err(format!("write it as browsers do: {origin}")),
        None => Err("write it as https://app.example.org; each origin is named".to_owned()),
    }
}

/// Where something is that speaks HTTP.
fn collector(text: &str) -> Result<reqwest::Url, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("no URL: {error}"))?;
    let of_web = ["http", "https"].contains(&url.scheme());
    of_web.then_some(url).ok_or_else(|| "write it as http://collector:4318".to_owned())
}

/// A part of a whole.
fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "write it as a number from 0 to 1".to_owned())
}

/// The id of a tenant, a patient or a device.
pub fn id(text: &str) -> Result<String, String> {
    let is_one = is_fhir_id(text).then(|| text.to_owned());
    is_one.ok_or_else(|| {
        "an id is 1 to 64 letters, digits, dashes and dots, and not . or ..".to_owned()
    })
}

/// A limit a minute.
fn per_minute(text: &str) -> Result<NonZeroU32, String> {
    if text == "0" {
        return Err(format!("0 would let nobody in; {PER_MINUTE_MAX} is as good as no limit"));
    }
    text.parse()
        .ok()
        .filter(|n: &NonZeroU32| n.get() <= PER_MINUTE_MAX)
        .ok_or_else(|| format!("write it as a whole number from 1 to {PER_MINUTE_MAX}"))
}

/// Clocks that are further apart are to be put right.
fn leeway(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(LEEWAY_SECONDS_MAX);
    let leeway = duration(text)?;
    if leeway > most {
        return Err(format!("{LEEWAY_SECONDS_MAX}s at most: put the clocks right"));
    }
    Ok(leeway)
}

/// A length of time as people write it: 60s, 12h.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 60s, 5m or 12h"))
}
