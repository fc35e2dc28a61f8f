//! The hospital's side of the demo: a receiver that believes no delivery unverified.
//!
//! Guarantees that what it counts as verified carried a good signature over exactly
//! the bytes received, was fresh, and came for the first time among the last
//! [`DELIVERIES_MAX`]; everything else is counted apart, so that a summary can tell.
//! Listens on this machine only. Does not keep anything over a restart and does not
//! know what ought to come: the demo compares.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::clock::Clock;
use crate::delivery::webhook::sign::{
    ID_HEADER, SIGNATURE_HEADER, Secret, Signed, TIMESTAMP_HEADER, TOLERANCE_S, verify,
};
use crate::event::AlertEventKind;

/// The largest delivery that is read; ours have well under one KiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// How many verified deliveries are remembered; the oldest is forgotten first. A
/// repeat of a forgotten one counts as new.
pub const DELIVERIES_MAX: usize = 50_000;
/// The longest `webhook-id` that is remembered.
pub const ID_BYTES_MAX: usize = 256;
/// How long requests under way may take to end when the receiver stops.
pub const STOP_MS_MAX: u64 = 2_000;

/// A delivery that was verified and new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The same over retries and replays.
    pub webhook_id: String,
    /// Of the body; a ping has none.
    pub alert_id: Option<Uuid>,
    /// Of the body; a ping has none.
    pub state: Option<AlertEventKind>,
    /// Of the body: whose reading it was about.
    pub patient_id: Option<String>,
    /// Of the body: when that reading was measured.
    pub measured_at: Option<DateTime<Utc>>,
    /// When its last byte was here, before it was verified.
    pub received_at: DateTime<Utc>,
}

/// What came, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Verified and new.
    pub verified: u64,
    /// Verified, with a `webhook-id` that had been seen.
    pub repeats: u64,
    /// Another secret's signature, or none, or changed on the way, or not fresh.
    pub bad_signatures: u64,
    /// Verified, and yet not the JSON that the contract promises.
    pub unreadable: u64,
}

/// A running receiver. Stops when it is dropped, too, but then nobody waits for it.
#[derive(Debug)]
pub struct Receiver {
    /// Where to deliver to.
    pub url: String,
    shared: Arc<Shared>,
    running: DropGuard,
    server: JoinHandle<io::Result<()>>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1. Until [`Receiver::set_secret`] every
    /// delivery is asked to come again.
    pub async fn start(clock: Clock) -> io::Result<Receiver> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let shared = Arc::new(Shared { clock, totals: Mutex::default() });
        let router = Router::new()
            .route("/hook", post(receive))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(shared.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let server = axum::serve(listener, router).with_graceful_shutdown(stopped);
        let server = tokio::spawn(async move { server.await });
        Ok(Receiver { url, shared, running: stop.drop_guard(), server })
    }

    /// The endpoint's secret, as it was told when the endpoint was made or rotated.
    pub fn set_secret(&self, secret: Secret) {
        self.shared.totals().secret = Some(secret);
    }

    /// What came so far.
    pub fn counts(&self) -> Counts {
        self.shared.totals().counts
    }

    /// The verified deliveries in the order in which they came, the last
    /// [`DELIVERIES_MAX`] of them.
    pub fn deliveries(&self) -> Vec<Received> {
        self.shared.totals().received.iter().cloned().collect()
    }

    /// Takes no more, and ends when what is under way is answered, or after
    /// [`STOP_MS_MAX`].
    pub async fn stop(self) -> io::Result<()> {
        let Receiver { running, mut server, .. } = self;
        drop(running);
        match tokio::time::timeout(Duration::from_millis(STOP_MS_MAX), &mut server).await {
            Ok(ended) => ended.map_err(io::Error::other)?,
            Err(_late) => {
                server.abort();
                Ok(())
            }
        }
    }
}

/// Where deliveries are taken.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    totals: Mutex<Totals>,
}

impl Shared {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock()
    }
}

/// What the receiver knows.
#[derive(Debug, Default)]
struct Totals {
    secret: Option<Secret>,
    counts: Counts,
    received: VecDeque<Received>,
    seen: HashSet<String>,
}

impl Totals {
    /// Enters a verified delivery.
    fn enter(&mut self, received: Received) {
        if !self.seen.insert(received.webhook_id.clone()) {
            self.counts.repeats += 1;
            return;
        }
        self.counts.verified += 1;
        self.received.push_back(received);
        if self.received.len() > DELIVERIES_MAX
            && let Some(oldest) = self.received.pop_front()
        {
            self.seen.remove(&oldest.webhook_id);
        }
    }
}

/// What the receiver reads of a body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    alert_id: Option<Uuid>,
    state: Option<AlertEventKind>,
    patient_id: Option<String>,
    measured_at: Option<DateTime<Utc>>,
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let received_at = shared.clock.now();
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let signed = Signed {
        id: header(ID_HEADER),
        timestamp: header(TIMESTAMP_HEADER),
        signature: header(SIGNATURE_HEADER),
    };
    // Verified outside the lock, so that deliveries do not wait for each other.
    let Some(secret) = shared.totals().secret.clone() else {
        return StatusCode::SERVICE_UNAVAILABLE;
    };
    let verified = verify(&secret, signed, &body, received_at.timestamp(), TOLERANCE_S);
    if let Err(error) = verified {
        tracing::warn!(%error, webhook_id = signed.id, "a delivery was not believed");
        shared.totals().counts.bad_signatures += 1;
        return StatusCode::UNAUTHORIZED;
    }
    match serde_json::from_slice(&body) {
        Ok(Body { alert_id, state, patient_id, measured_at })
            if (1..=ID_BYTES_MAX).contains(&signed.id.len()) =>
        {
            let webhook_id = signed.id.to_owned();
            let received =
                Received { webhook_id, alert_id, state, patient_id, measured_at, received_at };
            shared.totals().enter(received);
            StatusCode::NO_CONTENT
        }
        _ => {
            shared.totals().counts.unreadable += 1;
            StatusCode::BAD_REQUEST
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    const ALERT: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn secret() -> Secret {
        Secret::generate([5; 32])
    }

    fn body() -> String {
        format!(r#"{{"type":"HIGH_HEART_RATE","alertId":"{ALERT}","state":"raised","value":130}}"#)
    }

    /// What the platform sends.
    fn delivery(receiver: &Receiver, by: &Secret, id: &str, body: &str) -> reqwest::RequestBuilder {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let now = Clock::system().now().timestamp();
        reqwest::Client::new()
            .post(&receiver.url)
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, now)
            .header(SIGNATURE_HEADER, by.sign(id, now, body.as_bytes()))
            .body(body.to_owned())
    }

    async fn send(request: reqwest::RequestBuilder) -> u16 {
        request.send().await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn a_delivery_is_verified_once_and_then_a_repeat() {
        let receiver = Receiver::start(Clock::system()).await.unwrap();
        receiver.set_secret(secret());
        let before = Clock::system().now();
        assert_eq!(send(delivery(&receiver, &secret(), "m1", &body())).await, 204);
        assert_eq!(send(delivery(&receiver, &secret(), "m1", &body())).await, 204);
        assert_eq!(receiver.counts(), Counts { verified: 1, repeats: 1, ..Counts::default() });
        let deliveries = receiver.deliveries();
        assert_eq!(deliveries.len(), 1);
        let received = &deliveries[0];
        assert_eq!(received.webhook_id, "m1");
        assert_eq!(received.alert_id, Some(ALERT.parse().unwrap()));
        assert_eq!(received.state, Some(AlertEventKind::Raised));
        assert!(received.received_at >= before && received.received_at <= Clock::system().now());
        receiver.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_believed_is_refused_and_counted_apart() {
        let receiver = Receiver::start(Clock::system()).await.unwrap();
        receiver.set_secret(secret());
        let other = Secret::generate([6; 32]);
        assert_eq!(send(delivery(&receiver, &other, "m1", &body())).await, 401);
        let changed = delivery(&receiver, &secret(), "m1", &body()).body("{}");
        assert_eq!(send(changed).await, 401);
        assert_eq!(send(reqwest::Client::new().post(&receiver.url).body("{}")).await, 401);
        assert_eq!(send(delivery(&receiver, &secret(), "m1", "no JSON")).await, 400);
        assert_eq!(send(delivery(&receiver, &secret(), "", &body())).await, 400);
        let expect = Counts { bad_signatures: 3, unreadable: 2, ..Counts::default() };
        assert_eq!(receiver.counts(), expect);
        assert_eq!(receiver.deliveries(), []);
        receiver.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_recording_played_later_is_refused() {
        let later = Clock::shifted(TimeDelta::seconds(TOLERANCE_S as i64 + 60));
        let receiver = Receiver::start(later).await.unwrap();
        receiver.set_secret(secret());
        assert_eq!(send(delivery(&receiver, &secret(), "m1", &body())).await, 401);
        assert_eq!(receiver.counts().bad_signatures, 1);
    }

    #[tokio::test]
    async fn before_the_secret_is_known_a_delivery_is_asked_to_come_again() {
        let receiver = Receiver::start(Clock::system()).await.unwrap();
        assert_eq!(send(delivery(&receiver, &secret(), "m1", &body())).await, 503);
        assert_eq!(receiver.counts(), Counts::default());
        receiver.set_secret(secret());
        assert_eq!(send(delivery(&receiver, &secret(), "m1", &body())).await, 204);
    }

    #[tokio::test]
    async fn a_ping_without_an_alert_is_verified_and_a_huge_body_is_not_read() {
        let receiver = Receiver::start(Clock::system()).await.unwrap();
        receiver.set_secret(secret());
        assert_eq!(send(delivery(&receiver, &secret(), "m1", r#"{"type":"ping"}"#)).await, 204);
        assert_eq!(receiver.deliveries()[0].alert_id, None);
        let huge = "x".repeat(BODY_BYTES_MAX + 1);
        assert_eq!(send(delivery(&receiver, &secret(), "m2", &huge)).await, 413);
    }

    #[test]
    fn memory_is_bounded_and_the_last_deliveries_are_kept() {
        let mut state = Totals::default();
        for n in 0..DELIVERIES_MAX + 2 {
            state.enter(Received {
                webhook_id: n.to_string(),
                alert_id: None,
                state: None,
                patient_id: None,
                measured_at: None,
                received_at: DateTime::UNIX_EPOCH,
            });
        }
        assert_eq!((state.received.len(), state.seen.len()), (DELIVERIES_MAX, DELIVERIES_MAX));
        assert_eq!(state.counts.verified, DELIVERIES_MAX as u64 + 2);
        assert_eq!(state.received[0].webhook_id, "2");
        assert!(!state.seen.contains("1"));
    }

    /// Not by connecting again: another test may listen on the freed port by then.
    #[tokio::test]
    async fn after_a_stop_nothing_is_left_running() {
        let receiver = Receiver::start(Clock::system()).await.unwrap();
        receiver.set_secret(secret());
        let client = delivery(&receiver, &secret(), "m1", &body());
        assert_eq!(send(client).await, 204);
        let shared = receiver.shared.clone();
        assert!(Arc::strong_count(&shared) > 2);
        receiver.stop().await.unwrap();
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
