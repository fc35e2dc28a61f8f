//! An endpoint's signing keys: symmetric (`v1`) or Ed25519 (`v1a`), and those of a rotation.
//!
//! Guarantees that a text which was read is a key of its kind, that the text of a key
//! reads as the same key, and that every key which still signs does so over the same
//! bytes: `id.timestamp.body`. A key shows itself only when asked by [`Key::to_text`].
//! Does not keep them: that is the endpoint's row, sealed.
//!
//! An Ed25519 key is 32 bytes of seed, or 64 with the public key behind it, as other
//! senders write theirs; ours are written in 64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use ed25519_dalek::{Signer, SigningKey};

use super::sign::{SECRET_PREFIX, Secret, SecretError};
use crate::delivery::state::words;

/// Before the base64 of every private Ed25519 key.
pub const PRIVATE_PREFIX: &str = "whsk_";
/// Before the base64 of every public Ed25519 key.
pub const PUBLIC_PREFIX: &str = "whpk_";
/// How long the key before a rotation signs beside the new one.
pub const ROTATION_HOURS: i64 = 24;
/// How many older keys sign beside the newest: each makes every request longer.
pub const OLDER_KEYS_MAX: usize = 4;

/// Before the base64 of an Ed25519 signature.
const SIGNATURE_PREFIX: &str = "v1a,";
const SEED_BYTES: usize = 32;
const PAIR_BYTES: usize = 64;

words! {
    /// How deliveries are signed.
    Scheme {
        /// HMAC-SHA256 with a secret that both sides have.
        Hmac = "hmac",
        /// Ed25519: the receiver has the public key, and can forge nothing.
        Ed25519 = "ed25519",
    }
}

/// A key of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `whsec_…`
    Hmac(Secret),
    /// `whsk_…`
    Ed25519(Private),
}

/// A private Ed25519 key, which hides itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Private(Box<SigningKey>);

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Private(hidden)")
    }
}

/// Why a text is no key. Never repeats the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a symmetric secret.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// Not a private key.
    #[error(
        "after \"{PRIVATE_PREFIX}\" an Ed25519 key is standard base64 of {SEED_BYTES} bytes of seed, \
         or of {PAIR_BYTES} with the public key behind it"
    )]
    Ed25519,
    /// The two halves are not of one pair.
    #[error("the public key in the second half does not belong to the seed in the first")]
    Halves,
    /// A key of the other kind than was asked for.
    #[error("the secret of an endpoint with \"signature\":\"{asked}\" begins with \"{prefix}\"")]
    Kind {
        /// Of [`Scheme::name`].
        asked: &'static str,
        /// What it would begin with.
        prefix: &'static str,
    },
}

impl Key {
    /// Reads `whsec_…` or `whsk_…`.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        let Some(encoded) = text.strip_prefix(PRIVATE_PREFIX) else {
            return Ok(Key::Hmac(Secret::parse(text)?));
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| KeyError::Ed25519)?;
        let (seed, public) = match bytes.len() {
            SEED_BYTES => (&bytes[..], None),
            PAIR_BYTES => (&bytes[..SEED_BYTES], Some(&bytes[SEED_BYTES..])),
            _ => return Err(KeyError::Ed25519),
        };
        let key = SigningKey::from_bytes(seed.try_into().map_err(|_| KeyError::Ed25519)?);
        match public {
            Some(public) if public != key.verifying_key().as_bytes() => Err(KeyError::Halves),
            _ => Ok(Key::Ed25519(Private(Box::new(key)))),
        }
    }

    /// Reads a key that has to be of one kind.
    pub fn parse_as(scheme: Scheme, text: &str) -> Result<Key, KeyError> {
        let prefix = match scheme {
            Scheme::Hmac => SECRET_PREFIX,
            Scheme::Ed25519 => PRIVATE_PREFIX,
        };
        let other = [SECRET_PREFIX, PRIVATE_PREFIX].into_iter().filter(|other| *other != prefix);
        if other.into_iter().any(|other| text.starts_with(other)) {
            return Err(KeyError::Kind { asked: scheme.name(), prefix });
        }
        if scheme == Scheme::Ed25519 && !text.starts_with(prefix) {
            return Err(KeyError::Ed25519);
        }
        Key::parse(text)
    }

    /// The key of random bytes that the caller drew.
    pub fn generate(scheme: Scheme, bytes: [u8; 32]) -> Key {
        match scheme {
            Scheme::Hmac => Key::Hmac(Secret::generate(bytes)),
            Scheme::Ed25519 => Key::Ed25519(Private(Box::new(SigningKey::from_bytes(&bytes)))),
        }
    }

    /// Its kind.
    pub fn scheme(&self) -> Scheme {
        match self {
            Key::Hmac(_) => Scheme::Hmac,
            Key::Ed25519(_) => Scheme::Ed25519,
        }
    }

    /// The whole key, for its owner and for its row.
    pub fn to_text(&self) -> String {
        match self {
            Key::Hmac(secret) => secret.to_string(),
            Key::Ed25519(Private(key)) => {
                format!("{PRIVATE_PREFIX}{}", STANDARD.encode(key.to_keypair_bytes()))
            }
        }
    }

    /// `whpk_…`, which verifies and cannot sign.
    pub fn public(&self) -> Option<String> {
        match self {
            Key::Hmac(_) => None,
            Key::Ed25519(Private(key)) => {
                Some(format!("{PUBLIC_PREFIX}{}", STANDARD.encode(key.verifying_key().as_bytes())))
            }
        }
    }

    /// One signature of one attempt; `timestamp` is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        match self {
            Key::Hmac(secret) => secret.sign(id, timestamp, body),
            Key::Ed25519(Private(key)) => {
                let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
                format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(key.sign(&signed).to_bytes()))
            }
        }
    }
}

/// The keys that sign for an endpoint, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What a receiver should have.
    pub newest: Key,
    /// What it may still have, and until when.
    pub older: Vec<(Key, DateTime<Utc>)>,
}

impl Keys {
    /// The `webhook-signature` of an attempt made `now`: one for every key that signs
    /// still, separated by spaces.
    pub fn sign(&self, id: &str, now: DateTime<Utc>, body: &[u8]) -> String {
        let mut signatures = self.newest.sign(id, now.timestamp(), body);
        for (key, until) in &self.older {
            if *until > now {
                signatures.push(' ');
                signatures.push_str(&key.sign(id, now.timestamp(), body));
            }
        }
        signatures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::webhook::sign::{Signed, verify};

    fn pair() -> Key {
        Key::generate(Scheme::Ed25519, [7; 32])
    }

    #[test]
    fn a_key_of_either_kind_reads_as_what_it_was_written() {
        for scheme in [Scheme::Hmac, Scheme::Ed25519] {
            let key = Key::generate(scheme, [9; 32]);
            assert_eq!(Key::parse(&key.to_text()), Ok(key.clone()));
            assert_eq!(Key::parse_as(scheme, &key.to_text()), Ok(key));
            assert_eq!(Scheme::of(scheme.name()), Some(scheme));
        }
        assert_eq!(Scheme::of("none"), None);
        let seed = format!("{PRIVATE_PREFIX}{}", STANDARD.encode([7; 32]));
        assert_eq!(Key::parse(&seed), Ok(pair()));
    }

    /// RFC 8032, 7.1, TEST 3.
    #[test]
    fn ed25519_signs_as_the_standard_says() {
        let seed = [
            0xc5, 0xaa, 0x8d, 0xf4, 0x3f, 0x9f, 0x83, 0x7b, 0xed, 0xb7, 0x44, 0x2f, 0x31, 0xdc,
            0xb7, 0xb1, 0x66, 0xd3, 0x85, 0x35, 0x07, 0x6f, 0x09, 0x4b, 0x85, 0xce, 0x3a, 0x2e,
            0x0b, 0x44, 0x58, 0xf7,
        ];
        let Key::Ed25519(Private(key)) = Key::generate(Scheme::Ed25519, seed) else {
            panic!("another kind");
        };
        let signature = key.sign(&[0xaf, 0x82]).to_bytes();
        assert_eq!(signature[..4], [0x62, 0x91, 0xd6, 0x57]);
        assert_eq!(key.verifying_key().as_bytes()[..4], [0xfc, 0x51, 0xcd, 0x8e]);
    }

    #[test]
    fn a_public_key_verifies_and_what_was_changed_does_not() {
        let Key::Ed25519(Private(key)) = pair() else { panic!("another kind") };
        let public = pair().public().unwrap();
        let bytes = STANDARD.decode(public.strip_prefix(PUBLIC_PREFIX).unwrap()).unwrap();
        assert_eq!(bytes, key.verifying_key().as_bytes());
        let text = pair().sign("msg_1", 1_614_265_330, b"{}");
        let signature = STANDARD.decode(text.strip_prefix(SIGNATURE_PREFIX).unwrap()).unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
        let check = |bytes: &[u8]| key.verifying_key().verify_strict(bytes, &signature).is_ok();
        assert!(check(b"msg_1.1614265330.{}"));
        assert!(!check(b"msg_1.1614265331.{}") && !check(b"msg_1.1614265330.{ }"));
    }

    #[test]
    fn a_text_that_is_no_key_says_what_is_wrong_and_not_what_it_was() {
        let long = format!("{PRIVATE_PREFIX}{}", STANDARD.encode([0; 33]));
        let foreign = format!("{PRIVATE_PREFIX}{}", STANDARD.encode([1; 64]));
        assert_eq!(Key::parse(&long), Err(KeyError::Ed25519));
        assert_eq!(Key::parse("whsk_!"), Err(KeyError::Ed25519));
        assert_eq!(Key::parse(&foreign), Err(KeyError::Halves));
        assert!(matches!(Key::parse("word"), Err(KeyError::Secret(SecretError::Prefix))));
        let kind = Key::parse_as(Scheme::Hmac, &pair().to_text());
        assert_eq!(kind, Err(KeyError::Kind { asked: "hmac", prefix: "whsec_" }));
        assert_eq!(Key::parse_as(Scheme::Ed25519, "word"), Err(KeyError::Ed25519));
        assert_eq!(format!("{:?}", pair()), "Ed25519(Private(hidden))");
    }

    #[test]
    fn an_older_key_signs_beside_the_newest_until_its_time_is_over() {
        let at = |s| DateTime::from_timestamp(s, 0).unwrap();
        let (newest, old) = (pair(), Secret::generate([1; 32]));
        let keys =
            Keys { newest: newest.clone(), older: vec![(Key::Hmac(old.clone()), at(1_000))] };
        let both = keys.sign("msg_1", at(999), b"{}");
        assert!(both.starts_with(&newest.sign("msg_1", 999, b"{}")));
        let signed = Signed { id: "msg_1", timestamp: "999", signature: &both };
        assert_eq!(verify(&old, signed, b"{}", 999, 0), Ok(()));
        assert_eq!(keys.sign("msg_1", at(1_000), b"{}"), newest.sign("msg_1", 1_000, b"{}"));
    }
}
