//! Instances of vitals, and the supervisor that starts them again.
//!
//! Nothing else is done for them: whatever becomes of the database, an instance that
//! was not killed has to come back by itself. One that ends by itself is noted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::clients::Door;
use crate::hospital::Hospital;
use crate::support::pass_time;
use crate::support::server::Server;

/// A supervisor's pause before it starts something again that did not get ready.
const START_AGAIN: Duration = Duration::from_millis(200);
/// What is kept of the last words of one that ended by itself.
const LAST_LINES: usize = 5;

/// What is done to an instance.
#[derive(Debug)]
pub enum Order {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after so long.
    Freeze(Duration),
    /// SIGTERM, and no start after it: whether it ended well.
    Stop(oneshot::Sender<bool>),
}

/// What became of all instances together.
#[derive(Default)]
pub struct Ends {
    /// Kills that hit a running one.
    pub killed: AtomicUsize,
    pub frozen: AtomicUsize,
    /// Starts while the database was away, which end with a clear line.
    pub not_ready: AtomicUsize,
    /// The last words of those that ended by themselves.
    pub by_itself: Mutex<Vec<String>>,
}

/// Where an instance keeps its files, and which database it uses if not one in there.
#[derive(Clone)]
pub struct Seat {
    pub dir: PathBuf,
    pub url: Option<String>,
}

/// A supervised instance.
pub struct Instance {
    pub door: Door,
    orders: mpsc::Sender<Order>,
    supervisor: JoinHandle<()>,
}

impl Instance {
    /// Starts it, and again whenever it ends.
    pub fn start(seat: Seat, tenant: &str, ends: &Arc<Ends>) -> Instance {
        let (door, is_open) = watch::channel(None);
        let (orders, ordered) = mpsc::channel(1);
        let (tenant, ends) = (tenant.to_owned(), ends.clone());
        let supervisor = tokio::spawn(supervise(seat, tenant, ends, door, ordered));
        Instance { door: is_open, orders, supervisor }
    }

    /// Hands in an order; it is carried out when the instance runs.
    pub async fn order(&self, order: Order) {
        self.orders.send(order).await.expect("a supervisor that lives");
    }

    /// Ends it for good: whether it ended well.
    pub async fn stop(self) -> bool {
        let (ended, has_ended) = oneshot::channel();
        self.order(Order::Stop(ended)).await;
        let well = has_ended.await.expect("an end");
        self.supervisor.await.expect("no panic");
        well
    }
}

async fn supervise(
    Seat { dir, url }: Seat,
    tenant: String,
    ends: Arc<Ends>,
    door: watch::Sender<Option<Hospital>>,
    mut orders: mpsc::Receiver<Order>,
) {
    loop {
        let Ok(mut server) = Server::try_start_in(&dir, url.as_deref(), &[]).await else {
            ends.not_ready.fetch_add(1, Ordering::Relaxed);
            pass_time(START_AGAIN).await;
            continue;
        };
        door.send_replace(Some(Hospital::new(&server, &tenant)));
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                status = server.ended() => {
                    let said = server.logged();
                    let lines: Vec<&str> = said.lines().rev().take(LAST_LINES).collect();
                    let last = format!("{status}: {}", lines.join(" | "));
                    ends.by_itself.lock().unwrap().push(last);
                    break;
                }
            };
            match order {
                Some(Order::Freeze(time)) => {
                    server.signal(Signal::STOP);
                    pass_time(time).await;
                    server.signal(Signal::CONT);
                    ends.frozen.fetch_add(1, Ordering::Relaxed);
                }
                Some(Order::Kill) => {
                    door.send_replace(None);
                    server.kill().await;
                    ends.killed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Some(Order::Stop(ended)) => {
                    let (status, _) = server.terminate().await;
                    return ended.send(status.success()).expect("somebody asked");
                }
                // The test is over, and with it everything that it started.
                None => return,
            }
        }
    }
}
