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

mod names;
mod net;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

pub use names::Names;
use names::SystemNames;
pub use net::{Net, NetError};
use net::{embedded_v4, special};

/// The longest URL of an endpoint.
pub const URL_BYTES_MAX: usize = 2048;
/// How long a name may take to resolve.
pub const RESOLVE_MS_MAX: u64 = 5_000;

/// Why a URL is not called.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
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

impl Refused {
    /// The stable code of an error answer.
    pub fn code(&self) -> &'static str {
        match self {
            Refused::TooLong { .. } => "webhook_url_too_long",
            Refused::Unreadable { .. } => "webhook_url_unreadable",
            Refused::Scheme { .. } => "webhook_url_scheme",
            Refused::UserInfo => "webhook_url_userinfo",
            Refused::Fragment => "webhook_url_fragment",
            Refused::Special { .. } => "webhook_address_refused",
            Refused::Unresolved { .. } => "webhook_host_unresolved",
        }
    }
}

/// What webhooks may reach.
#[derive(Clone, Debug)]
pub struct Guard {
    allowed: Vec<Net>,
    names: Arc<dyn Names>,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard::new(&[])
    }
}

impl Guard {
    /// The public internet, and the operator's `allow`.
    pub fn new(allow: &[Net]) -> Guard {
        Guard { allowed: allow.to_vec(), names: Arc::new(SystemNames) }
    }

    /// The same by another resolver.
    pub fn with_names(self, names: Arc<dyn Names>) -> Guard {
        Guard { names, ..self }
    }

    /// Whether an address may be connected to.
    pub fn permits(&self, ip: IpAddr) -> bool {
        self.refusal(ip).is_none()
    }

    /// The kind of special address that keeps `ip` from being connected to.
    fn refusal(&self, ip: IpAddr) -> Option<&'static str> {
        let ip = embedded_v4(ip);
        special(ip).filter(|_| !self.allowed.iter().any(|net| net.contains(ip)))
    }

    /// Reads an endpoint's URL and judges all of it that needs no name server.
    ///
    /// Integer, octal and hexadecimal IPv4 hosts become ordinary ones while reading.
    pub fn check_url(&self, url: &str) -> Result<reqwest::Url, Refused> {
        if url.len() > URL_BYTES_MAX {
            return Err(Refused::TooLong { bytes: url.len() });
        }
        let url = reqwest::Url::parse(url)
            .map_err(|error| Refused::Unreadable { reason: error.to_string() })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme { scheme: url.scheme().to_owned() });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(Refused::Fragment);
        }
        self.name_to_resolve(&url)?;
        Ok(url)
    }

    /// Resolves the host and refuses it if any of its addresses is not permitted.
    /// For when an endpoint is made; what counts is the same test at connect time.
    pub async fn check_resolved(&self, url: &reqwest::Url) -> Result<(), Refused> {
        let Some(host) = self.name_to_resolve(url)? else { return Ok(()) };
        self.all_permitted(host, &self.resolve(host).await?)
    }

    /// A client that resolves through the guard, follows no redirect (which nobody
    /// would have checked) and uses no proxy (which would resolve by itself).
    pub fn client(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .dns_resolver(GuardedResolver(self.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
    }

    /// The host if only a name server can tell where it leads; literal addresses and
    /// localhost are judged here.
    fn name_to_resolve<'a>(&self, url: &'a reqwest::Url) -> Result<Option<&'a str>, Refused> {
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| Refused::Unreadable { reason: "no host".to_owned() })?;
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
        match meant.iter().map(|ip| self.refusal(*ip)).min().flatten() {
            Some(kind) => Err(Refused::Special { host: host.to_owned(), kind }),
            None => Ok(None),
        }
    }

    /// The addresses of a name, at least one, in time. Their port is 0, for which the
    /// client puts in the URL's.
    async fn resolve(&self, host: &str) -> Result<Vec<SocketAddr>, Refused> {
        let limit = Duration::from_millis(RESOLVE_MS_MAX);
        let found = tokio::time::timeout(limit, self.names.addresses(host));
        let unresolved = |source| Refused::Unresolved { host: host.to_owned(), source };
        let found = found.await.map_err(|late| unresolved(io::Error::other(late)))?;
        let mut addresses = found.map_err(unresolved)?;
        addresses.iter_mut().for_each(|address| address.set_port(0));
        if addresses.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        Ok(addresses)
    }

    fn all_permitted(&self, host: &str, addresses: &[SocketAddr]) -> Result<(), Refused> {
        match addresses.iter().find_map(|address| self.refusal(address.ip())) {
            Some(kind) => Err(Refused::Special { host: host.to_owned(), kind }),
            None => Ok(()),
        }
    }

    /// Leaves the permitted addresses of a name, and fails if that is none.
    fn keep_permitted(
        &self,
        host: &str,
        mut addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refused> {
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
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn guard(allow: &[&str]) -> Guard {
        Guard::new(&allow.iter().map(|net| net.parse().unwrap()).collect::<Vec<Net>>())
    }

    #[track_caller]
    fn refused(guard: &Guard, url: &str, code: &str) {
        let error = guard.check_url(url).expect_err(url);
        assert_eq!(error.code(), code, "{url}: {error}");
    }

    #[test]
    fn special_addresses_are_not_permitted_and_public_ones_are() {
        #[rustfmt::skip]
        let inner = [
            "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9",
            "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
            "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
            "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
            "::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "100::1",
            "2001::1", "2001:db8::1", "2002:808:808::1", "3fff::1", "64:ff9b:1::808:808",
            "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "4000::1",
        ];
        for ip in inner {
            assert!(!guard(&[]).permits(ip.parse().unwrap()), "{ip}");
        }
        #[rustfmt::skip]
        let public = [
            "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
            "172.15.255.255", "172.32.0.0", "192.0.1.1", "198.17.255.255", "198.20.0.0",
            "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2001:200::1",
            "::ffff:1.1.1.1", "64:ff9b::101:101",
        ];
        for ip in public {
            assert!(guard(&[]).permits(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn an_allowed_network_is_permitted_and_nothing_beside_it() {
        let guard = guard(&["127.0.0.0/8", "fd00::/8"]);
        for (ip, expect) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("fd00::1", true),
            ("::1", false),
            ("0.0.0.0", false),
            ("fc00::1", false),
        ] {
            assert_eq!(guard.permits(ip.parse().unwrap()), expect, "{ip}");
        }
    }

    #[test]
    fn every_spelling_of_an_inner_address_is_refused() {
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1:8080/hook",
            "http://1\u{ff12}7.0.0.1/",
            "http:\\\\127.0.0.1\\",
            "http:/127.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:0]/",
            "http://localhost/",
            "http://localhost./",
            "http://LOCALHOST:80/",
            "http://a.localhost/",
            "http://169.254.169.254/latest/meta-data",
            "https://192.168.0.1./",
        ] {
            refused(&guard(&[]), url, "webhook_address_refused");
        }
    }

    #[test]
    fn what_is_no_plain_web_address_is_refused() {
        let guard = guard(&["0.0.0.0/0", "::/0"]);
        refused(&guard, "hospital.example/hook", "webhook_url_unreadable");
        refused(&guard, "http://", "webhook_url_unreadable");
        refused(&guard, "http://256.1.1.1/", "webhook_url_unreadable");
        refused(&guard, "file:///etc/passwd", "webhook_url_scheme");
        refused(&guard, "https://user@hospital.example/", "webhook_url_userinfo");
        refused(&guard, "https://:word@hospital.example/", "webhook_url_userinfo");
        refused(&guard, "https://hospital.example/#part", "webhook_url_fragment");
        let long = format!("https://hospital.example/{}", "a".repeat(URL_BYTES_MAX));
        refused(&guard, &long, "webhook_url_too_long");
        assert!(guard.check_url(&long[..URL_BYTES_MAX]).is_ok());
    }

    #[test]
    fn public_and_allowed_urls_pass() {
        for url in ["https://hospital.example/?a=1", "http://1.1.1.1:80/", "http://notlocalhost/"] {
            assert!(guard(&[]).check_url(url).is_ok(), "{url}");
        }
        let guard = guard(&["127.0.0.0/8"]);
        assert!(guard.check_url("http://127.0.0.1:9000/").is_ok());
        assert!(guard.check_url("http://localhost:9000/").is_ok());
        refused(&guard, "http://[::1]:9000/", "webhook_address_refused");
    }

    #[test]
    fn a_refusal_names_the_mend() {
        let message = guard(&[]).check_url("http://10.0.0.1/").unwrap_err().to_string();
        assert!(message.contains("10.0.0.1 leads to a private address"), "{message}");
        assert!(message.contains("--allow-webhook-net"), "{message}");
    }

    #[test]
    fn a_mixed_answer_is_refused_when_checked_and_sifted_when_connecting() {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let mixed = vec![at("10.0.0.1"), at("1.1.1.1"), at("::1")];
        assert!(guard(&[]).all_permitted("h", &mixed).is_err());
        assert!(guard(&[]).all_permitted("h", &mixed[1..2]).is_ok());
        assert_eq!(guard(&[]).keep_permitted("h", mixed).unwrap(), [at("1.1.1.1")]);
        let inner = guard(&[]).keep_permitted("h", vec![at("10.0.0.1"), at("::1")]);
        assert_eq!(inner.unwrap_err().code(), "webhook_address_refused");
    }

    #[tokio::test]
    async fn resolving_refuses_the_inside_and_lets_allowed_names_pass() {
        let url = |text: &str| reqwest::Url::parse(text).unwrap();
        for inner in ["http://localhost./", "http://[::ffff:127.0.0.1]/", "http://10.0.0.1/"] {
            let error = guard(&[]).check_resolved(&url(inner)).await.unwrap_err();
            assert_eq!(error.code(), "webhook_address_refused", "{inner}");
        }
        // A label over 63 bytes: fails without asking anybody.
        let nowhere = url(&format!("http://{}.invalid/", "x".repeat(64)));
        let nowhere = guard(&[]).check_resolved(&nowhere).await;
        assert_eq!(nowhere.unwrap_err().code(), "webhook_host_unresolved");
        guard(&["127.0.0.0/8"]).check_resolved(&url("http://localhost/")).await.unwrap();
    }

    /// `localhost` plays the name that was public when it was checked.
    #[tokio::test]
    async fn a_name_that_turned_inwards_after_the_check_is_never_connected_to() {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());

        let client = guard(&[]).client().build().unwrap();
        let limit = Duration::from_secs(5);
        let error = client.post(&url).timeout(limit).send().await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        assert!(format!("{error:?}").contains("loopback"), "{error:?}");
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);

        // With the network allowed it does connect, and a redirect is not followed.
        let allowed = guard(&["127.0.0.0/8"]).client().build().unwrap();
        let sending = tokio::spawn(allowed.post(&url).send());
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let accepted = tokio::time::timeout(limit, listener.accept()).await.unwrap();
        let (mut stream, _) = accepted.unwrap();
        stream.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
        let answer = b"HTTP/1.1 302 Found\r\nlocation: /b\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        drop((stream, listener));
        assert_eq!(sending.await.unwrap().unwrap().status(), 302);
    }
}
