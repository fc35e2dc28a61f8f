//! Delivery by a transport that is no HTTP: a box in memory. Claims, retries, order, numbers,
//! the breaker, fallbacks, disabling and replay are the platform's and not the webhook's.
//!
//! Every endpoint here has the URL of an HTTP receiver that must never hear anything.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use vitals::clock::Clock;
use vitals::consumer::{self, Consumer};
use vitals::delivery::ack::AckLinks;
use vitals::delivery::deliver::Deliverer;
use vitals::delivery::deliveries::{self, AttemptRecord, Delivery};
use vitals::delivery::endpoint::{self, Endpoint, NewEndpoint, Payload};
use vitals::delivery::ping::ping;
use vitals::delivery::replay::{self, ReplayFilter, Replayed};
use vitals::delivery::seal::Seal;
use vitals::delivery::state::{DeliveryState, EndpointState};
use vitals::delivery::transport::{AttemptOutcome, Transport, Verdict};
use vitals::delivery::transport::{Destination, Message, NotSent, SequenceNumber};
use vitals::delivery::webhook::Headers;
use vitals::delivery::webhook::key::{Key, Scheme};
use vitals::delivery::{DeliveryQueue, Fanout, breaker};
use vitals::event::{AlertData, AlertEventKind, Event, Priority};
use vitals::log::Log;
use vitals::vital::Vital;

use crate::hospital::now;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::Receiver;

const SOON: Duration = Duration::from_secs(30);
const TENANT: &str = "ward";

/// A message, as it came.
#[derive(Clone, Debug, PartialEq)]
struct Came {
    id: String,
    number: Option<SequenceNumber>,
    body: Value,
}

/// What came for one endpoint, and what is answered next.
#[derive(Default)]
struct Inbox {
    came: Vec<Came>,
    next: VecDeque<Result<Verdict, NotSent>>,
    always: Option<Verdict>,
}

/// The transport.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<Uuid, Inbox>>>);

impl Transport for Memory {
    async fn send(&self, message: Message<'_>, to: Destination) -> Result<AttemptOutcome, NotSent> {
        self.with(to.endpoint_id, |inbox| {
            let answer = inbox.next.pop_front().or_else(|| inbox.always.clone().map(Ok));
            let verdict = answer.unwrap_or(Ok(Verdict::Delivered))?;
            let (id, number) = (message.id.to_owned(), message.number);
            let body = serde_json::from_str(message.body).unwrap();
            inbox.came.push(Came { id, number, body });
            Ok(AttemptOutcome { verdict, status: None, answer_head: Some("seen".to_owned()) })
        })
    }
}

impl Memory {
    fn with<T>(&self, endpoint: Uuid, f: impl FnOnce(&mut Inbox) -> T) -> T {
        f(self.0.lock().unwrap().entry(endpoint).or_default())
    }

    fn came(&self, endpoint: Uuid) -> Vec<Came> {
        self.with(endpoint, |inbox| inbox.came.clone())
    }

    fn answer_next(
        &self,
        endpoint: Uuid,
        answers: impl IntoIterator<Item = Result<Verdict, NotSent>>,
    ) {
        self.with(endpoint, |inbox| inbox.next.extend(answers));
    }

    fn answer_always(&self, endpoint: Uuid, verdict: Verdict) {
        self.with(endpoint, |inbox| inbox.always = Some(verdict));
    }
}

fn failure(reason: &str) -> Verdict {
    Verdict::Retry { after: None, reason: reason.to_owned() }
}

/// Fan-out and deliverers over a database of their own.
struct Platform {
    database: Database,
    log: Log,
    memory: Memory,
    http: Receiver,
    _stop: DropGuard,
}

impl Platform {
    /// With so many deliverers, each as in a process of its own.
    async fn start(deliverers: usize) -> Platform {
        let database = Database::new().await;
        let (log, memory, stop) =
            (database.log().await, Memory::default(), CancellationToken::new());
        let queues: Vec<DeliveryQueue> =
            (0..deliverers).map(|_| DeliveryQueue::default()).collect();
        let fanout = Arc::new(Fanout::new(queues[0].clone(), AckLinks::new("key"), ""));
        let mut connection = log.pool().acquire().await.unwrap();
        consumer::register(&mut connection, fanout.name(), log.shards()).await.unwrap();
        drop(connection);
        for shard in log.shards() {
            let (fanout, pool) = (fanout.clone(), log.pool().clone());
            tokio::spawn(consumer::run(log.clone(), pool, fanout, shard, None, stop.clone()));
        }
        for queue in queues {
            let (pool, clock) = (log.pool().clone(), Clock::system());
            let deliverer = Deliverer::new(&log, pool, memory.clone(), clock, queue);
            tokio::spawn(deliverer.run(stop.clone()));
        }
        let (http, _stop) = (Receiver::start().await, stop.drop_guard());
        Platform { database, log, memory, http, _stop }
    }

    async fn endpoint(&self, change: impl FnOnce(&mut NewEndpoint)) -> Endpoint {
        let mut new = NewEndpoint {
            tenant: TENANT.to_owned(),
            url: self.http.url.clone(),
            events: vec!["*".to_owned()],
            key: Key::generate(Scheme::Hmac, [7; 32]),
            description: None,
            headers: Headers::default(),
            certificate: None,
            payload: Payload::Full,
            heartbeat_seconds: None,
            fallback: false,
            ordered: false,
        };
        change(&mut new);
        endpoint::create(self.log.pool(), &Seal::default(), &new).await.unwrap()
    }

    async fn say(&self, patient: &str, alert: Uuid, state: AlertEventKind, priority: Priority) {
        let shard = self.log.shard_of(TENANT, patient);
        self.log.append(shard, &[event(patient, alert, state, priority)]).await.unwrap();
    }

    async fn raise(&self, patient: &str, priority: Priority) {
        self.say(patient, Uuid::new_v4(), AlertEventKind::Raised, priority).await;
    }

    /// The deliveries of an endpoint with their attempts, newest first.
    async fn deliveries(&self, endpoint: Uuid) -> Vec<(Delivery, Vec<AttemptRecord>)> {
        let pool = self.log.pool();
        let all = deliveries::list(pool, TENANT, endpoint, None, None, 1_000).await.unwrap();
        let mut whole = Vec::new();
        for delivery in all {
            whole.extend(deliveries::get(pool, TENANT, delivery.id).await.unwrap());
        }
        whole
    }

    /// The same, when all of so many are over.
    async fn over(&self, endpoint: Uuid, count: usize) -> Vec<(Delivery, Vec<AttemptRecord>)> {
        eventually("the deliveries to be over", SOON, || async {
            let all = self.deliveries(endpoint).await;
            let over = all.iter().all(|(d, _)| d.state != DeliveryState::Pending);
            (over && all.len() == count).then_some(all)
        })
        .await
    }

    /// What came, when it is so many.
    async fn came(&self, endpoint: Uuid, count: usize) -> Vec<Came> {
        eventually("messages to come", SOON, || async {
            let came = self.memory.came(endpoint);
            (came.len() >= count).then_some(came)
        })
        .await
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.http.deliveries().is_empty(), "something went by HTTP");
        }
    }
}

fn event(patient: &str, alert_id: Uuid, state: AlertEventKind, priority: Priority) -> Event {
    let data = AlertData {
        v: 1,
        alert_id,
        state,
        rule: "restless".into(),
        rule_version: 1,
        event: "RESTLESS".into(),
        priority,
        vital: Vital::HeartRate,
        value: 131.0,
        unit: "/min".into(),
        measured_at: now(),
        device_id: "watch-7".into(),
        reading_position: 1,
        since: now(),
        nth: None,
        by: None,
        silent_device: None,
        silenced_by: None,
        because: None,
        traceparent: None,
        tracestate: None,
    };
    Event {
        tenant: TENANT.into(),
        patient_id: patient.to_owned(),
        kind: "RESTLESS".into(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: now(),
        source_id: "restless".into(),
        data: Some(serde_json::to_string(&data).unwrap()),
    }
}

#[tokio::test]
async fn everything_is_claimed_once_numbered_without_a_gap_and_what_failed_is_tried_again() {
    let platform = Platform::start(2).await;
    let endpoint = platform.endpoint(|_| {}).await.id;
    platform.memory.answer_next(endpoint, (0..8).map(|_| Ok(failure("not now"))));
    for n in 0..60 {
        platform.raise(&format!("p{n}"), Priority::Medium).await;
    }
    let all = platform.over(endpoint, 60).await;
    let came = platform.memory.came(endpoint);
    assert_eq!(came.len(), 68, "nothing twice but what failed");
    let ids: BTreeSet<&str> = came.iter().map(|came| &*came.id).collect();
    let numbers: BTreeSet<i64> = came.iter().map(|came| came.number.unwrap().sequence).collect();
    assert_eq!((ids.len(), numbers), (60, (1..=60).collect()));
    let incarnation = platform.log.incarnations().number();
    assert!(came.iter().all(|came| came.number.unwrap().incarnation == incarnation));
    let attempts: Vec<&AttemptRecord> = all.iter().flat_map(|(_, attempts)| attempts).collect();
    let failed = attempts.iter().filter(|a| a.error.as_deref() == Some("not now")).count();
    assert_eq!((attempts.len(), failed), (68, 8), "each attempt is on record");
    assert!(attempts.iter().all(|a| a.answer_head.as_deref() == Some("seen")));
    assert!(all.iter().all(|(d, a)| d.attempts as usize == a.len()));
}

#[tokio::test]
async fn an_alert_goes_out_in_order_where_that_is_wanted() {
    let platform = Platform::start(1).await;
    let endpoint = platform.endpoint(|new| new.ordered = true).await.id;
    platform.memory.answer_next(endpoint, [Ok(failure("no")), Ok(failure("no"))]);
    let alert = Uuid::new_v4();
    for state in [AlertEventKind::Raised, AlertEventKind::Cleared] {
        platform.say("101", alert, state, Priority::High).await;
    }
    let came = platform.came(endpoint, 4).await;
    let states: Vec<&Value> = came.iter().map(|came| &came.body["state"]).collect();
    assert_eq!(states, ["raised", "raised", "raised", "cleared"]);
    assert!(came[1] == came[0] && came[2] == came[0], "the same message at each attempt");
}

#[tokio::test]
async fn the_breaker_opens_hands_over_to_the_fallback_probes_and_closes() {
    let platform = Platform::start(1).await;
    let endpoint = platform.endpoint(|_| {}).await.id;
    let in_its_place = |new: &mut NewEndpoint| (new.fallback, new.events) = (true, Vec::new());
    let fallback = platform.endpoint(in_its_place).await.id;
    platform.memory.answer_always(endpoint, failure("it is away"));
    platform.raise("101", Priority::High).await;
    let handed_over = platform.came(fallback, 2).await;
    assert!(platform.memory.came(endpoint).len() >= 3, "three failures open it");
    let of = |came: &[Came], event: &str| {
        came.iter().find(|came| came.body["type"] == event).cloned().unwrap()
    };
    let (page, notice) = (of(&handed_over, "RESTLESS"), of(&handed_over, "ENDPOINT_UNREACHABLE"));
    let first = platform.memory.came(endpoint).remove(0);
    assert_eq!((&page.id, &page.body), (&first.id, &first.body));
    assert_eq!(notice.body["reason"], "it is away");
    let broken = breaker::of_tenant(platform.log.pool(), TENANT).await.unwrap();
    assert_eq!((broken.len(), broken[0].endpoint_id), (1, endpoint));

    platform.memory.answer_always(endpoint, Verdict::Delivered);
    let all = platform.over(endpoint, 1).await;
    assert_eq!(all[0].0.state, DeliveryState::Delivered);
    let told = platform.came(fallback, 3).await;
    of(&told, "ENDPOINT_REACHABLE");
    assert_eq!(breaker::count(platform.log.pool()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_disabled_and_its_deliveries_end() {
    let platform = Platform::start(1).await;
    let endpoint = platform.endpoint(|_| {}).await.id;
    let reason = "the box was closed";
    platform.memory.answer_always(endpoint, Verdict::Gone { reason: reason.to_owned() });
    platform.raise("101", Priority::Medium).await;
    let all = platform.over(endpoint, 1).await;
    assert_eq!((all[0].0.state, all[0].0.reason.as_deref()), (DeliveryState::Dead, Some(reason)));
    let row = endpoint::get(platform.log.pool(), TENANT, endpoint).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason.as_deref()), (EndpointState::Disabled, Some(reason)));
    let said: i64 =
        sqlx::query_scalar("select count(*) from event where type = 'ENDPOINT_DISABLED'")
            .fetch_one(&platform.database.pool())
            .await
            .unwrap();
    assert_eq!(said, 1);
}

#[tokio::test]
async fn what_is_replayed_goes_out_again_to_the_letter_and_under_its_number() {
    let platform = Platform::start(1).await;
    let endpoint = platform.endpoint(|_| {}).await.id;
    let start = now();
    platform.raise("101", Priority::Medium).await;
    platform.raise("102", Priority::Medium).await;
    let first = platform.over(endpoint, 2).await;
    replay::one(platform.log.pool(), TENANT, first[0].0.id).await.unwrap();
    platform.came(endpoint, 3).await;
    platform.over(endpoint, 2).await;
    let range = ReplayFilter { from: start, to: now(), state: None, event: None };
    let replayed = replay::range(platform.log.pool(), TENANT, endpoint, &range).await.unwrap();
    assert_eq!(replayed, Replayed::Due(2));
    let came = platform.came(endpoint, 5).await;
    for came in &came {
        assert!(platform.memory.came(endpoint)[..2].contains(came), "{came:?}");
    }
    let again = platform.over(endpoint, 2).await;
    let mut attempts: Vec<usize> = again.iter().map(|(_, attempts)| attempts.len()).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [2, 3]);
}

#[tokio::test]
async fn what_could_not_be_sent_from_here_is_no_attempt() {
    let platform = Platform::start(1).await;
    let endpoint = platform.endpoint(|_| {}).await.id;
    let lack = || Err(NotSent("no memory".to_owned()));
    platform.memory.answer_next(endpoint, [lack(), lack(), lack(), lack()]);
    platform.raise("101", Priority::High).await;
    let all = platform.over(endpoint, 1).await;
    assert_eq!((all[0].0.attempts, all[0].1.len()), (1, 1));
    assert_eq!(breaker::count(platform.log.pool()).await.unwrap(), 0, "nor the receiver's doing");
}

#[tokio::test]
async fn a_ping_goes_the_same_way_and_has_no_number() {
    let platform = Platform::start(1).await;
    let endpoint = platform.endpoint(|_| {}).await;
    platform.memory.answer_next(endpoint.id, [Ok(failure("not now"))]);
    let pinged = ping(&platform.memory, &endpoint, now()).await;
    assert_eq!(pinged.outcome.error(), Some("not now"));
    let came = platform.memory.came(endpoint.id);
    assert_eq!((came.len(), came[0].number, &came[0].id), (1, None, &pinged.webhook_id));
    assert_eq!(came[0].body["type"], json!("PING"));
    assert!(platform.deliveries(endpoint.id).await.is_empty());
}
