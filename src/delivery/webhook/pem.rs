//! PEM texts of which a part is shown to people.
//!
//! Guarantees that of a text with certificates nothing is shown but these. Does not read a
//! certificate.

/// What a block of PEM begins with.
const BEGIN: &str = "-----BEGIN ";
const CERTIFICATE_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";

/// The kind of a block that is no certificate, as `RSA PRIVATE KEY`, if there is one.
pub fn what_else(text: &str) -> Option<&str> {
    let mut kinds = text.match_indices(BEGIN).map(|(at, _)| {
        let kind = &text[at + BEGIN.len()..];
        kind.split("-----").next().unwrap_or(kind).trim()
    });
    let other = kinds.find(|kind| *kind != "CERTIFICATE");
    // Also where its frame was broken: it is not to be read.
    other.or_else(|| text.contains("PRIVATE KEY").then_some("PRIVATE KEY"))
}

/// The certificates of a text, and nothing that stands around them.
pub fn certificates_only(text: &str) -> String {
    let mut certificates = String::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(CERTIFICATE_BEGIN)
        && let Some((body, after)) = after.split_once(CERTIFICATE_END)
    {
        if !body.contains('-') {
            certificates += &format!("{CERTIFICATE_BEGIN}{body}{CERTIFICATE_END}\n");
        }
        rest = after;
    }
    certificates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: &str, body: &str) -> String {
        format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
    }

    #[test]
    fn of_a_text_with_a_key_in_it_only_the_certificates_are_shown() {
        let chain = block("CERTIFICATE", "MIIB") + &block("CERTIFICATE", "MIIC");
        assert_eq!((certificates_only(&chain), what_else(&chain)), (chain.clone(), None));
        for kind in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            let mixed = block(kind, "c2VjcmV0") + &chain + "Bag Attributes: secret\n";
            assert_eq!((certificates_only(&mixed), what_else(&mixed)), (chain.clone(), Some(kind)));
        }
        assert_eq!(what_else(&block("EC PARAMETERS", "x")), Some("EC PARAMETERS"));
        assert_eq!(what_else("--- BEGIN RSA PRIVATE KEY"), Some("PRIVATE KEY"));
        let within =
            format!("{CERTIFICATE_BEGIN}\n{}{CERTIFICATE_END}", block("PRIVATE KEY", "c2"));
        assert_eq!(certificates_only(&within), "");
    }
}
