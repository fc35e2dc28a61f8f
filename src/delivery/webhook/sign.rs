//! Signatures by Standard Webhooks, symmetric (`v1`).
//!
//! Guarantees that [`Secret::sign`] and [`verify`] agree with the public
//! specification (github.com/standard-webhooks/standard-webhooks, `spec/`) and that
//! comparing takes the same time whatever differs. A [`Secret`] shows itself only
//! when asked by [`Secret::to_string`]: it has no `Display`, and `Debug` hides it.
//!
//! Does not notice a repeat within the tolerance: that is what the receiver keeps
//! the `webhook-id` for.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Before the base64 of every secret.
pub const SECRET_PREFIX: &str = "whsec_";
/// The shortest key, decoded. From the specification.
pub const SECRET_BYTES_MIN: usize = 24;
/// The longest key, decoded. From the specification; also HMAC-SHA256's block.
pub const SECRET_BYTES_MAX: usize = 64;
/// How far a timestamp may be from the receiver's clock, as in the reference libraries.
pub const TOLERANCE_S: u64 = 300;
/// How many signatures of one delivery are looked at; a rotation needs two.
pub const SIGNATURES_MAX: usize = 16;

/// The header that names the message, the same over retries and replays.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the time of the attempt, in whole seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// Before the base64 of a symmetric signature.
const SIGNATURE_PREFIX: &str = "v1,";

/// An endpoint's signing key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a text is no secret. Never repeats the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Something else, perhaps another product's key.
    #[error("a webhook secret begins with \"{SECRET_PREFIX}\"; leave it out to have one made")]
    Prefix,
    /// URL-safe base64 and missing padding land here too.
    #[error("after \"{SECRET_PREFIX}\" a webhook secret is standard base64 with padding")]
    Base64,
    /// Guessable, or longer than what HMAC would use as it is.
    #[error(
        "a webhook secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, this one has {bytes}"
    )]
    Length {
        /// As decoded.
        bytes: usize,
    },
}

impl Secret {
    /// Reads `whsec_…`.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError::Prefix)?;
        let key = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&key.len()) {
            return Err(SecretError::Length { bytes: key.len() });
        }
        Ok(Secret(key))
    }

    /// The secret of random bytes that the caller drew.
    pub fn generate(bytes: [u8; 32]) -> Secret {
        Secret(bytes.to_vec())
    }

    /// `whsec_…`, as the endpoint's owner gets it.
    #[allow(
        clippy::inherent_to_string,
        reason = "a Display would let any format string give the secret away"
    )]
    pub fn to_string(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The `webhook-signature` of one attempt: `v1,` and the base64 of HMAC-SHA256
    /// over `id.timestamp.body`. `timestamp` is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signature = self.mac(id, timestamp, body).finalize().into_bytes();
        format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(signature))
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        // A key up to a block long is padded with zeros by definition (RFC 2104);
        // done here, there is no length left that could be wrong.
        let mut block = [0; SECRET_BYTES_MAX];
        block.iter_mut().zip(&self.0).for_each(|(to, from)| *to = *from);
        Hmac::<Sha256>::new(&block.into())
            .chain_update(id)
            .chain_update(format!(".{timestamp}."))
            .chain_update(body)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The three headers of a delivery, as they came.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Of [`ID_HEADER`].
    pub id: &'a str,
    /// Of [`TIMESTAMP_HEADER`].
    pub timestamp: &'a str,
    /// Of [`SIGNATURE_HEADER`].
    pub signature: &'a str,
}

/// Why a delivery must not be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not whole seconds since 1970.
    #[error("{TIMESTAMP_HEADER} is not a number of seconds since 1970")]
    Timestamp,
    /// Old, so perhaps recorded and sent again, or from a clock that is wrong.
    #[error("{TIMESTAMP_HEADER} is {off_s} s from now, more than the {tolerance_s} s allowed")]
    Stale {
        /// In either direction.
        off_s: u64,
        /// What was allowed.
        tolerance_s: u64,
    },
    /// Another secret, or something was changed on the way.
    #[error("no signature in {SIGNATURE_HEADER} fits the secret, the id, the time and the body")]
    Signature,
}

/// Whether the delivery comes from a holder of `secret`, unchanged and fresh.
///
/// `body` is the bytes as received: JSON that was read and written again differs.
/// One fitting signature among the first [`SIGNATURES_MAX`] is enough, because
/// during a rotation the old secret signs beside the new one.
pub fn verify(
    secret: &Secret,
    signed: Signed<'_>,
    body: &[u8],
    now_unix: i64,
    tolerance_s: u64,
) -> Result<(), VerifyError> {
    let timestamp: i64 = signed.timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let off_s = now_unix.abs_diff(timestamp);
    if off_s > tolerance_s {
        return Err(VerifyError::Stale { off_s, tolerance_s });
    }
    let mac = secret.mac(signed.id, timestamp, body);
    let fits = signed
        .signature
        .split_ascii_whitespace()
        .take(SIGNATURES_MAX)
        .filter_map(|one| STANDARD.decode(one.strip_prefix(SIGNATURE_PREFIX)?).ok())
        .any(|one| mac.clone().verify_slice(&one).is_ok());
    if fits { Ok(()) } else { Err(VerifyError::Signature) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The worked vector of the public contract, which is Svix' and the specification's.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key() -> Secret {
        Secret::parse(KEY).unwrap()
    }

    #[test]
    fn the_worked_vector_signs_and_verifies() {
        assert_eq!(key().sign(ID, AT, BODY), SIGNATURE);
        let signed = Signed { id: ID, timestamp: "1614265330", signature: SIGNATURE };
        assert_eq!(verify(&key(), signed, BODY, AT, 0), Ok(()));
    }

    #[test]
    fn the_shortest_and_the_longest_key_sign_like_hmac_itself() {
        for length in [SECRET_BYTES_MIN, 32, SECRET_BYTES_MAX] {
            let bytes: Vec<u8> = (1..=length as u8).collect();
            let secret = Secret::parse(&format!("whsec_{}", STANDARD.encode(&bytes))).unwrap();
            let mut plain = <Hmac<Sha256> as KeyInit>::new_from_slice(&bytes).unwrap();
            plain.update(b"a.7.b");
            let expect = format!("v1,{}", STANDARD.encode(plain.finalize().into_bytes()));
            assert_eq!(secret.sign("a", 7, b"b"), expect, "{length}");
        }
    }

    #[test]
    fn anything_changed_on_the_way_is_refused() {
        let ok = Signed { id: ID, timestamp: "1614265330", signature: SIGNATURE };
        let check = |signed, body: &[u8]| {
            assert_eq!(verify(&key(), signed, body, AT, 300), Err(VerifyError::Signature));
        };
        check(ok, br#"{"test": 2432232315}"#);
        check(Signed { id: "msg_other", ..ok }, BODY);
        check(Signed { timestamp: "1614265331", ..ok }, BODY);
        check(Signed { signature: "", ..ok }, BODY);
        check(Signed { signature: "v1,", ..ok }, BODY);
        check(Signed { signature: "v1,g0hM", ..ok }, BODY);
        check(Signed { signature: "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", ..ok }, BODY);
        let other = Secret::generate([7; 32]);
        assert_eq!(verify(&other, ok, BODY, AT, 300), Err(VerifyError::Signature));
    }

    #[test]
    fn a_rotation_sends_two_signatures_and_either_secret_verifies() {
        let new = Secret::generate([1; 32]);
        let list = format!("{} v1a,asymmetric {SIGNATURE}", new.sign(ID, AT, BODY));
        let signed = Signed { id: ID, timestamp: "1614265330", signature: &list };
        assert_eq!(verify(&new, signed, BODY, AT, 0), Ok(()));
        assert_eq!(verify(&key(), signed, BODY, AT, 0), Ok(()));
    }

    #[test]
    fn a_list_without_end_is_not_read_to_its_end() {
        let list = format!("{}{SIGNATURE}", "v1,AAAA ".repeat(SIGNATURES_MAX));
        let signed = Signed { id: ID, timestamp: "1614265330", signature: &list };
        assert_eq!(verify(&key(), signed, BODY, AT, 0), Err(VerifyError::Signature));
    }

    #[test]
    fn a_timestamp_outside_the_tolerance_is_refused_in_both_directions() {
        let signed = Signed { id: ID, timestamp: "1614265330", signature: SIGNATURE };
        for (now, expect) in [
            (AT + 300, Ok(())),
            (AT - 300, Ok(())),
            (AT + 301, Err(VerifyError::Stale { off_s: 301, tolerance_s: 300 })),
            (AT - 301, Err(VerifyError::Stale { off_s: 301, tolerance_s: 300 })),
        ] {
            assert_eq!(verify(&key(), signed, BODY, now, TOLERANCE_S), expect, "{now}");
        }
        for timestamp in ["", "now", "1614265330.5", "99999999999999999999"] {
            let signed = Signed { timestamp, ..signed };
            let got = verify(&key(), signed, BODY, AT, TOLERANCE_S);
            assert_eq!(got, Err(VerifyError::Timestamp), "{timestamp}");
        }
    }

    #[test]
    fn a_secret_round_trips_and_a_bad_one_says_what_is_wrong() {
        assert_eq!(key().to_string(), KEY);
        let generated = Secret::generate([9; 32]);
        assert_eq!(Secret::parse(&generated.to_string()), Ok(generated));
        let encoded = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![0u8; bytes]));
        assert!(Secret::parse(&encoded(24)).is_ok() && Secret::parse(&encoded(64)).is_ok());
        for (text, expect) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(), SecretError::Prefix),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS".to_owned(), SecretError::Base64),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_".to_owned(), SecretError::Base64),
            (encoded(23), SecretError::Length { bytes: 23 }),
            (encoded(65), SecretError::Length { bytes: 65 }),
        ] {
            assert_eq!(Secret::parse(&text), Err(expect), "{text}");
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", key());
        assert_eq!(shown, "Secret(hidden)");
    }
}
