//! Who calls by a certificate: what it names, and what the operator's map makes of a name.
//!
//! Guarantees that a certificate's caller is of one tenant, may what the map says, and no
//! longer than the certificate is good. Whether a certificate is genuine is TLS's to know,
//! which has asked before. Does not look at who may have a token beside it: the token counts.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::caller::{Caller, is_subject};
use super::denied::Denied;
use super::revocations::Revocations;
use super::scope::{Scope, Scopes};
use crate::event::{ID_RULE, is_fhir_id};

/// Entries of a map.
const CLIENTS_MAX: usize = 10_000;
/// Names of a certificate; the others are passed over.
const NAMES_MAX: usize = 100;

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it was made for: its URIs and DNS names, or where it has none its common name.
    pub names: Vec<String>,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// Why a certificate cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("this is no X.509 certificate: {0}")]
pub struct UnreadableCertificate(String);

impl Certificate {
    /// Reads one.
    pub fn read(der: &CertificateDer<'_>) -> Result<Certificate, UnreadableCertificate> {
        let wrong = |error: x509_cert::der::Error| UnreadableCertificate(error.to_string());
        let read = x509_cert::Certificate::from_der(der).map_err(wrong)?.tbs_certificate;
        let until = read.validity.not_after.to_unix_duration().as_secs();
        let expires_at = i64::try_from(until).ok().and_then(|s| DateTime::from_timestamp(s, 0));
        let alternative = read.get::<SubjectAltName>().map_err(wrong)?;
        let alternative = alternative.map(|(_, names)| names.0).unwrap_or_default();
        let named = alternative.iter().filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
            GeneralName::DnsName(name) => Some(name.as_str()),
            _ => None,
        });
        let mut names: Vec<String> = named.take(NAMES_MAX).map(str::to_owned).collect();
        if names.is_empty() {
            let parts = read.subject.0.iter().flat_map(|part| part.0.iter());
            let common = parts.filter(|part| part.oid == CN).filter_map(|part| {
                let utf8 =
                    part.value.decode_as::<Utf8StringRef<'_>>().map(|t| t.as_str().to_owned());
                let text = || part.value.decode_as::<PrintableStringRef<'_>>();
                utf8.or_else(|_| text().map(|t| t.as_str().to_owned())).ok()
            });
            names.extend(common.take(NAMES_MAX));
        }
        // It becomes the name of a subject, and stands in logs.
        names.retain(|name| is_subject(name));
        Ok(Certificate { names, expires_at: expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC) })
    }
}

/// Whom certificates stand for, as the operator says.
///
/// ```toml
/// [[client]]
/// name = "{device}.devices.example.org"
/// tenant = "ward-4b"
/// scope = "readings:write"
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientMap {
    #[serde(default)]
    client: Vec<Client>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Client {
    /// What the certificate names; `{tenant}`, `{device}` and `{patient}` stand for an id.
    name: String,
    tenant: Option<String>,
    device: Option<String>,
    patient: Option<String>,
    scope: String,
}

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ClientMapError {
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("more than {CLIENTS_MAX} clients: say more of them by one name with {{device}} in it")]
    TooMany,
    #[error("client {number} (\"{name}\"): {why}")]
    Client { number: usize, name: String, why: String },
}

/// What a name can leave open.
const OPEN: [&str; 3] = ["tenant", "device", "patient"];

impl ClientMap {
    /// Reads one.
    pub fn parse(text: &str) -> Result<ClientMap, ClientMapError> {
        let map: ClientMap = toml::from_str(text)?;
        if map.client.len() > CLIENTS_MAX {
            return Err(ClientMapError::TooMany);
        }
        for (n, client) in map.client.iter().enumerate() {
            let name = client.name.clone();
            client.check().map_err(|why| ClientMapError::Client { number: n + 1, name, why })?;
        }
        Ok(map)
    }

    /// Whom a certificate stands for: the first entry, of those that one of its names fits.
    pub fn caller(
        &self,
        certificate: &Certificate,
        revocations: &Arc<Revocations>,
    ) -> Result<Arc<Caller>, Denied> {
        let fits = |client: &Client| {
            certificate.names.iter().find_map(|name| Some((name, client.reads(name)?)))
        };
        let Some((client, (name, ids))) = self.client.iter().find_map(|c| Some((c, fits(c)?)))
        else {
            let names = certificate.names.join(", ");
            let detail = format!(
                "the certificate ({names}) stands for no caller here: send a token, or have the \
                 operator name it (--tls-clients)"
            );
            return Err(Denied::Unauthorised(detail));
        };
        let [tenant, device, patient] = ids;
        let mut caller = Caller::configured(tenant.unwrap_or_default().into(), name);
        caller.scopes = Scopes::read(&client.scope);
        caller.expires_ms = certificate.expires_at.timestamp_millis();
        let caller = Caller { device, patient, ..caller };
        Ok(Arc::new(caller.unless_in(revocations)))
    }
}

impl Client {
    fn check(&self) -> Result<(), String> {
        let parts = parts(&self.name)?;
        let open =
            |what: &str| parts.iter().any(|part| matches!(part, Part::Open(of) if *of == what));
        for (what, fixed) in OPEN.iter().zip([&self.tenant, &self.device, &self.patient]) {
            match fixed {
                Some(_) if open(what) => return Err(format!("{what} is named, and left open")),
                Some(id) if !is_fhir_id(id) => return Err(format!("{what} {ID_RULE}")),
                _ => {}
            }
        }
        if self.tenant.is_none() && !open("tenant") {
            return Err("tenant is missing".to_owned());
        }
        match self.scope.split(' ').find(|scope| Scope::named(scope).is_none()) {
            Some(unknown) => Err(format!("\"{unknown}\" is no scope; {} are", Scope::names())),
            None => Ok(()),
        }
    }

    /// Tenant, device and patient, where a certificate's name is what the entry says.
    fn reads(&self, name: &str) -> Option<[Option<String>; 3]> {
        let mut ids = [self.tenant.clone(), self.device.clone(), self.patient.clone()];
        let (parts, mut rest) = (parts(&self.name).ok()?, name);
        for (n, part) in parts.iter().enumerate() {
            match part {
                Part::Fixed(text) => rest = rest.strip_prefix(text)?,
                Part::Open(what) => {
                    let end = match parts.get(n + 1) {
                        Some(Part::Fixed(next)) => rest.find(next)?,
                        _ => rest.len(),
                    };
                    let (id, after) = rest.split_at_checked(end)?;
                    let place = OPEN.iter().position(|of| of == what)?;
                    *ids.get_mut(place)? = Some(id.to_owned()).filter(|id| is_fhir_id(id));
                    ids.get(place)?.as_ref()?;
                    rest = after;
                }
            }
        }
        rest.is_empty().then_some(ids)
    }
}

/// A part of a name.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Fixed(&'a str),
    Open(&'a str),
}

fn parts(name: &str) -> Result<Vec<Part<'_>>, String> {
    let (mut parts, mut rest) = (Vec::new(), name);
    while !rest.is_empty() {
        let (fixed, after) = rest.split_once('{').map_or((rest, None), |(f, a)| (f, Some(a)));
        if !fixed.is_empty() {
            parts.push(Part::Fixed(fixed));
        }
        let Some(after) = after else { break };
        let (what, after) = after.split_once('}').ok_or("a { without its }")?;
        if !OPEN.contains(&what) {
            return Err(format!(
                "{{{what}}} is not known; {{tenant}}, {{device}}, {{patient}} are"
            ));
        }
        if matches!(parts.last(), Some(Part::Open(_))) {
            return Err("between two open parts there must be something".to_owned());
        }
        if parts.contains(&Part::Open(what)) {
            return Err(format!("{{{what}}} stands twice"));
        }
        parts.push(Part::Open(what));
        rest = after;
    }
    if parts.is_empty() { Err("name is empty".to_owned()) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Certificate {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Certificate { names, expires_at: DateTime::UNIX_EPOCH }
    }

    fn map(text: &str) -> ClientMap {
        ClientMap::parse(text).unwrap()
    }

    #[test]
    fn a_certificate_is_who_the_first_entry_says_that_one_of_its_names_fits() {
        let map = map(
            "[[client]]\nname = \"gateway\"\ntenant = \"ward\"\nscope = \"readings:write\"\n\
                       [[client]]\nname = \"urn:{tenant}:{device}\"\nscope = \"readings:write vitals:read\"\n\
                       [[client]]\nname = \"{device}.example.org\"\ntenant = \"ward\"\npatient = \"7\"\n\
                       scope = \"readings:write\"",
        );
        let who = |names: &[&str]| {
            let caller = map.caller(&named(names), &Arc::default()).ok()?;
            let id = |id: &Option<String>| id.clone().unwrap_or_default();
            Some(format!(
                "{} {} {} {}",
                caller.tenant,
                caller.subject,
                id(&caller.device),
                id(&caller.patient)
            ))
        };
        assert_eq!(who(&["x", "gateway"]).as_deref(), Some("ward gateway  "));
        assert_eq!(who(&["urn:icu:w.7"]).as_deref(), Some("icu urn:icu:w.7 w.7 "));
        assert_eq!(who(&["a.b.example.org"]).as_deref(), Some("ward a.b.example.org a.b 7"));
        for stranger in ["gateway2", "Gateway", "urn:icu", "urn::w", "urn:icu:w:7", ".example.org"]
        {
            assert_eq!(who(&[stranger]), None, "{stranger}");
        }
        assert!(
            map.caller(&named(&["urn:icu:w"]), &Arc::default())
                .unwrap()
                .may(Scope::VitalsRead)
                .is_ok()
        );
        assert!(
            map.caller(&named(&["gateway"]), &Arc::default())
                .unwrap()
                .may(Scope::VitalsRead)
                .is_err()
        );
    }

    #[test]
    fn a_caller_ends_with_the_certificate() {
        let map = map("[[client]]\nname = \"g\"\ntenant = \"w\"\nscope = \"vitals:read\"");
        let caller = map.caller(&named(&["g"]), &Arc::default()).unwrap();
        assert!(caller.may_still(DateTime::UNIX_EPOCH).is_err());
    }

    #[test]
    fn a_map_that_cannot_be_meant_is_refused_with_the_entry_and_why() {
        for (entry, says) in [
            ("name = \"a\"\nscope = \"vitals:read\"", "tenant is missing"),
            ("name = \"\"\ntenant = \"w\"\nscope = \"vitals:read\"", "name is empty"),
            ("name = \"{x}\"\ntenant = \"w\"\nscope = \"vitals:read\"", "{x} is not known"),
            ("name = \"{device\"\ntenant = \"w\"\nscope = \"vitals:read\"", "without its }"),
            ("name = \"{device}{patient}\"\ntenant = \"w\"\nscope = \"vitals:read\"", "between"),
            ("name = \"{device}.{device}\"\ntenant = \"w\"\nscope = \"vitals:read\"", "twice"),
            ("name = \"{tenant}\"\ntenant = \"w\"\nscope = \"vitals:read\"", "left open"),
            ("name = \"a\"\ntenant = \"a b\"\nscope = \"vitals:read\"", "tenant "),
            (
                "name = \"a\"\ntenant = \"w\"\nscope = \"vitals:raed\"",
                "\"vitals:raed\" is no scope",
            ),
            ("name = \"a\"\ntenant = \"w\"\nscopes = \"vitals:read\"", "scopes"),
        ] {
            let said = ClientMap::parse(&format!("[[client]]\n{entry}")).unwrap_err().to_string();
            assert!(said.contains(says), "{entry}: {said}");
        }
    }
}
