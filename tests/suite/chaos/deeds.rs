//! What is done to PostgreSQL and to the way to it, one deed after the other.
//!
//! Every deed is undone in the end: what was killed is started, what was frozen goes
//! on. Which kind comes next is drawn from a bag, so that all come equally often.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::{Signal, kill_process};

use crate::support::cluster::Cluster;
use crate::support::pass_time;
use crate::support::proxy::{Proxy, Way};

/// How long a deed lasts.
const LASTS_MS: std::ops::Range<u64> = 150..1_200;
/// How long each message takes on a slow way.
const SLOW_MS: std::ops::Range<u64> = 5..60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// `kill -9` of the postmaster.
    PostgresKilled,
    /// `kill -9` of one backend: PostgreSQL throws out all others and recovers.
    BackendKilled,
    /// What `pg_ctl restart -m immediate` does.
    RestartedImmediate,
    /// What `pg_ctl restart -m fast` does.
    RestartedFast,
    /// SIGSTOP of every process, SIGCONT after a while.
    Frozen,
    /// No connection is left for anybody.
    Crowded,
    /// `pg_terminate_backend` of vitals' connections.
    Terminated,
    Slowed,
    Stuck,
    /// What is committed is not known of, and then the connection breaks.
    Deafened,
    Cut,
    /// Connections swallow everything for ever and never break; new ones are fine.
    Swallowed,
}

const ALL: [Deed; 11] = [
    Deed::PostgresKilled,
    Deed::BackendKilled,
    Deed::RestartedImmediate,
    Deed::RestartedFast,
    Deed::Frozen,
    Deed::Crowded,
    Deed::Terminated,
    Deed::Slowed,
    Deed::Stuck,
    Deed::Deafened,
    Deed::Cut,
];

/// How long a play must be for deeds from which recovery takes ten seconds and more.
const LONG: Duration = Duration::from_secs(60);

/// Who does them.
pub struct Villain {
    pub cluster: Cluster,
    pub proxies: Vec<Proxy>,
    pub done: BTreeMap<Deed, usize>,
    rng: StdRng,
    kinds: Vec<Deed>,
    bag: Vec<Deed>,
}

impl Villain {
    /// Whose play lasts so long.
    pub fn new(seed: u64, lasts: Duration, cluster: Cluster, proxies: Vec<Proxy>) -> Villain {
        let rng = StdRng::seed_from_u64(seed);
        let mut kinds = ALL.to_vec();
        kinds.extend((lasts >= LONG).then_some(Deed::Swallowed));
        Villain { cluster, proxies, done: BTreeMap::new(), rng, kinds, bag: Vec::new() }
    }

    /// Does the next deed, and undoes it.
    pub async fn act(&mut self) -> Deed {
        if self.bag.is_empty() {
            self.bag = self.kinds.clone();
            self.bag.shuffle(&mut self.rng);
        }
        let deed = self.bag.pop().expect("the bag was filled");
        let lasts = Duration::from_millis(self.rng.random_range(LASTS_MS));
        match deed {
            Deed::PostgresKilled => self.cluster.restart(Signal::KILL).await,
            Deed::RestartedImmediate => self.cluster.restart(Signal::QUIT).await,
            Deed::RestartedFast => self.cluster.restart(Signal::INT).await,
            Deed::BackendKilled => self.kill_a_backend().await,
            Deed::Frozen => {
                self.cluster.signal_all(Signal::STOP);
                pass_time(lasts).await;
                self.cluster.signal_all(Signal::CONT);
            }
            Deed::Crowded => {
                let crowd = self.cluster.crowd().await;
                pass_time(lasts).await;
                drop(crowd);
            }
            Deed::Terminated => self.terminate().await,
            Deed::Slowed => {
                let delay = Duration::from_millis(self.rng.random_range(SLOW_MS));
                self.lead(&[(Way::Slow(delay), lasts)]).await;
            }
            Deed::Stuck => self.lead(&[(Way::Stuck, lasts)]).await,
            Deed::Deafened => {
                self.lead(&[(Way::Deaf, lasts), (Way::Cut, Duration::from_millis(50))]).await;
            }
            Deed::Cut => self.lead(&[(Way::Cut, lasts)]).await,
            Deed::Swallowed => {
                let nth = self.rng.random_range(0..self.proxies.len());
                self.proxies[nth].swallow();
            }
        }
        *self.done.entry(deed).or_default() += 1;
        deed
    }

    /// Does this to one way, or to all of them.
    async fn lead(&mut self, ways: &[(Way, Duration)]) {
        let only = self.rng.random_range(0..=self.proxies.len());
        let is_meant = |nth: usize| only == self.proxies.len() || only == nth;
        let set = |way: Way| {
            for (_, proxy) in self.proxies.iter().enumerate().filter(|(nth, _)| is_meant(*nth)) {
                proxy.set(way);
            }
        };
        for (way, lasts) in ways {
            set(*way);
            pass_time(*lasts).await;
        }
        set(Way::Open);
    }

    async fn kill_a_backend(&mut self) {
        let mut admin = self.cluster.connect().await;
        let sql = "select pid from pg_stat_activity \
                   where backend_type = 'client backend' and pid <> pg_backend_pid()";
        let pids: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut admin).await.expect("backends");
        if let Some(nth) = self.rng.random_range(0..1000_usize).checked_rem(pids.len()) {
            let pid = rustix::process::Pid::from_raw(pids[nth]).expect("a process id");
            // It may have ended by itself in between.
            let _gone_already = kill_process(pid, Signal::KILL);
        }
    }

    async fn terminate(&mut self) {
        let mut admin = self.cluster.connect().await;
        let part: f64 = if self.rng.random_bool(0.5) { 1.0 } else { 0.5 };
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where application_name = 'vitals' and random() < $1";
        sqlx::query(sql).bind(part).execute(&mut admin).await.expect("terminated");
    }
}
