//! Networks, and which addresses are special.
//!
//! Guarantees that every address outside the public internet has a kind, by IANA's
//! special-purpose address registries (IPv4 and IPv6), and that an IPv6 address
//! which stands for an IPv4 one can be told. Does not decide what may be reached:
//! that is the guard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::event::is_fhir_id;

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no network: write it like 127.0.0.0/8, ::1/128 or 192.0.2.7, for one tenant or port like \
     ward-4b=10.0.0.0/8:8443"
)]
pub struct NetError(pub String);

/// Reads `10.0.0.0/8`, `::1/128`, or a bare address for itself alone.
fn network(text: &str) -> Option<IpNet> {
    let alone = |_| text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(alone).ok()?;
    // What hides an IPv4 address is judged as that address, so a network of such could never
    // match: better said at once.
    (embedded_v4(net.addr()) == net.addr()).then_some(net)
}

/// A network that the operator lets webhooks reach, written `10.0.0.0/8`; of one tenant,
/// at one port, or both: `ward-4b=10.0.0.0/8:8443`, `[fd00::/8]:443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// What may be reached.
    pub net: IpNet,
    /// By whom alone.
    tenant: Option<String>,
    /// Where alone.
    port: Option<u16>,
}

impl From<IpNet> for Allow {
    fn from(net: IpNet) -> Allow {
        Allow { net, tenant: None, port: None }
    }
}

impl FromStr for Allow {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Allow, NetError> {
        let no = || NetError(text.to_owned());
        let (tenant, rest) = match text.split_once('=') {
            Some((tenant, rest)) if is_fhir_id(tenant) => (Some(tenant.to_owned()), rest),
            Some(_) => return Err(no()),
            None => (None, text),
        };
        let (net, port) = match (rest.strip_prefix('['), rest.rsplit_once(':')) {
            (Some(bracketed), _) => match bracketed.split_once(']').ok_or_else(no)? {
                (net, "") => (net, None),
                (net, port) => (net, Some(port.strip_prefix(':').ok_or_else(no)?)),
            },
            // More than one colon is an IPv6 network without a port.
            (None, Some((net, port))) if !net.contains(':') => (net, Some(port)),
            (None, _) => (rest, None),
        };
        let port: Option<u16> = port.map(str::parse).transpose().map_err(|_| no())?;
        Ok(Allow { net: network(net).ok_or_else(no)?, tenant, port })
    }
}

impl Allow {
    /// Whether it is not for everybody at every port.
    pub fn is_narrow(&self) -> bool {
        self.tenant.is_some() || self.port.is_some()
    }

    /// Whether it is for this tenant, at this port.
    pub fn applies(&self, tenant: Option<&str>, port: Option<u16>) -> bool {
        self.tenant.as_deref().is_none_or(|only| tenant == Some(only))
            && self.port.is_none_or(|only| port == Some(only))
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_bits: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix_bits)
}

const fn v6(a: u16, b: u16, c: u16, prefix_bits: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix_bits)
}

/// What no webhook may reach: IANA's special-purpose address registries, and where clouds
/// keep what only their own machines may ask, although the address looks public.
#[rustfmt::skip]
const SPECIAL: [(IpNet, &str); 28] = [
    (v4(0, 0, 0, 0, 8), "this-host"),
    (v4(10, 0, 0, 0, 8), "private"),
    // Alibaba's metadata are in here.
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    // Most clouds' metadata are in here.
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    // Oracle's metadata are in here.
    (v4(192, 0, 0, 0, 24), "protocol"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 52, 193, 0, 24), "relay"),
    (v4(192, 88, 99, 0, 24), "relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(192, 175, 48, 0, 24), "AS112"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    // Azure's, of which its machines get names, certificates and settings.
    (v4(168, 63, 129, 16, 32), "cloud-internal"),
    // IBM's services for its own machines.
    (v4(161, 26, 0, 0, 16), "cloud-internal"),
    (v4(166, 8, 0, 0, 14), "cloud-internal"),
    // Google's interfaces for its own machines.
    (v4(199, 36, 153, 4, 30), "cloud-internal"),
    (v4(199, 36, 153, 8, 30), "cloud-internal"),
    // Of IPv6 only what lies inside 2000::/3; the rest is refused as a whole.
    (v6(0x2001, 0, 0, 23), "protocol"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "relay"),
    (v6(0x2620, 0x4f, 0x8000, 48), "AS112"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
];

/// What IANA gave out as global unicast; the internet's IPv6 is in here.
const GLOBAL_V6: IpNet = v6(0x2000, 0, 0, 3);

/// The kind of special address that `ip` is, if it is one.
pub(super) fn special(ip: IpAddr) -> Option<&'static str> {
    let listed = SPECIAL.iter().find(|(net, _)| net.contains(&ip)).map(|(_, kind)| *kind);
    match ip {
        IpAddr::V6(v6) if !GLOBAL_V6.contains(&ip) => Some(special_v6(v6)),
        _ => listed,
    }
}

fn special_v6(ip: Ipv6Addr) -> &'static str {
    match ip {
        Ipv6Addr::LOCALHOST => "loopback",
        _ if ip.is_unique_local() => "private",
        _ if ip.is_unicast_link_local() => "link-local",
        _ if ip.is_multicast() => "multicast",
        _ => "reserved",
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped (`::ffff:0:0/96`),
/// compatible (`::/96`) or by NAT64 (`64:ff9b::/96`); other addresses as they are.
pub(super) fn embedded_v4(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if v6.is_unspecified() || v6.is_loopback() {
        return ip;
    }
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(net: &str, inside: &[&str], outside: &[&str]) {
        let net = network(net).unwrap();
        for address in inside {
            assert!(net.contains(&ip(address)), "{address} in {net}");
        }
        for address in outside {
            assert!(!net.contains(&ip(address)), "{address} in {net}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        check("127.0.0.0/8", &["127.0.0.0", "127.255.255.255"], &["126.255.255.255", "128.0.0.0"]);
        check("10.1.2.3/16", &["10.1.0.0"], &["10.2.0.0"]);
        check("172.16.0.0/12", &["172.31.255.255"], &["172.32.0.0", "172.15.255.255"]);
        check("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]);
        check("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1"]);
        check("::/0", &["::", "ffff::"], &["0.0.0.0"]);
        check("::1/128", &["::1"], &["::", "::2", "127.0.0.1"]);
        check("fd00::/8", &["fd12::1"], &["fc00::1"]);
    }

    #[test]
    fn a_text_that_is_no_network_is_told_how_to_write_one() {
        for bad in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "::1/129", "10.0.0.0/-1", "10.0.0/8"] {
            let message = bad.parse::<Allow>().unwrap_err().to_string();
            assert!(message.contains("127.0.0.0/8"), "{message}");
        }
        assert!("::ffff:127.0.0.1/104".parse::<Allow>().is_err());
        assert!("localhost".parse::<Allow>().is_err());
    }

    #[test]
    fn what_is_allowed_is_read_with_its_tenant_and_its_port() {
        let read = |text: &str| text.parse::<Allow>().unwrap();
        let parts = |text: &str| {
            let allow = read(text);
            (allow.net.to_string(), allow.tenant, allow.port)
        };
        let (v4, v6) = ("10.0.0.0/8".to_owned(), "fd00::/8".to_owned());
        let ward = || Some("ward-4b".to_owned());
        assert_eq!(parts("10.0.0.0/8"), (v4.clone(), None, None));
        assert_eq!(parts("10.0.0.0/8:8443"), (v4.clone(), None, Some(8443)));
        assert_eq!(parts("ward-4b=10.0.0.0/8"), (v4.clone(), ward(), None));
        assert_eq!(parts("ward-4b=10.0.0.0/8:443"), (v4, ward(), Some(443)));
        assert_eq!(parts("fd00::/8"), (v6.clone(), None, None));
        assert_eq!(parts("[fd00::/8]"), (v6.clone(), None, None));
        assert_eq!(parts("ward-4b=[fd00::/8]:443"), (v6, ward(), Some(443)));
        assert_eq!(parts("192.0.2.7:80").0, "192.0.2.7/32");
        for bad in [
            "=10.0.0.0/8",
            "a b=10.0.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/8:99999",
            "[fd00::/8",
            "[fd00::/8]443",
            "ward=",
            "10.0.0.0:80/8",
        ] {
            assert!(bad.parse::<Allow>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_round_trip_as_text() {
        for text in ["127.0.0.0/8", "::1/128"] {
            assert_eq!(network(text).unwrap().to_string(), text);
        }
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
    }

    #[test]
    fn ipv4_addresses_inside_ipv6_ones_are_found() {
        for text in ["::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1"] {
            assert_eq!(embedded_v4(ip(text)), ip("10.0.0.1"), "{text}");
        }
        for text in ["::", "::1", "10.0.0.1", "64:ff9b:1::a00:1", "2606:4700::1"] {
            assert_eq!(embedded_v4(ip(text)), ip(text), "{text}");
        }
    }

    #[test]
    fn both_edges_of_every_special_network_are_special() {
        for (net, kind) in SPECIAL {
            let (first, last) = (net.network(), net.broadcast());
            assert_eq!((special(first), special(last)), (Some(kind), Some(kind)), "{net}");
        }
    }
}
