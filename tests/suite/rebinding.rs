//! Names that change their minds: a resolver that answers differently from one question
//! to the next, and the real client that sends webhooks.
//!
//! 127.0.0.2 plays the address that is allowed, 127.0.0.1 the inside. Both are listened
//! at, on the same port, so that whoever is let through would be heard.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use vitals::delivery::webhook::guard::{Guard, Resolver};

const OUTSIDE: &str = "127.0.0.2";
const INSIDE: &str = "127.0.0.1";
const LIMIT: Duration = Duration::from_secs(5);

/// Answers from a script; the last answer for ever.
#[derive(Debug)]
struct Fickle {
    answers: Mutex<Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Fickle {
    fn new(answers: &[&[&str]]) -> Arc<Fickle> {
        let ips = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = Mutex::new(answers.iter().rev().map(ips).collect());
        Arc::new(Fickle { answers, asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Resolver for Fickle {
    fn addresses(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        // A port that nobody asked for must not count either.
        let answer = answer.unwrap().into_iter().map(|ip| SocketAddr::new(ip, 22)).collect();
        Box::pin(async move { Ok(answer) })
    }
}

/// A place that counts who came. It closes each connection, so that every request has
/// to connect, and to ask for the address, anew.
struct Place {
    heard: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Place {
    async fn at(ip: &str, port: u16) -> io::Result<(Place, u16)> {
        let listener = TcpListener::bind((ip, port)).await?;
        let port = listener.local_addr()?.port();
        let heard = Arc::new(AtomicUsize::new(0));
        let router = Router::new().route(
            "/hook",
            post({
                let heard = heard.clone();
                move || async move {
                    heard.fetch_add(1, Ordering::Relaxed);
                    ([("connection", "close")], "heard")
                }
            }),
        );
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Ok((Place { heard, serving }, port))
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Both places, on one port.
async fn places() -> (Place, Place, u16) {
    for _ in 0..100 {
        let (outside, port) = Place::at(OUTSIDE, 0).await.unwrap();
        if let Ok((inside, _)) = Place::at(INSIDE, port).await {
            return (outside, inside, port);
        }
    }
    panic!("no port is free at both addresses");
}

/// A guard that lets the outside through and asks `names`.
fn guard(names: &Arc<Fickle>) -> Guard {
    let net = format!("{OUTSIDE}/32").parse().unwrap();
    Guard::new(&[net]).with_resolver(names.clone())
}

async fn send(guard: &Guard, client: &reqwest::Client, port: u16) -> Result<u16, String> {
    let url = guard.check_url(&format!("http://hook.hospital.example:{port}/hook")).unwrap();
    let sent = client.post(url).timeout(LIMIT).send().await;
    sent.map(|answer| answer.status().as_u16()).map_err(|error| format!("{error:?}"))
}

fn client(guard: &Guard) -> reqwest::Client {
    let _already = rustls::crypto::ring::default_provider().install_default();
    guard.client().build().unwrap()
}

#[tokio::test]
async fn a_name_that_turns_inwards_between_the_check_and_the_send_is_not_connected_to() {
    let (outside, inside, port) = places().await;
    let names = Fickle::new(&[&[OUTSIDE], &[INSIDE]]);
    let guard = guard(&names);
    let url = guard.check_url(&format!("http://hook.hospital.example:{port}/hook")).unwrap();
    guard.check_resolved(&url).await.unwrap();
    let error = send(&guard, &client(&guard), port).await.unwrap_err();
    assert!(error.contains("loopback"), "{error}");
    assert_eq!((outside.heard(), inside.heard(), names.asked()), (0, 0, 2));
}

#[tokio::test]
async fn what_is_connected_to_is_the_address_that_was_judged_and_no_second_answer() {
    let (outside, inside, port) = places().await;
    // Every other answer is the inside: were the name resolved again after it was
    // judged, the second answer would be the one connected to.
    let names = Fickle::new(&[&[OUTSIDE], &[INSIDE], &[OUTSIDE], &[INSIDE]]);
    let guard = guard(&names);
    let client = client(&guard);
    assert_eq!(send(&guard, &client, port).await, Ok(200));
    assert_eq!((outside.heard(), inside.heard(), names.asked()), (1, 0, 1));
    assert!(send(&guard, &client, port).await.unwrap_err().contains("loopback"));
    assert_eq!(send(&guard, &client, port).await, Ok(200));
    assert!(send(&guard, &client, port).await.is_err());
    assert_eq!((outside.heard(), inside.heard(), names.asked()), (2, 0, 4));
}

#[tokio::test]
async fn of_a_mixed_answer_only_what_is_permitted_is_tried() {
    let (outside, inside, port) = places().await;
    for answer in [[INSIDE, OUTSIDE], [OUTSIDE, INSIDE]] {
        let guard = guard(&Fickle::new(&[&answer]));
        assert_eq!(send(&guard, &client(&guard), port).await, Ok(200));
    }
    // In v6 clothes as well, and also where the permitted one does not answer.
    drop(outside);
    for answer in [[OUTSIDE, "::ffff:127.0.0.1"], ["::ffff:127.0.0.1", OUTSIDE], [OUTSIDE, "::1"]] {
        let guard = guard(&Fickle::new(&[&answer]));
        assert!(send(&guard, &client(&guard), port).await.is_err());
    }
    assert_eq!(inside.heard(), 0);
}
