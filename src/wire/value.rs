//! What answers are made of: ids, numbers, times, units, links.
//!
//! Guarantees that a number is written as people write it and a time in UTC with as many
//! digits as it needs, each in one way. Does not check what it is given: the log did.

use std::borrow::Cow;
use std::fmt::Display;

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::event::WHOLE_MAX;

macro_rules! texts {
    ($($(#[$meta:meta])* $name:ident($(#[$of_text:meta])*),)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name<'a>($(#[$of_text])* Cow<'a, str>);

        impl From<String> for $name<'_> {
            fn from(text: String) -> Self {
                $name(text.into())
            }
        }

        impl<'a> From<&'a str> for $name<'a> {
            fn from(text: &'a str) -> Self {
                $name(text.into())
            }
        }

        impl AsRef<str> for $name<'_> {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

texts! {
    /// Of a tenant, patient, device or rule: a FHIR id, chosen by the caller.
    Id(#[schemars(regex(pattern = r"^[A-Za-z0-9\-.]{1,64}$"))]),
    /// UCUM.
    Unit(),
}

/// A number as people write it: 130 and not 130.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.fract() == 0.0 && self.0.abs() < WHOLE_MAX {
            true => to.serialize_i64(self.0 as i64),
            false => to.serialize_f64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Number, D::Error> {
        f64::deserialize(from).map(Number)
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::event::number(self.0).fmt(f)
    }
}

/// A device's own opinion of its signal, with as many digits as it needs: 0.9, and not the
/// float beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Opinion(pub f32);

impl Opinion {
    /// As it was sent.
    pub fn number(self) -> Number {
        Number(self.0.to_string().parse().unwrap_or_else(|_| self.0.into()))
    }
}

impl Serialize for Opinion {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.number().serialize(to)
    }
}

/// A time: RFC 3339 with a zone, and so a year of four digits; in UTC when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub DateTime<Utc>);

impl From<DateTime<Utc>> for Time {
    fn from(time: DateTime<Utc>) -> Time {
        Time(time)
    }
}

/// `2026-01-01T00:00:00.000000Z`
const TIME_CHARS_MAX: usize = 27;

/// Digits of a number, the last one last.
fn digits(to: &mut [u8], mut n: u32) {
    for digit in to.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

impl Time {
    /// The same text as [`crate::clock::rfc3339`], without asking for memory. `None` for
    /// what the log cannot hold: nanoseconds, leap seconds, and years of other lengths.
    fn text(self, to: &mut [u8; TIME_CHARS_MAX]) -> Option<&str> {
        let (year, nanos) = (self.0.year(), self.0.nanosecond());
        if !(0..=9999).contains(&year) || nanos % 1_000 != 0 || nanos >= 1_000_000_000 {
            return None;
        }
        to.copy_from_slice(b"0000-00-00T00:00:00.000000Z");
        let (date, time) = (self.0.date_naive(), self.0.time());
        digits(&mut to[0..4], year.unsigned_abs());
        digits(&mut to[5..7], date.month());
        digits(&mut to[8..10], date.day());
        digits(&mut to[11..13], time.hour());
        digits(&mut to[14..16], time.minute());
        digits(&mut to[17..19], time.second());
        let end = match nanos / 1_000 {
            0 => 19,
            micros if micros % 1_000 == 0 => {
                digits(&mut to[20..23], micros / 1_000);
                23
            }
            micros => {
                digits(&mut to[20..26], micros);
                26
            }
        };
        to[end] = b'Z';
        std::str::from_utf8(&to[..=end]).ok()
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.text(&mut [0; TIME_CHARS_MAX]) {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.text(&mut [0; TIME_CHARS_MAX]) {
            Some(text) => to.serialize_str(text),
            None => to.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(|_| {
            D::Error::custom(format!(
                "\"{text}\" is no RFC 3339 time with a zone: write it as 2025-10-20T10:20:00Z, \
                 and a + in it as %2B"
            ))
        })?;
        Ok(Time(time.to_utc()))
    }
}

/// `suspect` is what no living patient shows: kept, and never the ground of an alert of a
/// patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Quality {
    Good,
    Suspect,
}

impl Quality {
    /// Of a reading that is implausible, or is not.
    pub fn of(suspect: bool) -> Quality {
        if suspect { Quality::Suspect } else { Quality::Good }
    }

    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Quality::Good => "good",
            Quality::Suspect => "suspect",
        }
    }
}

/// JSON that was sent with a reading, to the letter but for line breaks, which in JSON stand
/// around its texts only. It was parsed on arrival; whatever else it may be is null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context<'a>(Cow<'a, str>);

impl<'a> Context<'a> {
    /// Of the text that is stored.
    pub fn new(json: impl Into<Cow<'a, str>>) -> Context<'a> {
        let json = json.into();
        match json.contains(['\n', '\r']) {
            true => Context(json.replace(['\n', '\r'], " ").into()),
            false => Context(json),
        }
    }

    /// The text, on one line.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Serialize for Context<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).ok().serialize(to)
    }
}

/// Members by name, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Members<T>(pub Vec<(Cow<'static, str>, T)>);

impl<T: Serialize> Serialize for Members<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Where to go on, by what is there.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Links(Members<String>);

impl<const N: usize> From<[(&'static str, String); N]> for Links {
    fn from(links: [(&'static str, String); N]) -> Links {
        Links(Members(links.into_iter().map(|(name, link)| (name.into(), link)).collect()))
    }
}

impl FromIterator<(&'static str, String)> for Links {
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(links: I) -> Links {
        Links(Members(links.into_iter().map(|(name, link)| (name.into(), link)).collect()))
    }
}

/// Schemas that stand where they are used.
macro_rules! inline {
    ($($name:ty => $schema:tt,)*) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

inline! {
    Number => { "type": "number" },
    Opinion => {
        "type": "number", "minimum": 0, "maximum": 1,
        "description": "The device's own opinion, if it sent one."
    },
    Time => { "type": "string", "format": "date-time" },
    Context<'_> => { "description": "What was sent with it, if anything was." },
}

impl<T: JsonSchema> JsonSchema for Members<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}ByName", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let members = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": members })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::rfc3339;
    use crate::event::number;

    fn written(value: impl Serialize) -> String {
        serde_json::to_string(&value).unwrap()
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_everywhere(
            nanos in 0_i64..4_000_000_000_000_000_000,
            coarse in 0_usize..5,
        ) {
            let unit = [1, 1_000, 1_000_000, 1_000_000_000, 60_000_000_000][coarse];
            let time = DateTime::from_timestamp_nanos(nanos / unit * unit);
            prop_assert_eq!(written(Time(time)), format!("\"{}\"", rfc3339(time)));
        }

        #[test]
        fn a_number_is_written_as_everywhere(n in any::<f64>(), whole in any::<i32>()) {
            prop_assert_eq!(written(Number(n)), number(n).to_string());
            prop_assert_eq!(written(Number(whole.into())), whole.to_string());
        }
    }

    #[test]
    fn years_of_other_lengths_are_written_as_everywhere() {
        for year in [-1, 0, 9999, 10_000] {
            let time = DateTime::<Utc>::UNIX_EPOCH.with_year(year).unwrap();
            assert_eq!(written(Time(time)), format!("\"{}\"", rfc3339(time)));
        }
    }

    #[test]
    fn a_context_is_kept_to_the_letter_on_one_line() {
        let written = |json: &str| written(Context::new(json));
        assert_eq!(written("{\"a\":\n 1.50}"), "{\"a\":  1.50}");
        assert_eq!(written("no JSON"), "null");
    }

    #[test]
    fn an_opinion_has_the_digits_that_were_sent() {
        assert_eq!(written([Opinion(0.9), Opinion(1.0), Opinion(0.125)]), "[0.9,1,0.125]");
    }
}
