//! The quality of a reading as it is sent.
//!
//! Guarantees that what an answer or an export says of a reading can be sent again: the
//! words `good` and `suspect` are the platform's own judgement, which it makes anew of the
//! value, and a number is the device's own opinion of its signal.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// What is said of a reading's quality.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quality {
    /// The device's opinion. Not judged: it may lie outside 0–1.
    Own(f64),
    /// The platform's word, which says nothing about the device's opinion.
    Word,
}

impl Quality {
    /// The device's opinion.
    pub fn own(self) -> Option<f64> {
        match self {
            Quality::Own(own) => Some(own),
            Quality::Word => None,
        }
    }

    /// Whether a text is the platform's word.
    pub fn is_word(text: &str) -> bool {
        matches!(text, "good" | "suspect")
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Quality;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number within 0 and 1, or good or suspect")
    }

    fn visit_f64<E: Error>(self, own: f64) -> Result<Quality, E> {
        Ok(Quality::Own(own))
    }

    fn visit_u64<E: Error>(self, own: u64) -> Result<Quality, E> {
        Ok(Quality::Own(own as f64))
    }

    fn visit_i64<E: Error>(self, own: i64) -> Result<Quality, E> {
        Ok(Quality::Own(own as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Quality, E> {
        match Quality::is_word(text) {
            true => Ok(Quality::Word),
            false => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Quality {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Quality, D::Error> {
        from.deserialize_any(Reader)
    }
}
