//! Client certificates, for endpoints that ask for one (mTLS).
//!
//! Guarantees that what was read is a certificate with the key that belongs to it, and that
//! neither is repeated in an error or in debug output. Does not keep them.

use super::builder::client_builder;
use super::guard::Guard;

/// A certificate with its chain, and a key.
pub const PEM_BYTES_MAX: usize = 32 * 1_024;

/// A client certificate and its key, for endpoints that ask for one (mTLS).
#[derive(Clone)]
pub struct Certificate {
    /// PEM: the certificate and its chain.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(hidden)")
    }
}

/// Why they are none.
#[derive(Debug, thiserror::Error)]
#[error("no PEM certificate with the PEM key that belongs to it ({0})")]
pub struct CertificateError(String);

impl Certificate {
    /// Reads both, and tries whether they belong together.
    pub fn read(certificate: String, key: String) -> Result<Certificate, CertificateError> {
        if certificate.len() > PEM_BYTES_MAX || key.len() > PEM_BYTES_MAX {
            return Err(CertificateError(format!("{PEM_BYTES_MAX} bytes each at most")));
        }
        let read = Certificate { certificate, key };
        read.client(&Guard::default()).map(|_| read)
    }

    /// A client that shows it.
    pub(super) fn client(&self, guard: &Guard) -> Result<reqwest::Client, CertificateError> {
        let no = |error: reqwest::Error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            CertificateError(format!("{error}{}", cause.unwrap_or_default()))
        };
        let pem = [&*self.certificate, "\n", &*self.key].concat();
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).map_err(no)?;
        client_builder(guard).identity(identity).build().map_err(no)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_without_being_repeated() {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let read = Certificate::read("nothing".to_owned(), "secret".to_owned());
        let error = read.unwrap_err().to_string();
        assert!(error.starts_with("no PEM certificate") && !error.contains("secret"), "{error}");
    }
}
