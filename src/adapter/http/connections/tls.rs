//! TLS: the certificate that is shown, whose certificates are taken, and both anew when their
//! files change.
//!
//! Guarantees that files which are half written, do not belong together or cannot be read
//! leave the last ones in force, and that this is told; that a new certificate ends no
//! connection; and that whom a new map or authority no longer lets in is not served for
//! longer than [`TRUST_MS`]. Private keys are in no error and no line of the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::sync::CancellationToken;

use crate::auth::{Caller, Certificate, ClientMap, Denied, Revocations, file};

/// How often the files are looked at.
const FILE_MS: u64 = 2_000;
/// How long requests of a connection may still take, once whom it trusts has changed.
pub const TRUST_MS: u64 = 10_000;
/// The largest of the files.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// What is spoken, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Which files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM: the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// PEM: who signs the certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// A client may show none: then it sends a token.
    pub is_client_optional: bool,
    /// A [`ClientMap`].
    pub clients: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TlsError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {why}", path = path.display())]
    File { path: PathBuf, why: String },
    #[error("the certificate {certificate} and the key {key}: {source}",
        certificate = certificate.display(), key = key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// TLS as it is now.
pub struct Tls {
    files: TlsFiles,
    revocations: Arc<Revocations>,
    current: RwLock<Arc<Current>>,
}

/// What one reading of the files gave.
pub struct Current {
    read: Contents,
    acceptor: TlsAcceptor,
    clients: Option<ClientMap>,
    expires_at: DateTime<Utc>,
    /// Cancelled when others are trusted.
    pub distrusted: CancellationToken,
    revocations: Arc<Revocations>,
}

/// The files' contents.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// Whom it is taken from.
    trust: (Option<Vec<u8>>, Option<Vec<u8>>),
}

/// Who showed a certificate, on a connection's every request.
#[derive(Clone, Debug)]
pub struct CertificateCaller(pub Result<Arc<Caller>, Denied>);

impl Tls {
    /// Reads the files. Whoever is revoked is no caller, whatever certificate they show.
    pub async fn open(files: TlsFiles, revocations: Arc<Revocations>) -> Result<Tls, TlsError> {
        let read = Contents::read(&files).await?;
        let current = Current::of(&files, read, CancellationToken::new(), revocations.clone())?;
        current.tell();
        Ok(Tls { files, revocations, current: RwLock::new(Arc::new(current)) })
    }

    /// What a new connection is met with.
    pub fn current(&self) -> Arc<Current> {
        self.current.read().clone()
    }

    /// Until when the certificate that is shown is good.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.current.read().expires_at
    }

    /// Looks at the files for ever.
    pub async fn keep(self: Arc<Tls>) {
        let mut failed = None;
        loop {
            tokio::time::sleep(Duration::from_millis(FILE_MS)).await;
            match self.look().await {
                Ok(()) => failed = None,
                Err(error) => {
                    let said = Some(error.to_string());
                    // While it lasts it is said once, and counted each time.
                    if said != failed {
                        tracing::error!(%error, "the last certificate stays: this one cannot be used");
                        failed = said;
                    }
                    metrics::counter!("vitals_tls_reload_failures_total").increment(1);
                }
            }
        }
    }

    async fn look(&self) -> Result<(), TlsError> {
        let read = Contents::read(&self.files).await?;
        let before = self.current();
        if read == before.read {
            return Ok(());
        }
        let is_same_trust = read.trust == before.read.trust;
        let distrusted = match is_same_trust {
            true => before.distrusted.clone(),
            false => CancellationToken::new(),
        };
        let current = Current::of(&self.files, read, distrusted, self.revocations.clone())?;
        current.tell();
        *self.current.write() = Arc::new(current);
        if !is_same_trust {
            before.distrusted.cancel();
        }
        tracing::info!("the certificate, or whose certificates are taken, was read anew");
        Ok(())
    }
}

impl Contents {
    async fn read(files: &TlsFiles) -> Result<Contents, TlsError> {
        let optional = async |path: &Option<PathBuf>| match path {
            Some(path) => read(path).await.map(Some),
            None => Ok(None),
        };
        Ok(Contents {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
            trust: (optional(&files.client_ca).await?, optional(&files.clients).await?),
        })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let wrong = |source| TlsError::Read { path: path.to_owned(), source };
    file::read(path, FILE_BYTES_MAX).await.map_err(wrong)
}

fn fault(path: &Path, why: impl ToString) -> TlsError {
    TlsError::File { path: path.to_owned(), why: why.to_string() }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(fault(path, "there is no PEM certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(fault(path, error)),
    }
}

impl Current {
    fn of(
        files: &TlsFiles,
        read: Contents,
        distrusted: CancellationToken,
        revocations: Arc<Revocations>,
    ) -> Result<Current, TlsError> {
        let chain = certificates(&files.certificate, &read.certificate)?;
        let own = chain.first().map(Certificate::read);
        let expires_at = match own {
            Some(Ok(certificate)) => certificate.expires_at,
            Some(Err(error)) => return Err(fault(&files.certificate, error)),
            None => return Err(fault(&files.certificate, "there is no PEM certificate in it")),
        };
        let key = PrivateKeyDer::from_pem_slice(&read.key)
            .map_err(|_| fault(&files.key, "there is no PEM private key in it"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair = |source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match (&files.client_ca, &read.trust.0) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, pem)? {
                    roots.add(authority).map_err(|error| fault(path, error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match files.is_client_optional {
                    true => verifier.allow_unauthenticated(),
                    false => verifier,
                };
                let verifier = verifier.build().map_err(|error| fault(path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let clients = match (&files.clients, &read.trust.1) {
            (Some(path), Some(text)) => {
                let text = std::str::from_utf8(text).map_err(|error| fault(path, error))?;
                Some(ClientMap::parse(text).map_err(|error| fault(path, error))?)
            }
            _ => None,
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Current { read, acceptor, clients, expires_at, distrusted, revocations })
    }

    fn tell(&self) {
        metrics::gauge!("vitals_tls_certificate_expires_seconds")
            .set(self.expires_at.timestamp() as f64);
    }

    /// Meets a new connection.
    pub fn accept(&self, stream: TcpStream) -> Accept<TcpStream> {
        self.acceptor.accept(stream)
    }

    /// Who is at the other end, if it showed a certificate and certificates stand for callers.
    pub fn caller(&self, stream: &TlsStream<TcpStream>) -> Option<CertificateCaller> {
        let shown = stream.get_ref().1.peer_certificates()?.first()?;
        let clients = self.clients.as_ref()?;
        let caller = match Certificate::read(shown) {
            Ok(certificate) => clients.caller(&certificate, &self.revocations),
            Err(error) => Err(Denied::Unauthorised(error.to_string())),
        };
        Some(CertificateCaller(caller))
    }
}

/// Whether HTTP/2 was agreed on.
pub fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
