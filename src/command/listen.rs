//! Where this process listens, and whether by TLS.
//!
//! Guarantees that what others can reach is not served in the clear unless the operator says
//! so, and that options which mean nothing without each other are refused before anything
//! that takes time.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::error::Error;
use crate::adapter::http::connections::tls::{Tls, TlsFiles};
use crate::auth::Revocations;
use crate::config::Serving;

/// A port that is this process's, with the certificate that is shown there.
pub struct Listening {
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub tls: Option<Arc<Tls>>,
}

impl Listening {
    /// Takes the port.
    pub async fn open(
        serving: &Serving,
        revocations: Arc<Revocations>,
    ) -> Result<Listening, Error> {
        let files = files(serving)?;
        if files.is_none() && !serving.listen.ip().is_loopback() && !serving.plain_http {
            return Err(format!(
                "{} can be reached from other machines, and without TLS anybody on the way reads \
                 tokens and vitals: give --tls-cert and --tls-key; or --plain-http, where a proxy \
                 before it has TLS",
                serving.listen
            )
            .into());
        }
        let listener = TcpListener::bind(serving.listen)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", serving.listen))?;
        let address = listener.local_addr()?;
        let tls = match files {
            Some(files) => Some(Arc::new(Tls::open(files, revocations).await?)),
            None => None,
        };
        Ok(Listening { listener, address, tls })
    }

    /// How it is reached.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

fn files(serving: &Serving) -> Result<Option<TlsFiles>, Error> {
    let client_ca = serving.tls_client_ca.clone();
    let (certificate, key) = match (&serving.tls_cert, &serving.tls_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (Some(_), None) => return Err("--tls-cert needs --tls-key: the certificate's key".into()),
        (None, Some(_)) => return Err("--tls-key needs --tls-cert: the key's certificate".into()),
        (None, None) if client_ca.is_some() => {
            return Err("--tls-client-ca needs --tls-cert and --tls-key".into());
        }
        (None, None) => return Ok(None),
    };
    if client_ca.is_none() && (serving.tls_clients.is_some() || serving.tls_client_optional) {
        return Err("--tls-clients and --tls-client-optional need --tls-client-ca: who signs the \
                    certificates of clients"
            .into());
    }
    Ok(Some(TlsFiles {
        certificate,
        key,
        client_ca,
        is_client_optional: serving.tls_client_optional,
        clients: serving.tls_clients.clone(),
    }))
}
