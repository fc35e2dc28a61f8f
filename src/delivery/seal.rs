//! Secrets at rest: sealed with a key that is not in the database.
//!
//! Guarantees that what [`Seal::seal`] made opens only with the same key and in the
//! same place (an endpoint's column), unchanged: ChaCha20-Poly1305, with the place as
//! associated data, so that one who can write to the database cannot move a secret to
//! an endpoint of theirs. One who can only read it, or a backup of it, learns none.
//!
//! Without a key texts are kept as they are, and are read as they are by everybody: a
//! key that comes later takes them over ([`super::secrets::take_over`]). Does not
//! hide secrets from one who has the key, and cannot do without it: a lost key means
//! new secrets.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use crate::auth::strength::{Guessable, check};

/// The shortest key: as many random bytes as the cipher uses.
pub const KEY_BYTES_MIN: usize = 32;

/// Before everything that is sealed. No secret begins so.
const PREFIX: &str = "sealed";
/// How much of a key's hash names it.
const NAME_BYTES: usize = 4;

/// The keys: the first one seals, all of them open. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Seal(Arc<Vec<SealKey>>);

#[derive(Debug)]
struct SealKey {
    name: String,
    key: LessSafeKey,
}

/// A key that is too short to be random, or is not.
#[derive(Debug, thiserror::Error)]
pub enum WeakKey {
    /// Fewer bytes than the cipher uses.
    #[error("the key for secrets has {0} bytes: use at least {KEY_BYTES_MIN} random ones")]
    Short(usize),
    /// As many as it takes, and not random.
    #[error("the key for secrets {0}")]
    Guessable(#[from] Guessable),
}

/// Why something sealed stays closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Sealed by a key that this process does not have.
    #[error("it is sealed with the key {0}, which VITALS_SECRETS_KEY does not hold")]
    UnknownKey(String),
    /// Changed, cut, or moved here from another place.
    #[error("it was changed in the database, or belongs to another endpoint")]
    Broken,
}

impl Seal {
    /// Keys of texts, the one that seals first. None: secrets are kept as they are.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Seal, WeakKey> {
        let keys: Result<Vec<SealKey>, WeakKey> = texts.into_iter().map(SealKey::of).collect();
        Ok(Seal(Arc::new(keys?)))
    }

    /// The name of the key that seals.
    pub fn key_name(&self) -> Option<&str> {
        self.0.first().map(|key| &*key.name)
    }

    /// Seals a text for a place. `nonce` is random, and drawn for this one text.
    pub fn seal(&self, place: &str, text: &str, nonce: [u8; NONCE_LEN]) -> String {
        let Some(SealKey { name, key }) = self.0.first() else { return text.to_owned() };
        let mut sealed = text.as_bytes().to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        match key.seal_in_place_append_tag(nonce_used, Aad::from(place), &mut sealed) {
            Ok(()) => {
                let sealed = [&nonce[..], &sealed].concat();
                format!("{PREFIX}.{name}.{}", URL_SAFE_NO_PAD.encode(sealed))
            }
            // Only for more than 256 GiB, which no field of ours lets in.
            Err(ring::error::Unspecified) => String::new(),
        }
    }

    /// Opens what was sealed for this place; a text that is not sealed is itself.
    pub fn open(&self, place: &str, stored: &str) -> Result<String, UnsealError> {
        let Some((name, encoded)) = parts(stored) else { return Ok(stored.to_owned()) };
        let key = self.0.iter().find(|key| key.name == name);
        let key = key.ok_or_else(|| UnsealError::UnknownKey(name.to_owned()))?;
        let mut sealed = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| UnsealError::Broken)?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN).ok_or(UnsealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| UnsealError::Broken)?;
        let opened = key.key.open_in_place(nonce, Aad::from(place), text);
        let opened = opened.map_err(|_| UnsealError::Broken)?;
        String::from_utf8(opened.to_vec()).map_err(|_| UnsealError::Broken)
    }

    /// Whether a text is as the first key would have it.
    pub fn is_current(&self, stored: &str) -> bool {
        parts(stored).map(|(name, _)| name) == self.key_name()
    }
}

/// The name of the key and what it sealed, if it is sealed at all.
fn parts(stored: &str) -> Option<(&str, &str)> {
    stored.strip_prefix(PREFIX)?.strip_prefix('.')?.split_once('.')
}

impl SealKey {
    fn of(text: &str) -> Result<SealKey, WeakKey> {
        if text.len() < KEY_BYTES_MIN {
            return Err(WeakKey::Short(text.len()));
        }
        check(text)?;
        let digest = |label: &str| Sha256::digest(format!("vitals secrets {label}\0{text}"));
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &digest("key"));
        let key = LessSafeKey::new(unbound.map_err(|_| WeakKey::Short(text.len()))?);
        let name = digest("name").iter().take(NAME_BYTES).map(|b| format!("{b:02x}")).collect();
        Ok(SealKey { name, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the key of last year, which has 32 bytes and more";
    const NEW: &str = "the key of this year, which has 32 bytes and more";

    fn seal(keys: &[&str]) -> Seal {
        Seal::new(keys.iter().copied()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_and_hides_itself() {
        let seal = seal(&[NEW]);
        let sealed = seal.seal("e1/secret", "whsec_abc", [1; 12]);
        assert!(sealed.starts_with("sealed.") && !sealed.contains("whsec"), "{sealed}");
        assert_eq!(seal.open("e1/secret", &sealed), Ok("whsec_abc".to_owned()));
        assert_eq!(seal.open("e2/secret", &sealed), Err(UnsealError::Broken));
        assert_ne!(sealed, seal.seal("e1/secret", "whsec_abc", [2; 12]));
    }

    #[test]
    fn what_was_changed_stays_closed() {
        let seal = seal(&[NEW]);
        let sealed = seal.seal("e1/secret", "whsec_abc", [1; 12]);
        let head = sealed.rfind('.').unwrap() + 1;
        for at in head..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(seal.open("e1/secret", &changed), Err(UnsealError::Broken), "at {at}");
        }
        for cut in [&sealed[..head], &sealed[..head + 8], &sealed[..sealed.len() - 4]] {
            assert_eq!(seal.open("e1/secret", cut), Err(UnsealError::Broken), "{cut}");
        }
    }

    #[test]
    fn an_older_key_opens_and_the_first_one_seals() {
        let sealed = seal(&[OLD]).seal("p", "text", [1; 12]);
        let both = seal(&[NEW, OLD]);
        assert_eq!(both.open("p", &sealed), Ok("text".to_owned()));
        assert!(!both.is_current(&sealed) && both.is_current(&both.seal("p", "text", [1; 12])));
        let name = seal(&[OLD]).key_name().unwrap().to_owned();
        assert_eq!(seal(&[NEW]).open("p", &sealed), Err(UnsealError::UnknownKey(name)));
    }

    #[test]
    fn without_a_key_texts_are_as_they_are_and_a_key_reads_them_still() {
        let none = Seal::default();
        assert_eq!(none.seal("p", "whsec_abc", [1; 12]), "whsec_abc");
        assert!(none.is_current("whsec_abc") && !seal(&[NEW]).is_current("whsec_abc"));
        assert_eq!(seal(&[NEW]).open("p", "whsec_abc"), Ok("whsec_abc".to_owned()));
        let sealed = seal(&[NEW]).seal("p", "text", [1; 12]);
        assert!(matches!(none.open("p", &sealed), Err(UnsealError::UnknownKey(_))));
    }

    #[test]
    fn a_guessable_key_is_refused() {
        assert!(Seal::new(["short"]).unwrap_err().to_string().contains("5 bytes"));
        let same = "x".repeat(KEY_BYTES_MIN);
        assert!(Seal::new([&*same]).unwrap_err().to_string().contains("guessed"));
    }
}
