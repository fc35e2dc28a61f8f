//! Incarnations: which history of the log its positions belong to.
//!
//! A position, a cursor and a delivery's number mean something only within one history. A
//! restored dump, a point in time and a failover to a standby that had not received all go on
//! from an earlier place and give the same positions again, to something else.
//!
//! Guarantees that no connection of a pool that looks is used on another history than this
//! process knows of: whoever made it looks first ([`Incarnations::check`]), and begins a new
//! incarnation where none has begun. It begins while all heads are locked, with an event in every
//! shard that says from where it goes on and what was acknowledged and is gone, as far as this
//! process knows. A planned switchover that lost nothing is a new incarnation all the same:
//! nothing inside the database could tell the two apart.
//!
//! Does not notice a copy of the files that was put back in place while no process was
//! running: inside it, all is as it was. A head that was published elsewhere does (`anchor.rs`).
//! Behind a pooler that changes servers under a connection it is noticed by the next
//! [`super::Log::check_incarnation`], and not by the first question.

mod table;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::watch;

pub use table::Incarnation;
pub(super) use table::newest_restored;
use table::{Begun, add_lost, all, look, set_back};

use super::append::append;
use super::head::Mark;
use super::partition;
use crate::clock::rfc3339;
use crate::event::{Event, LOG_RESTORED, NO_PATIENT, NO_TENANT};

/// What the first incarnation is called in its row.
const FIRST: &str = "initialised";

/// The histories of a log, as this process knows them. Cheap to clone.
#[derive(Clone)]
pub struct Incarnations(Arc<Inner>);

struct Inner {
    now: watch::Sender<KnownIncarnation>,
    /// For each shard the last append that this process has acknowledged.
    acknowledged: Box<[Mutex<Option<Mark>>]>,
    months_from: i32,
}

impl std::fmt::Debug for Incarnations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incarnations({})", self.number())
    }
}

/// What is known of the present one, and of those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KnownIncarnation {
    number: i64,
    database: String,
    /// All of them, the oldest first.
    all: Vec<Begun>,
}

impl Incarnations {
    /// Reads which incarnation it is; the first one of a new database begins here, and a new
    /// one of a database that was restored.
    pub(super) async fn open(
        pool: &PgPool,
        shards: i16,
        months_from: i32,
    ) -> Result<Incarnations, sqlx::Error> {
        let acknowledged = (0..shards).map(|_| Mutex::default()).collect();
        let now = watch::Sender::new(KnownIncarnation::default());
        let history = Incarnations(Arc::new(Inner { now, acknowledged, months_from }));
        history.check(&mut *pool.acquire().await?).await?;
        Ok(history)
    }

    /// The number of the present incarnation.
    pub fn number(&self) -> i64 {
        self.0.now.borrow().number
    }

    /// Waits until another incarnation than this one has begun.
    pub async fn left(&self, number: i64) {
        let mut now = self.0.now.subscribe();
        // The sender is ours: it does not close.
        let _ended = now.wait_for(|known| known.number != number).await;
    }

    /// The incarnation in which a delivery got its number.
    pub fn of_sequence(&self, sequence: i64) -> i64 {
        let known = self.0.now.borrow();
        let of = known.all.iter().rev().find(|begun| begun.sequences_from < sequence);
        of.or(known.all.first()).map_or(known.number, |begun| begun.number)
    }

    /// After which number the present incarnation numbers deliveries; 0 in the first one.
    pub fn sequences_from(&self) -> i64 {
        self.0.now.borrow().all.last().map_or(0, |begun| begun.sequences_from)
    }

    /// Up to where another incarnation's history is also this one's: of each shard the last
    /// position that all which began after it took over. `None` if this log knows of no such one.
    pub fn common_with(&self, number: i64) -> Option<Vec<i64>> {
        let known = self.0.now.borrow();
        let at = known.all.iter().position(|begun| begun.number == number)?;
        let later = known.all.get(at + 1..)?;
        let mut heads = later.iter().map(|begun| begun.heads.clone());
        let first = heads.next()?;
        Some(heads.fold(first, |common, heads| {
            common.into_iter().zip(heads).map(|(common, head)| common.min(head)).collect()
        }))
    }

    /// An append was acknowledged: it must be there for ever.
    pub(super) fn acknowledged(&self, shard: i16, position: i64, recorded_at: DateTime<Utc>) {
        let Some(mark) = self.0.acknowledged.get(usize::from(shard.unsigned_abs())) else { return };
        *mark.lock() = Some(Mark { position, recorded_at });
    }

    fn marks(&self) -> Vec<(i16, Mark)> {
        let marks = self.0.acknowledged.iter().enumerate();
        let of = |(shard, mark): (usize, &Mutex<Option<Mark>>)| {
            let mark = *mark.lock();
            mark.map(|mark| (shard as i16, mark))
        };
        marks.filter_map(of).collect()
    }

    fn forget_marks(&self) {
        for mark in &self.0.acknowledged {
            *mark.lock() = None;
        }
    }

    /// Looks where this connection leads: one round trip if it is the history that is known.
    ///
    /// # Errors
    /// A standby is refused: it cannot be appended to, and what it will be is not decided.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Before the marks, which are forgotten before it changes.
        let ours = self.number();
        let marks = self.marks();
        let looked = look(connection, &marks).await?;
        let Some(place) = looked.place else { return Err(standby()) };
        let is_known = {
            let known = self.0.now.borrow();
            looked.number == Some(known.number)
                && looked.known.as_deref() == Some(&*place)
                && known.database == place
        };
        if is_known && looked.gone.is_empty() {
            return Ok(());
        }
        // Of the event. Before the heads are locked: it may wait for another that makes it.
        if looked.number.is_some()
            && let Some(span) = partition::Span::of(clock(connection).await?, self.0.months_from)
        {
            partition::create(connection, span).await?;
        }
        let lost = marks.into_iter().filter(|(shard, _)| looked.gone.contains(shard)).collect();
        self.enter(connection, ours, &place, lost).await
    }

    /// Takes over the incarnation that another process has begun, or begins one.
    async fn enter(
        &self,
        connection: &mut PgConnection,
        ours: i64,
        place: &str,
        lost: Vec<(i16, Mark)>,
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin().await?;
        // In the order in which everybody locks them. From here on no append runs.
        let heads: Vec<(i16, i64)> = sqlx::query_as(
            "select shard, position from public.shard_head order by shard for update",
        )
        .fetch_all(&mut *tx)
        .await?;
        let newest: Option<(i64, String)> = sqlx::query_as(
            "select number, place from public.incarnation order by number desc limit 1",
        )
        .fetch_optional(&mut *tx)
        .await?;
        let begins = match &newest {
            Some((number, known)) => known != place || (*number == ours && !lost.is_empty()),
            None => true,
        };
        if begins {
            self.begin(&mut tx, place, &heads, newest.as_ref(), &lost).await?;
        } else {
            add_lost(&mut tx, &lost).await?;
        }
        let all = all(&mut tx).await?;
        tx.commit().await?;
        self.forget_marks();
        let number = all.last().map_or(0, |begun| begun.number);
        let noticed = number != ours && (ours != 0 || begins && newest.is_some());
        let gone = in_words(all.last(), &lost);
        let known = KnownIncarnation { number, database: place.to_owned(), all };
        let changed = self.0.now.send_if_modified(|now| {
            let changed = *now != known;
            *now = known;
            changed
        });
        if noticed && changed {
            metrics::counter!("vitals_log_restored_total").increment(1);
            tracing::error!(
                incarnation = number,
                before = ours,
                ?gone,
                "the log was restored, or its server changed: a new incarnation has begun"
            );
        }
        Ok(())
    }

    /// Writes the incarnation's row, and the event that says so.
    async fn begin(
        &self,
        tx: &mut PgConnection,
        place: &str,
        heads: &[(i16, i64)],
        newest: Option<&(i64, String)>,
        lost: &[(i16, Mark)],
    ) -> Result<(), sqlx::Error> {
        let now = clock(tx).await?;
        let number = newest.map_or(0, |(number, _)| number + 1).max(now.timestamp_micros());
        let reason = match newest {
            None => FIRST,
            Some((_, known)) => what_changed(known, place),
        };
        let acknowledged = |(shard, head): &(i16, i64)| {
            lost.iter().find(|(of, _)| of == shard).map_or(*head, |(_, m)| m.position.max(*head))
        };
        sqlx::query(
            "insert into public.incarnation \
                 (number, place, began_at, heads, acknowledged, sequences_from, reason) \
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(number)
        .bind(place)
        .bind(now)
        .bind(heads.iter().map(|(_, head)| *head).collect::<Vec<_>>())
        .bind(heads.iter().map(acknowledged).collect::<Vec<_>>())
        .bind(newest.map_or(0, |_| number))
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        let Some((before, _)) = newest else { return Ok(()) };
        let set_back = set_back(tx).await?;
        for (shard, head) in heads {
            let data = json!({
                "v": 1, "incarnation": number, "before": before, "reason": reason, "position": head,
                "acknowledged": lost.iter().find(|(of, _)| of == shard).map(|(_, m)| m.position),
                "setBack": set_back,
            });
            let event = restored(now, data.to_string());
            append(&mut *tx, *shard, &[event]).await.map_err(|error| {
                sqlx::Error::Protocol(format!("the new incarnation was not recorded: {error}"))
            })?;
        }
        Ok(())
    }
}

/// The event of a new incarnation. It is of no patient and no tenant.
fn restored(at: DateTime<Utc>, data: String) -> Event {
    Event::non_reading(LOG_RESTORED, (NO_TENANT, NO_PATIENT), "log", at, data)
}

async fn clock(connection: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await
}

fn what_changed(known: &str, place: &str) -> &'static str {
    let parts: Vec<bool> = known.split('/').zip(place.split('/')).map(|(a, b)| a != b).collect();
    match parts[..] {
        [true, ..] => "another cluster: restored from a dump, a copy, or moved",
        [_, true, ..] => "another timeline: a standby was promoted, or a moment was restored",
        [_, _, true, ..] | [_, _, _, true] => "other tables: restored from a dump",
        _ => "what was acknowledged is not there",
    }
}

fn in_words(now: Option<&Begun>, lost: &[(i16, Mark)]) -> Vec<String> {
    let head = |shard: i16| now?.heads.get(usize::from(shard.unsigned_abs())).copied();
    let of = |(shard, mark): &(i16, Mark)| {
        let (last, at, head) = (mark.position, rfc3339(mark.recorded_at), head(*shard));
        let head = head.unwrap_or_default();
        format!("shard {shard}: acknowledged up to {last} (at {at}), goes on after {head}")
    };
    lost.iter().map(of).collect()
}

fn standby() -> sqlx::Error {
    sqlx::Error::Protocol("this server is a standby: it was not promoted yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history<const N: usize>(all: [(i64, i64, [i64; 2]); N]) -> Incarnations {
        let begun = |(number, sequences_from, heads): (i64, i64, [i64; 2])| Begun {
            number,
            sequences_from,
            heads: heads.to_vec(),
        };
        let all: Vec<Begun> = all.into_iter().map(begun).collect();
        let number = all.last().map_or(0, |begun| begun.number);
        let now = watch::Sender::new(KnownIncarnation { number, database: String::new(), all });
        Incarnations(Arc::new(Inner { now, acknowledged: Box::new([]), months_from: 0 }))
    }

    #[test]
    fn what_changed_is_told_by_the_part_of_the_place() {
        for (place, word) in [
            ("2/1/3/4", "cluster"),
            ("1/2/3/4", "timeline"),
            ("1/1/9/9", "tables"),
            ("1/1/3/9", "tables"),
            ("1/1/3/4", "acknowledged"),
        ] {
            assert!(what_changed("1/1/3/4", place).contains(word), "{place}");
        }
    }

    #[test]
    fn a_deliverys_number_tells_its_incarnation() {
        let history = history([(500, 0, [0, 0]), (900, 900, [7, 3])]);
        let told = [1, 500, 900, 901].map(|sequence| history.of_sequence(sequence));
        assert_eq!((told, history.sequences_from()), ([500, 500, 500, 900], 900));
    }

    #[test]
    fn two_histories_have_in_common_what_all_between_them_took_over() {
        let history = history([(1, 0, [0, 0]), (2, 2, [7, 3]), (3, 3, [5, 9])]);
        let common = [1, 2, 3, 4].map(|number| history.common_with(number));
        assert_eq!(common, [Some(vec![5, 3]), Some(vec![5, 9]), None, None]);
    }
}
