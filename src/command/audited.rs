//! Who has asked for what: recorded by whoever answers, told elsewhere by a worker.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::error::Error;
use crate::audit::syslog::{Receiver, export};
use crate::audit::{Audit, Reads, start};
use crate::clock::Clock;
use crate::config::{AuditReads, Role, Serving, SyslogPlace};
use crate::log::Log;
use crate::tasks::Tasks;

/// Connections of who records: two appends at one time.
const RECORD_CONNECTIONS_MAX: u32 = 2;

/// Starts recording.
pub fn record(log: &Log, database: &Database, serving: &Serving, tasks: &Tasks) -> Audit {
    let reads = match serving.audit.audit_reads {
        AuditReads::None => Reads::None,
        AuditReads::OneIn(n) => Reads::OneIn(n),
    };
    let log = log.with_pool(database.writer_pool(RECORD_CONNECTIONS_MAX));
    start(log, reads, Clock::system(), tasks)
}

/// Starts telling a syslog receiver, if one is named. What cannot be meant is an error now.
pub fn tell(
    log: &Log,
    database: &Database,
    serving: &Serving,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    let Some(place) = &serving.audit.audit_syslog else {
        return match serving.audit.audit_syslog_ca {
            Some(_) => Err("--audit-syslog-ca is for --audit-syslog: name both".into()),
            None => Ok(()),
        };
    };
    let SyslogPlace { host, port, is_tls } = place.clone();
    let tls = if is_tls { Some(Arc::new(trust(serving)?)) } else { None };
    if serving.roles.contains(&Role::Workers) {
        let log = log.with_pool(database.worker_pool(1));
        let receiver = Receiver { host, port, tls };
        tasks.spawn("who tells syslog", export(log, receiver, Clock::system(), stop.clone()));
    }
    Ok(())
}

/// Whom to take for the receiver: who is signed by the named authority, or by those that this
/// machine trusts.
fn trust(serving: &Serving) -> Result<ClientConfig, Error> {
    let Some(path) = &serving.audit.audit_syslog_ca else {
        return Ok(ClientConfig::with_platform_verifier()?);
    };
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pem = std::fs::read(path).map_err(|error| told(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| told(&error))?;
        roots.add(certificate).map_err(|error| told(&error))?;
    }
    if roots.is_empty() {
        return Err(told(&"it holds no certificate").into());
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
