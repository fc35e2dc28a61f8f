//! Where an export's bytes gather before they are a part: as they are, or sealed by age.
//!
//! Guarantees that of what is written for recipients nothing leaves here that they alone could
//! not read: it is sealed before it can be taken. Does not know what it writes.

use std::io::{self, Write};
use std::sync::Arc;

use age::stream::StreamWriter;
use age::x25519::Recipient;
use age::{EncryptError, Encryptor};
use parking_lot::Mutex;

/// Recipients of an export.
pub const RECIPIENTS_MAX: usize = 16;

/// A text that is no recipient.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no X25519 recipient of age ({why}): age-keygen prints one, age1…")]
pub struct BadRecipient {
    /// Its place.
    pub index: usize,
    text: String,
    why: &'static str,
}

/// Reads the public keys of those who may read it.
pub fn recipients(texts: &[String]) -> Result<Vec<Recipient>, BadRecipient> {
    let recipient = |(index, text): (usize, &String)| {
        text.parse().map_err(|why| BadRecipient { index, text: text.clone(), why })
    };
    texts.iter().enumerate().map(recipient).collect()
}

/// What was written and not taken yet.
pub enum Output {
    /// As it is.
    Plain(Vec<u8>),
    /// For recipients.
    Sealed(Box<StreamWriter<Gathered>>, Gathered),
}

/// Bytes that one end writes and another takes.
#[derive(Clone, Default)]
pub struct Gathered(Arc<Mutex<Vec<u8>>>);

impl Output {
    /// For these recipients; for everybody if there are none.
    pub fn new(recipients: &[Recipient]) -> io::Result<Output> {
        if recipients.is_empty() {
            return Ok(Output::Plain(Vec::new()));
        }
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let told = |error: EncryptError| io::Error::other(error);
        let (encryptor, gathered) =
            (Encryptor::with_recipients(recipients).map_err(told)?, Gathered::default());
        let writer = encryptor.wrap_output(gathered.clone())?;
        Ok(Output::Sealed(Box::new(writer), gathered))
    }

    /// Whether anybody may read it.
    pub fn is_plain(&self) -> bool {
        matches!(self, Output::Plain(_))
    }

    /// How much can be taken.
    pub fn len(&self) -> usize {
        match self {
            Output::Plain(bytes) => bytes.len(),
            Output::Sealed(_, gathered) => gathered.0.lock().len(),
        }
    }

    /// Takes all that can be.
    pub fn take(&mut self) -> Vec<u8> {
        match self {
            Output::Plain(bytes) => std::mem::take(bytes),
            Output::Sealed(_, gathered) => std::mem::take(&mut gathered.0.lock()),
        }
    }

    /// Ends it: the rest.
    pub fn end(self) -> io::Result<Vec<u8>> {
        match self {
            Output::Plain(bytes) => Ok(bytes),
            Output::Sealed(writer, _) => {
                let gathered = writer.finish()?;
                Ok(std::mem::take(&mut gathered.0.lock()))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Plain(gathered) => gathered.write(bytes),
            Output::Sealed(writer, _) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_of_a_sealed_output_is_read_by_its_recipients_alone() {
        let (ours, theirs) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let mut output = Output::new(&[ours.to_public()]).unwrap();
        let text = "a reading of somebody\n".repeat(20_000);
        let mut taken = Vec::new();
        for chunk in text.as_bytes().chunks(10_000) {
            output.write_all(chunk).unwrap();
            taken.extend(output.take());
        }
        taken.extend(output.end().unwrap());
        assert!(!taken.windows(9).any(|some| some == b"a reading"));
        assert_eq!(age::decrypt(&ours, &taken).unwrap(), text.as_bytes());
        assert!(age::decrypt(&theirs, &taken).is_err());
    }

    #[test]
    fn what_is_no_recipient_is_told_with_its_place() {
        let key = age::x25519::Identity::generate().to_public().to_string();
        let all = [key.clone(), key.replace("age1", "age2"), String::new()];
        assert_eq!(recipients(&all).err().map(|bad| bad.index), Some(1));
        assert_eq!(recipients(&all[..1]).map(|all| all.len()).ok(), Some(1));
        // Of another kind: a secret key is not taken as a public one.
        assert!(recipients(&["AGE-SECRET-KEY-1QQQ".to_owned()]).is_err());
    }
}
