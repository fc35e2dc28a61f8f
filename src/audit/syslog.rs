//! Accesses told to a syslog receiver: RFC 5424 over TLS (RFC 5425), or in the clear to this
//! machine.
//!
//! Guarantees that every access of every tenant is written at least once, in the order of its
//! shard, to a receiver that keeps its connections; that one process at a time does it, and
//! another goes on where it stopped; and that a receiver which is away holds up nothing.
//! Syslog acknowledges nothing: an access counts as told when its connection has lived on for
//! [`SETTLED_MS`], by when this machine would have given up on bytes that the other one did
//! not take; before that a broken connection has it told again, under its id. What a receiver
//! took and lost then is lost to it, and is in the log.

mod lease;
mod message;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use self::lease::{Lease, Unsent};
use self::message::Sender;
use crate::clock::Clock;
use crate::log::Log;

/// How long a connection may take to be made.
const CONNECT_MS_MAX: u64 = 10_000;
/// How long a receiver may take nothing of what is written.
const WRITE_MS_MAX: u64 = 10_000;
/// When what was written counts as told.
pub const SETTLED_MS: u64 = 12_000;
/// How long it is tried to get a byte to the other machine: less than that.
#[cfg(target_os = "linux")]
const UNTAKEN_MS_MAX: u32 = 10_000;
/// How often it is looked whether there is more, and the lease is renewed.
const LOOK_MS: u64 = 500;
/// The pause after a connection that was not made, or broke.
const RETRY_MS: u64 = 2_000;

/// Where accesses are told.
#[derive(Clone)]
pub struct Receiver {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whom it has to be, if it is not this machine.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why nothing more is told for now.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the receiver: {0}")]
    Receiver(#[from] io::Error),
    #[error("the log: {0}")]
    Log(#[from] sqlx::Error),
    #[error("another process tells them")]
    Lost,
}

/// Tells accesses until `stop`.
pub async fn export(log: Log, receiver: Receiver, clock: Clock, stop: CancellationToken) {
    let mut lease = Lease::new(log, clock);
    let sender = Sender::of_this_machine();
    let mut said = None;
    while !stop.is_cancelled() {
        let told = match lease.take().await {
            Ok(true) => tell(&mut lease, &receiver, &sender, &stop, &mut said).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = told {
            metrics::counter!("vitals_audit_syslog_errors_total").increment(1);
            // While it lasts it is said once, and counted each time.
            let text = error.to_string();
            if said.as_ref() != Some(&text) {
                tracing::warn!(%error, "accesses are not told to syslog; trying again");
                said = Some(text);
            }
            lease.tell_lag().await;
        }
        stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(RETRY_MS))).await;
    }
    lease.give_back().await;
}

async fn tell(
    lease: &mut Lease,
    receiver: &Receiver,
    sender: &Sender,
    stop: &CancellationToken,
    said: &mut Option<String>,
) -> Result<(), ExportError> {
    let limit = Duration::from_millis(CONNECT_MS_MAX);
    let connecting = async {
        let stream = TcpStream::connect((&*receiver.host, receiver.port)).await?;
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNTAKEN_MS_MAX)?;
        Ok::<_, io::Error>(stream)
    };
    let stream = timeout(limit, connecting).await.map_err(|_| late())??;
    match &receiver.tls {
        None => {
            said.take();
            tell_over(stream, lease, sender, stop).await
        }
        Some(tls) => {
            let name = ServerName::try_from(receiver.host.clone()).map_err(io::Error::other)?;
            let handshake = TlsConnector::from(tls.clone()).connect(name, stream);
            let stream = timeout(limit, handshake).await.map_err(|_| late())??;
            said.take();
            tell_over(stream, lease, sender, stop).await
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}

/// Tells what there is and what comes, until the connection breaks.
async fn tell_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    lease: &mut Lease,
    sender: &Sender,
    stop: &CancellationToken,
) -> Result<(), ExportError> {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut written = lease.told().to_vec();
    let mut unsettled: VecDeque<(Instant, Vec<i64>)> = VecDeque::new();
    while !stop.is_cancelled() {
        let mut is_behind = false;
        for shard in 0..written.len() {
            let Some(after) = written.get_mut(shard) else { continue };
            let Unsent { accesses, upto, is_all } = lease.unsent(shard, *after).await?;
            is_behind |= !is_all;
            let frames: Vec<u8> = accesses.iter().flat_map(|access| sender.frame(access)).collect();
            let writing = async {
                to.write_all(&frames).await?;
                to.flush().await
            };
            timeout(Duration::from_millis(WRITE_MS_MAX), writing).await.map_err(|_| late())??;
            metrics::counter!("vitals_audit_syslog_sent_total").increment(accesses.len() as u64);
            *after = upto;
        }
        if unsettled.back().map_or(lease.told(), |(_, positions)| positions) != written {
            unsettled.push_back((Instant::now(), written.clone()));
        }
        while let Some((_, positions)) =
            unsettled.pop_front_if(|(at, _)| at.elapsed() >= Duration::from_millis(SETTLED_MS))
        {
            lease.settle(positions);
        }
        if !lease.keep().await? {
            return Err(ExportError::Lost);
        }
        if is_behind {
            continue;
        }
        metrics::gauge!("vitals_audit_syslog_lag_seconds").set(0.0);
        // It says nothing; that it ends is heard here.
        let mut word = [0; 64];
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
            heard = from.read(&mut word) => if heard? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended the connection").into());
            },
        }
    }
    Ok(())
}
