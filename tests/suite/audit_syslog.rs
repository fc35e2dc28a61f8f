//! Accesses told to a syslog receiver over TLS: one that is away at first, comes, breaks the
//! connection, and comes back.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connections::metric;
use crate::hospital::Hospital;
use crate::support::postgres::Database;
use crate::support::server::{Server, TENANT, client_builder};
use crate::support::{eventually, scratch_dir};
use crate::tls::{Authority, LOCAL};

const SOON: Duration = Duration::from_secs(60);

/// A receiver of syslog.
struct Syslog {
    acceptor: TlsAcceptor,
    listener: TcpListener,
}

impl Syslog {
    async fn listen(authority: &Authority, address: &str) -> Syslog {
        let chain = std::fs::read(authority.pem("syslog")).unwrap();
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().unwrap();
        let key = std::fs::read(authority.key("syslog")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let _provider = client_builder();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        Syslog { acceptor: config.into(), listener }
    }

    async fn accept(&self) -> BufReader<TlsStream<TcpStream>> {
        let accepted = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            BufReader::new(self.acceptor.accept(stream).await.unwrap())
        };
        tokio::time::timeout(SOON, accepted).await.expect("somebody connects")
    }
}

/// A frame, taken by its length; then the next ones, until one holds all of this.
async fn read_until(stream: &mut BufReader<TlsStream<TcpStream>>, parts: &[&str]) -> String {
    let reading = async {
        loop {
            let mut length = Vec::new();
            stream.read_until(b' ', &mut length).await.unwrap();
            let length: usize = String::from_utf8(length).unwrap().trim_end().parse().unwrap();
            let mut line = vec![0; length];
            stream.read_exact(&mut line).await.unwrap();
            let line = String::from_utf8(line).unwrap();
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap_or_else(|_| panic!("no line has {parts:?}"))
}

#[tokio::test]
async fn a_receiver_that_was_away_is_told_everything_and_again_after_a_break() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let authority = Authority::new(&dir, "ca").await;
    authority.sign("syslog", "/CN=syslog", LOCAL, 90).await;
    // A port that nobody listens at, for now.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (place, ca) = (format!("tls://{address}"), authority.pem("ca"));
    let options = ["--audit-syslog", &place, "--audit-syslog-ca", &ca];
    let server = Server::start_with(&database, &options).await;
    let hospital = Hospital::new(&server, TENANT);
    let (status, _) = hospital.put("/patients/101/record", &json!({ "ward": "4B" })).await;
    assert_eq!(status, 200, "a receiver that is away holds up nothing");
    eventually("that it is away to be counted", SOON, async || {
        let errors = metric(&server, "vitals_audit_syslog_errors_total").await;
        (errors >= 1.0).then_some(())
    })
    .await;

    let receiver = Syslog::listen(&authority, &address).await;
    let change = ["action", "patientId=\"101\"", "method=\"PUT\"", "subject=\"tester\""];
    let mut stream = receiver.accept().await;
    let line = read_until(&mut stream, &change[1..]).await;
    assert!(line.starts_with("<109>1 "), "log audit, notice: {line}");
    assert!(
        line.contains(" change [vitals@32473 id=\"") && line.contains("status=\"200\""),
        "{line}"
    );
    // It breaks before that has settled: it is told again, under its id.
    drop(stream);
    let mut stream = receiver.accept().await;
    assert_eq!(read_until(&mut stream, &change[1..]).await, line);
    let (status, _) = hospital.put("/patients/102/record", &json!({ "ward": "4B" })).await;
    assert_eq!(status, 200);
    read_until(&mut stream, &["patientId=\"102\""]).await;
    // Another process goes on with it when this one ends.
    let (status, _) = hospital.get("/patients/103").await;
    assert_eq!(status, 404);
    let other = Server::start_with(&database, &options).await;
    assert!(server.terminate().await.0.success());
    let mut stream = receiver.accept().await;
    read_until(&mut stream, &["patientId=\"103\"", "status=\"404\"", "<108>1 "]).await;
    drop(other);
}

#[tokio::test]
async fn who_is_not_whom_it_should_be_is_told_nothing() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let authority = Authority::new(&dir, "ca").await;
    authority.sign("syslog", "/CN=syslog", "DNS:another.example", 90).await;
    let receiver = Syslog::listen(&authority, "127.0.0.1:0").await;
    let place = format!("tls://{}", receiver.listener.local_addr().unwrap());
    let ca = authority.pem("ca");
    let options = ["--audit-syslog", &place, "--audit-syslog-ca", &ca];
    let server = Server::start_with(&database, &options).await;
    let (stream, _) = receiver.listener.accept().await.unwrap();
    assert!(receiver.acceptor.accept(stream).await.is_err());
    eventually("it to be counted", SOON, async || {
        let errors = metric(&server, "vitals_audit_syslog_errors_total").await;
        (errors >= 1.0).then_some(())
    })
    .await;
    for (options, why) in [
        (["--audit-syslog", "tcp://10.0.0.1:601"], "in the clear only to this machine"),
        (["--audit-syslog-ca", &ca], "name both"),
        (["--audit-reads", "some"], "all, none, or one in so many"),
    ] {
        let dir = scratch_dir();
        let said = Server::try_start_in(&dir, Some(&database.url), &options).await.err();
        assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{options:?}: {said:?}");
    }
}
