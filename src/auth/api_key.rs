//! API keys: how one is written, and what is kept of it.
//!
//! Guarantees that a key holds 256 random bits, that a text which was cut or mistyped is told
//! from a key without asking anybody, and that of a key only a hash is kept. That is plain
//! SHA-256: what was drawn by chance out of 2^256 is found by no dictionary, so the slowness
//! of a password's hash would cost each request what it gains nobody. Does not know which keys
//! there are: that is [`super::api_keys`]'s.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with: scanners for secrets look for it.
pub const PREFIX: &str = "vk_";
/// Characters of a key's own name.
const ID_CHARS: usize = 16;
/// Characters of its secret: 62^43 is more than 2^256.
const SECRET_CHARS: usize = 43;
/// Characters of the checksum behind it: 62^6 is more than 2^32.
const CHECK_CHARS: usize = 6;
/// Random numbers that a key is made of.
pub const NUMBERS: usize = ID_CHARS + SECRET_CHARS;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key as its holder has it: `vk_ID_SECRET`, of which the last six characters are a
/// checksum. Never shown by `Debug`.
pub struct ApiKey {
    id: String,
    text: String,
}

/// What is kept of a key's text. Never shown by `Debug`.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl ApiKey {
    /// A new one, of random numbers.
    pub fn make(random: [u32; NUMBERS]) -> ApiKey {
        // 2^32 is no multiple of 62: that favours some characters by a part in 10^8.
        let all: String = random.iter().map(|number| digit(u64::from(*number))).collect();
        let (id, secret) = all.split_at(ID_CHARS);
        let text = format!("{PREFIX}{id}_{secret}");
        let check = checksum(&text);
        ApiKey { id: id.to_owned(), text: text + &check }
    }

    /// Reads one; nothing if it is none, or was cut or mistyped.
    pub fn read(text: &str) -> Option<ApiKey> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if id.len() != ID_CHARS
            || secret.len() != SECRET_CHARS + CHECK_CHARS
            || !is_plain(id)
            || !is_plain(secret)
        {
            return None;
        }
        let (told, check) = text.split_at_checked(text.len() - CHECK_CHARS)?;
        (checksum(told) == check).then(|| ApiKey { id: id.to_owned(), text: text.to_owned() })
    }

    /// Its own name, which is no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// All of it: shown once, to who made it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is kept.
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(&self.text).into())
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}_…", self.id)
    }
}

impl KeyHash {
    /// As it was stored; nothing if that is none.
    pub fn stored(bytes: &[u8]) -> Option<KeyHash> {
        bytes.try_into().ok().map(KeyHash)
    }

    /// To be stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is that of the key, in a time that does not tell how much of it is.
    pub fn is_of(&self, key: &ApiKey) -> bool {
        self.0.ct_eq(&key.hash().0).into()
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

fn digit(number: u64) -> char {
    let nth = usize::try_from(number % 62).unwrap_or_default();
    BASE62.get(nth).map_or('0', |byte| char::from(*byte))
}

/// The first 32 bits of the SHA-256 of what stands before it, in base 62, the highest first.
fn checksum(text: &str) -> String {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(text).into();
    let number = u64::from(u32::from_be_bytes([a, b, c, d]));
    (0..CHECK_CHARS as u32).rev().map(|place| digit(number / 62_u64.pow(place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made_and_nothing_near_it_is() {
        for _ in 0..100 {
            let key = ApiKey::make(rand::random());
            let read = ApiKey::read(key.text()).unwrap();
            assert_eq!((read.id(), read.text()), (key.id(), key.text()));
            assert!(key.hash().is_of(&read));
            assert!(!key.hash().is_of(&ApiKey::make(rand::random())));
            let stored = KeyHash::stored(key.hash().bytes()).unwrap();
            assert!(stored.is_of(&key));
            for nth in 0..key.text().len() {
                let mut near = key.text().to_owned();
                near.replace_range(nth..=nth, if &near[nth..=nth] == "x" { "y" } else { "x" });
                assert!(ApiKey::read(&near).is_none(), "{near}");
                assert!(ApiKey::read(&key.text()[..nth]).is_none());
            }
            assert!(ApiKey::read(&format!("{} ", key.text())).is_none());
        }
        assert!(KeyHash::stored(&[0; 31]).is_none());
    }

    #[test]
    fn how_a_key_is_written_stays_as_it_is() {
        let key = ApiKey::make(std::array::from_fn(|n| n as u32));
        let expected = "vk_0123456789ABCDEF_GHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvw";
        assert_eq!(key.text().split_at(expected.len()).0, expected);
        assert_eq!(key.text().len(), expected.len() + CHECK_CHARS);
        assert_eq!(format!("{key:?} {:?}", key.hash()), "vk_0123456789ABCDEF_… KeyHash(…)");
    }
}
