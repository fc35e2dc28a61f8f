//! The records of a FIT file: definitions, and the data messages that they describe.
//!
//! Guarantees that a message is walked by the widths that its definition gave, those of
//! developer fields too, whether or not anything has said what these mean; and memory of
//! sixteen definitions, whatever the file says. Does not know what a message means.

use std::ops::Range;

/// The field of every message that says when it was.
const TIMESTAMP: u8 = 253;
/// What a definition may describe at once: four bits name it.
const LOCAL_TYPES: usize = 16;

/// A field of a message.
#[derive(Clone, Copy)]
struct Field {
    number: u8,
    base: u8,
    at: usize,
    size: usize,
}

/// What messages of a local type look like.
struct Definition {
    number: u16,
    is_big_endian: bool,
    /// Those that somebody here asks for.
    fields: Vec<Field>,
    size: usize,
}

/// A data message.
pub struct FitMessage<'a> {
    definition: &'a Definition,
    body: &'a [u8],
    /// When it was, in seconds of FIT, if it says so itself.
    pub time: Option<u32>,
}

impl FitMessage<'_> {
    /// What kind of message it is, by the profile of FIT.
    pub fn number(&self) -> u16 {
        self.definition.number
    }

    /// Whether it has this field, with a value or without.
    pub fn has(&self, field: u8) -> bool {
        self.definition.fields.iter().any(|f| f.number == field)
    }

    /// The bytes of a field.
    pub fn bytes(&self, field: u8) -> &[u8] {
        let found = self.definition.fields.iter().find(|f| f.number == field);
        found.and_then(|f| self.body.get(f.at..f.at + f.size)).unwrap_or_default()
    }

    /// The whole numbers of a field; `None` is a place without a value. A field of another
    /// kind has none of either.
    pub fn numbers(&self, field: u8) -> impl Iterator<Item = Option<u32>> {
        let base = self.definition.fields.iter().find(|f| f.number == field).map(|f| f.base & 0x1f);
        let (width, none) = match base {
            // enum, uint8, byte; the same where 0 is no value; then twice as wide, and again.
            Some(0 | 2 | 13) => (1, 0xff),
            Some(10) => (1, 0),
            Some(4) => (2, 0xffff),
            Some(11) => (2, 0),
            Some(6) => (4, u32::MAX),
            Some(12) => (4, 0),
            _ => (usize::MAX, 0),
        };
        let is_big_endian = self.definition.is_big_endian;
        self.bytes(field).chunks_exact(width).map(move |bytes| {
            let join = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
            let number = match is_big_endian {
                true => bytes.iter().fold(0, join),
                false => bytes.iter().rev().fold(0, join),
            };
            (number != none).then_some(number)
        })
    }

    /// The first of them.
    pub fn number_of(&self, field: u8) -> Option<u32> {
        self.numbers(field).next().flatten()
    }
}

/// Where the records cannot be followed any further.
#[derive(Debug, PartialEq, Eq)]
pub struct BadRecords {
    /// At which byte of them.
    pub at: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// Walks the records of one part of a file.
#[derive(Default)]
pub struct Records {
    at: usize,
    definitions: [Option<Definition>; LOCAL_TYPES],
    latest: Option<u32>,
}

impl Records {
    /// The next data message, of those whose `wanted` fields somebody asks for; `None` at
    /// the end. Always of the same bytes.
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a [u8],
        wanted: &[u8],
    ) -> Result<Option<FitMessage<'a>>, BadRecords> {
        let cut = |at| BadRecords { at, why: "a record that goes beyond the end" };
        loop {
            let begin = self.at;
            let Some(header) = bytes.get(begin).copied() else { return Ok(None) };
            self.at += 1;
            if header & 0xc0 == 0x40 {
                let local = usize::from(header & 0x0f);
                let has_developer = header & 0x20 != 0;
                let definition = self.definition(bytes, has_developer, wanted);
                self.definitions[local] = Some(definition.ok_or_else(|| cut(begin))?);
                continue;
            }
            // A short header has its time in five bits, and a local type in two.
            let short_time = (header & 0x80 != 0).then_some(u32::from(header & 0x1f));
            let local = match short_time {
                Some(_) => usize::from(header >> 5 & 0x03),
                None => usize::from(header & 0x0f),
            };
            let Some(definition) = self.definitions[local].as_ref() else {
                return Err(BadRecords { at: begin, why: "a record that nothing has described" });
            };
            let body = bytes.get(self.at..self.at + definition.size).ok_or_else(|| cut(begin))?;
            self.at += definition.size;
            let mut message = FitMessage { definition, body, time: None };
            message.time = match (message.number_of(TIMESTAMP), short_time, self.latest) {
                (Some(time), ..) => Some(time),
                // Not before the latest, so at most half a minute after it.
                (None, Some(bits), Some(latest)) => {
                    Some(latest.wrapping_add(bits.wrapping_sub(latest) & 0x1f))
                }
                _ => None,
            };
            self.latest = message.time.or(self.latest);
            return Ok(Some(message));
        }
    }

    /// `None` where it goes beyond the end.
    fn definition(&mut self, bytes: &[u8], developer: bool, wanted: &[u8]) -> Option<Definition> {
        // Reserved, the order of bytes, the message's number, how many fields.
        let [_, order, number @ .., count] = *self.take::<5>(bytes)?;
        let is_big_endian = order == 1;
        let number = match is_big_endian {
            true => u16::from_be_bytes(number),
            false => u16::from_le_bytes(number),
        };
        let mut definition = Definition { number, is_big_endian, fields: Vec::new(), size: 0 };
        for _ in 0..count {
            let [number, size, base] = *self.take::<3>(bytes)?;
            let (at, size) = (definition.size, usize::from(size));
            let is_new = definition.fields.iter().all(|field| field.number != number);
            if size > 0 && is_new && (number == TIMESTAMP || wanted.contains(&number)) {
                definition.fields.push(Field { number, base, at, size });
            }
            definition.size += size;
        }
        if developer {
            let [count] = *self.take::<1>(bytes)?;
            for _ in 0..count {
                let [_, size, _] = *self.take::<3>(bytes)?;
                definition.size += usize::from(size);
            }
        }
        Some(definition)
    }

    fn take<'a, const N: usize>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8; N]> {
        let range: Range<usize> = self.at..self.at + N;
        let taken = bytes.get(range)?.try_into().ok()?;
        self.at += N;
        Some(taken)
    }
}
