//! Options of the record of who has asked for what.
//!
//! Guarantees that accesses leave this machine by TLS alone.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;

/// Ports of syslog over TLS (RFC 5425) and over TCP.
const TLS_PORT: u16 = 6514;
const TCP_PORT: u16 = 601;

/// What is recorded, and where it is told besides.
#[derive(Args, Clone, Debug)]
pub struct AuditOptions {
    /// Which reads are recorded (`GET /audit`): `all`, `none`, or one in so many. Changes,
    /// refusals and who reads the record are recorded in any case
    #[arg(long, env = "VITALS_AUDIT_READS", value_name = "all|none|N", value_parser = audit_reads, default_value = "all")]
    pub audit_reads: AuditReads,
    /// A syslog receiver that is told all that is recorded (RFC 5424): `tls://host:6514`, or
    /// `tcp://127.0.0.1:601` on this machine
    #[arg(long, env = "VITALS_AUDIT_SYSLOG", value_name = "URL", value_parser = syslog_place)]
    pub audit_syslog: Option<SyslogPlace>,
    /// Who signs that receiver's certificate, PEM [default: whom this machine trusts]
    #[arg(long, env = "VITALS_AUDIT_SYSLOG_CA", value_name = "FILE")]
    pub audit_syslog_ca: Option<PathBuf>,
}

/// Which reads are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditReads {
    /// None.
    None,
    /// One in so many; 1 is all.
    OneIn(NonZeroU32),
}

fn audit_reads(text: &str) -> Result<AuditReads, String> {
    match text {
        "all" => Ok(AuditReads::OneIn(NonZeroU32::MIN)),
        "none" => Ok(AuditReads::None),
        n => {
            n.parse().map(AuditReads::OneIn).map_err(|_| "all, none, or one in so many".to_owned())
        }
    }
}

/// A syslog receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogPlace {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// In the clear only to this machine.
    pub is_tls: bool,
}

fn syslog_place(text: &str) -> Result<SyslogPlace, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("no URL: {error}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let is_tls = match url.scheme() {
        "tls" => true,
        "tcp" => false,
        _ => return Err("write it as tls://host:6514 or tcp://127.0.0.1:601".to_owned()),
    };
    let port = url.port().unwrap_or(if is_tls { TLS_PORT } else { TCP_PORT });
    let is_here =
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if host.is_empty() || !["", "/"].contains(&url.path()) {
        return Err("name a host and a port, and nothing else".to_owned());
    }
    if !is_tls && !is_here {
        return Err("in the clear only to this machine: use tls://".to_owned());
    }
    Ok(SyslogPlace { host, port, is_tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_clear_is_for_this_machine_alone() {
        for good in [
            "tls://siem.example.org",
            "tls://10.0.0.7:6514",
            "tcp://127.0.0.1:601",
            "tcp://[::1]:1",
        ] {
            assert!(syslog_place(good).is_ok(), "{good}");
        }
        for bad in [
            "tcp://10.0.0.7:601",
            "udp://127.0.0.1:514",
            "tls://",
            "tls://h/x",
            "h:1",
            "tcp://h:601",
        ] {
            assert!(syslog_place(bad).is_err(), "{bad}");
        }
        assert_eq!(audit_reads("none"), Ok(AuditReads::None));
        assert_eq!(audit_reads("10"), Ok(AuditReads::OneIn(NonZeroU32::new(10).unwrap())));
        assert!(audit_reads("0").is_err() && audit_reads("some").is_err());
    }
}
