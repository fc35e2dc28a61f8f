//! The guard against webhooks that point inwards (SSRF).
//!
//! Guarantees that a URL which [`Guard::check_url`] let through and that is fetched
//! by a client of [`Guard::client`] never connects to a special address: this
//! machine, private and link-local networks (where clouds keep their credentials),
//! multicast and the rest of IANA's special-purpose registries, unless the operator
//! named the network. A name is judged when it is resolved for the connection, so
//! that an answer which changes after the check (DNS rebinding) does not get through.
//!
//! Does not judge a literal address at connect time: the client never asks its
//! resolver about one. So [`Guard::check_url`] has to run before every send. Does
//! not know about a proxy or a router that leads public addresses inwards.

mod net;
mod resolver;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

pub use net::{Allow, NetError};
use net::{embedded_v4, special};
pub use resolver::Resolver;
use resolver::SystemResolver;

/// The longest URL of an endpoint.
pub const URL_BYTES_MAX: usize = 2048;
/// How long a name may take to resolve.
pub const RESOLVE_MS_MAX: u64 = 5_000;

/// Why a URL is not called.
#[derive(Debug, thiserror::Error)]
pub enum ForbiddenUrl {
    /// Over [`URL_BYTES_MAX`].
    #[error("the URL has {bytes} bytes; at most {URL_BYTES_MAX} are taken")]
    TooLong {
        /// As sent.
        bytes: usize,
    },
    /// Not a URL, or one without a host.
    #[error("the URL cannot be read ({reason}): send one like https://hospital.example/hook")]
    Unreadable {
        /// What the parser says.
        reason: String,
    },
    /// Neither http nor https.
    #[error("the scheme \"{scheme}\" is not called: use https, or http")]
    Scheme {
        /// What it is instead.
        scheme: String,
    },
    /// A user name or a password.
    #[error("the URL holds a user name or a password: leave it out and check the signature")]
    UserInfo,
    /// Never sent to a server, so a mistake.
    #[error("the URL holds a fragment (\"#…\"), which is never sent: leave it out")]
    Fragment,
    /// Inwards.
    #[error(
        "{host} leads to a {kind} address, which webhooks do not reach: if it is meant, the operator \
         allows its network with --allow-webhook-net"
    )]
    Special {
        /// As in the URL. What a name resolved to is not told: that is the inner network's map.
        host: String,
        /// Of IANA's registry.
        kind: &'static str,
    },
    /// No answer from the name servers, or none in time.
    #[error("{host} does not resolve: check the name, and that it is public")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
}

impl ForbiddenUrl {
    /// The stable code of an error answer.
    pub fn code(&self) -> &'static str {
        match self {
            ForbiddenUrl::TooLong { .. } => "webhook_url_too_long",
            ForbiddenUrl::Unreadable { .. } => "webhook_url_unreadable",
            ForbiddenUrl::Scheme { .. } => "webhook_url_scheme",
            ForbiddenUrl::UserInfo => "webhook_url_userinfo",
            ForbiddenUrl::Fragment => "webhook_url_fragment",
            ForbiddenUrl::Special { .. } => "webhook_address_refused",
            ForbiddenUrl::Unresolved { .. } => "webhook_host_unresolved",
        }
    }
}

/// What webhooks may reach.
#[derive(Clone, Debug)]
pub struct Guard {
    allowed: Vec<Allow>,
    /// Whose endpoints are called: what is allowed to others is not to them.
    tenant: Option<Arc<str>>,
    /// The port that is connected to, where a URL does not say it.
    port: Option<u16>,
    resolver: Arc<dyn Resolver>,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard::new(&[])
    }
}

impl Guard {
    /// The public internet, and what of the operator's `allow` is for everybody.
    pub fn new(allow: &[Allow]) -> Guard {
        Guard {
            allowed: allow.to_vec(),
            tenant: None,
            port: None,
            resolver: Arc::new(SystemResolver),
        }
    }

    /// The same for a tenant, with what is allowed to it alone.
    pub fn of_tenant(&self, tenant: &str) -> Guard {
        Guard { tenant: Some(tenant.into()), ..self.clone() }
    }

    /// The same for a URL's connections, with what is allowed at its port alone.
    pub fn at(&self, url: &reqwest::Url) -> Guard {
        Guard { port: url.port_or_known_default(), ..self.clone() }
    }

    /// Whether it permits more than it would without its tenant and port: a client of its own is
    /// needed then, for connections are kept and used again.
    pub fn is_narrowed(&self) -> bool {
        self.allowed.iter().any(|allow| allow.is_narrow() && self.applies(allow, self.port))
    }

    fn applies(&self, allow: &Allow, port: Option<u16>) -> bool {
        allow.applies(self.tenant.as_deref(), port)
    }

    /// The same by another resolver.
    pub fn with_resolver(self, resolver: Arc<dyn Resolver>) -> Guard {
        Guard { resolver, ..self }
    }

    /// Whether an address may be connected to.
    pub fn permits(&self, ip: IpAddr) -> bool {
        self.refusal(ip, self.port).is_none()
    }

    /// The kind of special address that keeps `ip` from being connected to at a port.
    fn refusal(&self, ip: IpAddr, port: Option<u16>) -> Option<&'static str> {
        let ip = embedded_v4(ip);
        let allows = |allow: &Allow| allow.net.contains(&ip) && self.applies(allow, port);
        special(ip).filter(|_| !self.allowed.iter().any(allows))
    }

    /// Reads an endpoint's URL and judges all of it that needs no name server.
    ///
    /// Integer, octal and hexadecimal IPv4 hosts become ordinary ones while reading.
    pub fn check_url(&self, url: &str) -> Result<reqwest::Url, ForbiddenUrl> {
        if url.len() > URL_BYTES_MAX {
            return Err(ForbiddenUrl::TooLong { bytes: url.len() });
        }
        let url = reqwest::Url::parse(url)
            .map_err(|error| ForbiddenUrl::Unreadable { reason: error.to_string() })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ForbiddenUrl::Scheme { scheme: url.scheme().to_owned() });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ForbiddenUrl::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(ForbiddenUrl::Fragment);
        }
        self.name_to_resolve(&url)?;
        Ok(url)
    }

    /// Resolves the host and refuses it if any of its addresses is not permitted.
    /// For when an endpoint is made; what counts is the same test at connect time.
    pub async fn check_resolved(&self, url: &reqwest::Url) -> Result<(), ForbiddenUrl> {
        let Some(host) = self.name_to_resolve(url)? else { return Ok(()) };
        self.at(url).all_permitted(host, &self.resolve(host).await?)
    }

    /// A client that resolves through the guard, follows no redirect (which nothing
    /// would have checked) and uses no proxy (which would resolve by itself).
    pub fn client(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .dns_resolver(GuardedResolver(self.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
    }

    /// The host if only a name server can tell where it leads; literal addresses and
    /// localhost are judged here.
    fn name_to_resolve<'a>(&self, url: &'a reqwest::Url) -> Result<Option<&'a str>, ForbiddenUrl> {
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| ForbiddenUrl::Unreadable { reason: "no host".to_owned() })?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let meant: &[IpAddr] = match bare.parse::<IpAddr>() {
            Ok(ip) => &[ip],
            Err(_) if is_localhost(host) => {
                &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            }
            Err(_) => return Ok(Some(host)),
        };
        // `None`, permitted, sorts first: one of localhost's two is enough, and the
        // resolver drops the other.
        let port = url.port_or_known_default();
        match meant.iter().map(|ip| self.refusal(*ip, port)).min().flatten() {
            Some(kind) => Err(ForbiddenUrl::Special { host: host.to_owned(), kind }),
            None => Ok(None),
        }
    }

    /// The addresses of a name, at least one, in time. Their port is 0, for which the
    /// client puts in the URL's.
    async fn resolve(&self, host: &str) -> Result<Vec<SocketAddr>, ForbiddenUrl> {
        let limit = Duration::from_millis(RESOLVE_MS_MAX);
        let found = tokio::time::timeout(limit, self.resolver.addresses(host));
        let unresolved = |source| ForbiddenUrl::Unresolved { host: host.to_owned(), source };
        let found = found.await.map_err(|late| unresolved(io::Error::other(late)))?;
        let mut addresses = found.map_err(unresolved)?;
        addresses.iter_mut().for_each(|address| address.set_port(0));
        if addresses.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        Ok(addresses)
    }

    fn all_permitted(&self, host: &str, addresses: &[SocketAddr]) -> Result<(), ForbiddenUrl> {
        match addresses.iter().find_map(|address| self.refusal(address.ip(), self.port)) {
            Some(kind) => Err(ForbiddenUrl::Special { host: host.to_owned(), kind }),
            None => Ok(()),
        }
    }

    /// Leaves the permitted addresses of a name, and fails if that is none.
    fn keep_permitted(
        &self,
        host: &str,
        mut addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, ForbiddenUrl> {
        let all = self.all_permitted(host, &addresses);
        addresses.retain(|address| self.permits(address.ip()));
        if addresses.is_empty() { all.map(|()| addresses) } else { Ok(addresses) }
    }
}

/// RFC 6761: these names are this machine, whatever a name server says.
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

/// Resolves names for the client and hands it only permitted addresses.
#[derive(Clone, Debug)]
pub struct GuardedResolver(pub Guard);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let found = guard.resolve(name.as_str()).await?;
            let addresses: Addrs =
                Box::new(guard.keep_permitted(name.as_str(), found)?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests;
