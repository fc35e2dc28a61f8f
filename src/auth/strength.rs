//! Whether a secret can be guessed.
//!
//! Guarantees that what is plainly no random text is refused: one character again and again,
//! a word repeated, a row of the keyboard or of the alphabet. Guarantees nothing about the
//! others: no program can tell whether a text was drawn by chance.

use std::collections::HashMap;

/// What a secret must hold at least, counted as below. Sixteen random bytes as hexadecimal
/// digits hold some 110.
const BITS_MIN: f64 = 80.0;

/// A secret that is no secret.
#[derive(Debug, thiserror::Error)]
#[error(
    "can be guessed (it holds about {0} bits): use random bytes, as \"openssl rand -base64 48\" \
     prints them"
)]
pub struct Guessable(u32);

/// Refuses what can be guessed.
pub fn check(secret: impl AsRef<[u8]>) -> Result<(), Guessable> {
    let bits = bits(secret.as_ref());
    if bits < BITS_MIN { Err(Guessable(bits as u32)) } else { Ok(()) }
}

/// About how many bits a text holds: its characters by how often each is there, or the
/// steps from one to the next, whichever says less; of what repeats itself, once.
fn bits(secret: &[u8]) -> f64 {
    let once = &secret[..period(secret)];
    let steps: Vec<u8> = once.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    entropy(once).min(entropy(&steps)) * once.len() as f64
}

/// The length of the shortest text that repeated gives this one.
fn period(secret: &[u8]) -> usize {
    let repeats = |n: &usize| secret.iter().zip(&secret[*n..]).all(|(a, b)| a == b);
    (1..secret.len()).find(repeats).unwrap_or(secret.len())
}

/// Shannon's, in bits for each.
fn entropy(of: &[u8]) -> f64 {
    let mut counts: HashMap<u8, f64> = HashMap::new();
    for byte in of {
        *counts.entry(*byte).or_default() += 1.0;
    }
    let all = of.len() as f64;
    counts.values().map(|n| n / all * (all / n).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plainly_not_random_is_refused_with_the_mend() {
        for weak in [
            "",
            "a",
            &"a".repeat(64),
            &"ab".repeat(32),
            &"password".repeat(8),
            &"changeme-".repeat(9),
            &"1234567890".repeat(6),
            "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
            "00000000000000000000000000000001",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        ] {
            let error = check(weak).expect_err(weak);
            assert!(error.to_string().contains("openssl rand"), "{weak}: {error}");
        }
    }

    #[test]
    fn random_texts_pass_however_they_are_written() {
        use base64::Engine;
        for _ in 0..1_000 {
            let random: [u8; 32] = rand::random();
            let text = base64::engine::general_purpose::STANDARD.encode(random);
            assert!(check(&text).is_ok(), "{text}");
            let hexadecimal: String = random[..16].iter().map(|b| format!("{b:02x}")).collect();
            assert!(check(&hexadecimal).is_ok(), "{hexadecimal}");
            assert!(check(random).is_ok(), "{random:?}");
        }
        assert!(check("a secret that is good for tests and for nothing else").is_ok());
    }
}
