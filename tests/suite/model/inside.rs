//! Programs against `Writers` and `Log`, two instances on one database, each in a runtime
//! of its own that can be dropped in the middle of whatever it does.

use std::time::Duration;

use proptest::prelude::*;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use vitals::event::{Event, READING};
use vitals::intake::{Writers, WritersError, Written};
use vitals::log::Log;
use vitals::tasks::Tasks;

use super::{Answered, Item, Model, batch, check_log, found, try_programs};
use crate::support::eventually;
use crate::support::postgres::Database;

const CASES: u32 = 60;
const SOON: Duration = Duration::from_secs(30);
const INSTANCES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// One batch through the queue.
    Store(usize, Vec<Item>),
    /// Each patient's readings straight into the log, which says of each item whether it
    /// is new.
    Append(usize, Vec<Item>),
    /// Several batches at once. Held: they meet a locked shard, so that most of them
    /// gather for one commit.
    Together { batches: Vec<(usize, Vec<Item>)>, held: bool },
    /// The same, and an instance is gone when so many were answered.
    Crash { batches: Vec<(usize, Vec<Item>)>, held: bool, instance: usize, answered: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec((0..INSTANCES, batch(0.0)), 2..7);
    prop_oneof![
        4 => (0..INSTANCES, batch(0.0)).prop_map(|(nth, items)| Step::Store(nth, items)),
        2 => (0..INSTANCES, batch(0.0)).prop_map(|(nth, items)| Step::Append(nth, items)),
        4 => (some(), any::<bool>()).prop_map(|(batches, held)| Step::Together { batches, held }),
        1 => (some(), any::<bool>(), 0..INSTANCES, 0..4_usize).prop_map(
            |(batches, held, instance, answered)| Step::Crash { batches, held, instance, answered }
        ),
    ]
}

pub fn event(tenant: &str, item: &Item) -> Event {
    Event {
        tenant: tenant.into(),
        patient_id: item.patient(),
        kind: READING.to_owned(),
        vital: Some(item.vital()),
        value: Some(item.value()),
        quality: None,
        suspect: false,
        occurred_at: item.at(),
        source_id: item.device(),
        data: None,
    }
}

/// What a process has, without the process.
struct Instance {
    runtime: Runtime,
    log: Log,
    writers: Writers,
    name: String,
}

impl Instance {
    fn start(url: &str, name: &str) -> Instance {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options: PgConnectOptions = url.parse().unwrap();
        let (log, writers) = runtime.block_on(async {
            let options = options.application_name(name);
            let pool = PgPoolOptions::new().max_connections(5).connect_lazy_with(options);
            let log = Log::open(pool, None).await.unwrap();
            let writers = Writers::start(&log, &Tasks::default());
            (log, writers)
        });
        Instance { runtime, log, writers, name: name.to_owned() }
    }

    fn store(&self, tenant: &str, items: &[Item]) -> JoinHandle<Result<Written, WritersError>> {
        let events = items.iter().map(|item| event(tenant, item)).collect();
        let writers = self.writers.clone();
        self.runtime.spawn(async move { writers.store_events(events).await })
    }

    /// Gone, with all that it was about to do.
    fn drop_at_once(self) -> String {
        self.runtime.shutdown_background();
        self.name
    }
}

/// The two instances, and who looks at them.
struct Stage {
    runtime: Runtime,
    pool: PgPool,
    url: String,
    instances: Vec<Option<Instance>>,
    starts: usize,
}

impl Stage {
    fn instance(&mut self, nth: usize) -> &Instance {
        let place = &mut self.instances[nth];
        if place.is_none() {
            self.starts += 1;
            *place = Some(Instance::start(&self.url, &format!("instance-{}", self.starts)));
        }
        place.as_ref().unwrap()
    }

    fn found(&self, tenant: &str) -> std::collections::BTreeMap<super::Key, f64> {
        self.runtime.block_on(found(&self.pool, tenant))
    }

    /// Waits for a condition of PostgreSQL's processes.
    async fn backends(&self, what: &str, sql: &'static str, name: &str) {
        eventually(what, SOON, async || {
            let count: i64 =
                sqlx::query_scalar(sql).bind(name).fetch_one(&self.pool).await.unwrap();
            (count > 0).then_some(())
        })
        .await;
    }

    fn run(&mut self, tenant: &str, model: &mut Model, step: Step) {
        match step {
            Step::Store(nth, items) => {
                let answer = self.instance(nth).store(tenant, &items);
                let said = self.runtime.block_on(answer).unwrap().unwrap();
                let new = model.store(&items);
                let duplicates: Vec<usize> = (0..items.len()).filter(|nth| !new[*nth]).collect();
                assert_eq!(said, Written { stored: items.len() - duplicates.len(), duplicates });
            }
            Step::Append(nth, items) => {
                for patient in 0..3 {
                    let items: Vec<Item> =
                        items.iter().filter(|item| item.patient == patient).cloned().collect();
                    let events: Vec<Event> = items.iter().map(|item| event(tenant, item)).collect();
                    let Some(first) = events.first() else { continue };
                    let log = self.instance(nth).log.clone();
                    let shard = log.shard_of(tenant, &first.patient_id);
                    let appending = async move { log.append(shard, &events).await.unwrap() };
                    let appended = self.instance(nth).runtime.spawn(appending);
                    let appended = self.runtime.block_on(appended).unwrap();
                    let are_new: Vec<bool> =
                        appended.positions.iter().map(Option::is_some).collect();
                    assert_eq!(are_new, model.store(&items), "{items:?}");
                }
            }
            Step::Together { batches, held } => self.together(tenant, model, &batches, held, None),
            Step::Crash { batches, held, instance, answered } => {
                self.together(tenant, model, &batches, held, Some((instance, answered)));
            }
        }
    }

    fn together(
        &mut self,
        tenant: &str,
        model: &mut Model,
        batches: &[(usize, Vec<Item>)],
        held: bool,
        crash: Option<(usize, usize)>,
    ) {
        for nth in 0..INSTANCES {
            self.instance(nth);
        }
        let lock = held.then(|| self.runtime.block_on(lock_heads(&self.pool)));
        let mut answers: Vec<_> =
            batches.iter().map(|(nth, items)| self.instance(*nth).store(tenant, items)).collect();
        if let Some(lock) = lock {
            let waiting = self.backends(
                "a writer to wait",
                "select count(*) from pg_stat_activity where application_name ^@ $1 \
                   and datname = current_database() and wait_event_type = 'Lock'",
                "instance-",
            );
            self.runtime.block_on(waiting);
            if let Some((nth, _)) = crash {
                self.crash(nth, lock);
            } else {
                self.runtime.block_on(lock.rollback()).unwrap();
            }
        } else if let Some((nth, answered)) = crash {
            for answer in answers.iter_mut().take(answered) {
                // Asked twice, an answer would be gone: only looked at.
                self.runtime.block_on(async {
                    eventually("an answer", SOON, async || answer.is_finished().then_some(())).await
                });
            }
            let nothing = self.runtime.block_on(self.pool.begin()).unwrap();
            self.crash(nth, nothing);
        }
        let answered: Vec<Answered<'_>> = batches
            .iter()
            .zip(answers)
            .map(|((nth, items), answer)| {
                let said = self.runtime.block_on(answer);
                let survives = crash.is_none_or(|(crashed, _)| crashed != *nth);
                assert!(!survives || matches!(said, Ok(Ok(_))), "{said:?}");
                let stored = said.ok().and_then(Result::ok).map(|said| {
                    assert_eq!(said.stored + said.duplicates.len(), items.len());
                    said.stored
                });
                Answered { items, stored }
            })
            .collect();
        model.store_together(&answered, self.found(tenant));
    }

    /// Drops an instance, lets go of what held it up, and waits until PostgreSQL has
    /// noticed: an append that was under way may still be committed until then.
    fn crash(&mut self, nth: usize, lock: sqlx::Transaction<'static, sqlx::Postgres>) {
        self.instance(nth);
        let name = self.instances[nth].take().unwrap().drop_at_once();
        self.runtime.block_on(lock.rollback()).unwrap();
        let gone = self.backends(
            "the dropped connections to end",
            "select 1 - least(1, count(*)) from pg_stat_activity where application_name = $1",
            &name,
        );
        self.runtime.block_on(gone);
    }
}

async fn lock_heads(pool: &PgPool) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from shard_head order by shard for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

#[test]
fn programs_of_appends_and_crashes_agree_with_a_set() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Connections give themselves back in the context of whoever lets go of them.
    let handle = runtime.handle().clone();
    let _context = handle.enter();
    let (database, pool) = runtime.block_on(async {
        let database = Database::new().await;
        let pool = database.pool();
        (database, pool)
    });
    let url = database.url.clone();
    let mut stage = Stage { runtime, pool, url, instances: vec![None, None], starts: 0 };
    try_programs(CASES, prop::collection::vec(step(), 1..12), |tenant, steps| {
        let mut model = Model::default();
        for step in steps {
            stage.run(tenant, &mut model, step);
        }
        model.check(&stage.found(tenant));
    });
    let log = stage.instance(0).log.clone();
    stage.runtime.block_on(check_log(&log));
}
