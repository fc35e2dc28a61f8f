//! Links that acknowledge one alert without a token.
//!
//! Guarantees that a link was made by this installation for this alert of this tenant,
//! and that its time is not over; it is good for nothing else. Does not know who follows
//! it: anyone who has the link may, so they say who they are, and what they say is recorded.
//! Does not end when it was used: the first acknowledgement counts, as ever.
//!
//! A link is the alert's own address with `?link=EXPIRY~TENANT~SIGNATURE`: seconds since
//! 1970, and the base64 of HMAC-SHA256 over expiry, tenant and alert. All three parts are
//! of characters that stand in a URL as they are. A link of a stub body ends in `~thin`,
//! which is signed as well: it shows no more of the patient than that body did.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::seal::{Seal, WeakKey};
use crate::clock::rfc3339;
use crate::event::is_fhir_id;

/// How long after its alert was recorded a link is good.
pub const LINK_HOURS: i64 = 24;

/// Between the parts; in no FHIR id and in no base64.
const BETWEEN: char = '~';
/// The end of a stub body's link, which shows nothing of the patient.
const STUB: &str = "thin";

/// The key of an installation's links; cheap to clone.
#[derive(Clone)]
pub struct AckLinks(Arc<[u8; 32]>);

/// How much of its alert a link shows: as much as the body that it stood in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The patient and the value, too.
    Patient,
    /// That there is an alert, how urgent, and since when.
    AlertOnly,
}

/// Why a link acknowledges nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Cut, changed, for another alert, or of another installation.
    #[error("this link was cut or changed, or is for another alert: use it whole, as it was sent")]
    Invalid,
    /// It was good.
    #[error("this link was good until {}: acknowledge with a token, or in the ward's page", rfc3339(*.0))]
    Expired(DateTime<Utc>),
}

impl AckLinks {
    /// Links of a key.
    pub fn new(key: &str) -> AckLinks {
        AckLinks(Arc::new(Sha256::digest(key).into()))
    }

    /// A key of its own for something else that this installation alone may have made.
    pub fn seal(&self, purpose: &str) -> Result<Seal, WeakKey> {
        let text = self.keyed(&format!("seal {purpose}")).finalize().into_bytes();
        Seal::new([&*URL_SAFE_NO_PAD.encode(text)])
    }

    /// The query of a full body's link to an alert that was recorded at this time. The same
    /// alert event always has the same.
    pub fn query(&self, tenant: &str, alert: Uuid, recorded_at: DateTime<Utc>) -> String {
        self.signed(tenant, alert, recorded_at, Shown::Patient)
    }

    /// The same of a stub body's.
    pub fn stub_query(&self, tenant: &str, alert: Uuid, recorded_at: DateTime<Utc>) -> String {
        let full = self.signed(tenant, alert, recorded_at, Shown::AlertOnly);
        format!("{full}{BETWEEN}{STUB}")
    }

    fn signed(
        &self,
        tenant: &str,
        alert: Uuid,
        recorded_at: DateTime<Utc>,
        shown: Shown,
    ) -> String {
        let until = (recorded_at + TimeDelta::hours(LINK_HOURS)).timestamp();
        let signature = self.mac(tenant, alert, until, shown).finalize().into_bytes();
        let signature = URL_SAFE_NO_PAD.encode(signature);
        format!("link={until}{BETWEEN}{tenant}{BETWEEN}{signature}")
    }

    /// The tenant whose alert a link acknowledges, and how much it shows. `link` is what
    /// stands behind `link=`.
    pub fn opened(
        &self,
        link: &str,
        alert: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(String, Shown), LinkError> {
        let (link, shown) = match link.strip_suffix(STUB).and_then(|l| l.strip_suffix(BETWEEN)) {
            Some(link) => (link, Shown::AlertOnly),
            None => (link, Shown::Patient),
        };
        let mut parts = link.split(BETWEEN);
        let (Some(until), Some(tenant), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(LinkError::Invalid);
        };
        let until: i64 = until.parse().map_err(|_| LinkError::Invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| LinkError::Invalid)?;
        let genuine = self.mac(tenant, alert, until, shown).verify_slice(&signature).is_ok();
        let ends = DateTime::from_timestamp(until, 0).filter(|_| genuine && is_fhir_id(tenant));
        match ends.ok_or(LinkError::Invalid)? {
            ends if ends <= now => Err(LinkError::Expired(ends)),
            _ => Ok((tenant.to_owned(), shown)),
        }
    }

    fn mac(&self, tenant: &str, alert: Uuid, until: i64, shown: Shown) -> Hmac<Sha256> {
        let purpose = match shown {
            Shown::Patient => "ack",
            Shown::AlertOnly => "ack thin",
        };
        self.keyed(&format!("{purpose}\n{until}\n{tenant}\n{alert}"))
    }

    fn keyed(&self, text: &str) -> Hmac<Sha256> {
        // A key of 32 bytes, padded to HMAC's block as the definition has it.
        let mut block = [0; 64];
        block.iter_mut().zip(self.0.iter()).for_each(|(to, from)| *to = *from);
        Hmac::<Sha256>::new(&block.into()).chain_update(text)
    }
}

impl std::fmt::Debug for AckLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AckLinks(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALERT: Uuid = Uuid::from_u128(7);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn link() -> String {
        let query = AckLinks::new("key").query("ward-4b", ALERT, at(1_000));
        query.strip_prefix("link=").unwrap().to_owned()
    }

    #[test]
    fn a_link_is_good_for_its_alert_until_its_time_is_over() {
        let (links, ends) = (AckLinks::new("key"), 1_000 + LINK_HOURS * 3_600);
        assert_eq!(
            links.opened(&link(), ALERT, at(ends - 1)),
            Ok(("ward-4b".to_owned(), Shown::Patient))
        );
        assert_eq!(links.opened(&link(), ALERT, at(ends)), Err(LinkError::Expired(at(ends))));
        let other = Uuid::from_u128(8);
        assert_eq!(links.opened(&link(), other, at(1_000)), Err(LinkError::Invalid));
        let foreign = AckLinks::new("another key").opened(&link(), ALERT, at(1_000));
        assert_eq!(foreign, Err(LinkError::Invalid));
    }

    #[test]
    fn a_link_that_was_changed_anywhere_is_none() {
        let links = AckLinks::new("key");
        for at_byte in 0..link().len() {
            let mut changed = link().into_bytes();
            changed[at_byte] = if changed[at_byte] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(
                links.opened(&changed, ALERT, at(1_000)),
                Err(LinkError::Invalid),
                "{changed}"
            );
        }
        for bad in ["", "~~", "1~a", &format!("{}~", link()), &link()[..link().len() - 4]] {
            assert_eq!(links.opened(bad, ALERT, at(1_000)), Err(LinkError::Invalid), "{bad}");
        }
        // A later end, with the signature of the earlier one.
        let later = link().replacen("87400", "99999999", 1);
        assert_ne!(later, link());
        assert_eq!(links.opened(&later, ALERT, at(1_000)), Err(LinkError::Invalid));
    }

    #[test]
    fn a_stub_link_cannot_be_made_to_show_the_patient() {
        let links = AckLinks::new("key");
        let stub = links.stub_query("ward-4b", ALERT, at(1_000));
        let stub = stub.strip_prefix("link=").unwrap();
        let shown = ("ward-4b".to_owned(), Shown::AlertOnly);
        assert_eq!(links.opened(stub, ALERT, at(1_000)), Ok(shown));
        let cut = stub.strip_suffix("~thin").unwrap();
        assert_eq!(links.opened(cut, ALERT, at(1_000)), Err(LinkError::Invalid));
        let both = format!("{}~thin", link());
        assert_eq!(links.opened(&both, ALERT, at(1_000)), Err(LinkError::Invalid));
    }

    #[test]
    fn a_link_stands_in_a_url_as_it_is() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        assert!(link().chars().all(plain), "{}", link());
    }
}
