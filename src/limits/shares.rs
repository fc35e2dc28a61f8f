//! What a process lends: places and bytes, each for as long as somebody holds it.
//!
//! Guarantees that no subject and no tenant holds more than its part of what there is,
//! however many ask, so that others find some left; that what was lent is back when its
//! holder is dropped, whatever ended it; and that a refusal names the limit, whose it is
//! and the mend, and is counted. Each process lends for itself: an installation of n
//! processes lends n times as much. Does not count what is over at once (what is
//! beside this counts by the minute).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::auth::{Caller, Subject};

/// Questions that are being answered, of a process: one and a half for each connection that
/// answers them, so that one subject's never have all of these.
const QUESTIONS_MAX: usize = 24;
/// Streams of events, of a process.
const STREAMS_MAX: usize = 2_000;
/// Replays, of a process.
const REPLAYS_MAX: usize = 200;
/// Streams of readings (NDJSON), of a process. Two chunks of each may be in memory, some
/// hundred kilobytes.
const UPLOADS_MAX: usize = 256;
/// Whole histories on their way out as a table, of a process.
const TABLES_MAX: usize = 64;
/// Bytes of bodies on their way in, of a process: what is held of them, decoded, and the
/// windows of those who undo zstd. The first part of each body is free.
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of answers on their way out, of a process. The first part of each is free.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Of all that is lent a tenant has at most one in so many, and …
const TENANT_PART: usize = 2;
/// … a subject of it.
const SUBJECT_PART: usize = 8;
/// Requests are short, and a gateway has many of them under way: its part is larger; …
const SUBJECT_PART_OF_REQUESTS: usize = 2;
/// … so it is of their bodies, four of the largest, and of questions.
const SUBJECT_PART_OF_BODIES: usize = 4;
const SUBJECT_PART_OF_QUESTIONS: usize = 4;

/// Everything that a process lends.
pub struct Shares {
    /// Requests until their answer begins.
    pub requests: Share,
    /// See [`QUESTIONS_MAX`].
    pub questions: Share,
    /// See [`BODY_BYTES_MAX`].
    pub bodies: Share,
    /// See [`ANSWER_BYTES_MAX`].
    pub answers: Share,
    /// See [`STREAMS_MAX`].
    pub streams: Share,
    /// See [`REPLAYS_MAX`].
    pub replays: Share,
    /// See [`UPLOADS_MAX`].
    pub uploads: Share,
    /// See [`TABLES_MAX`].
    pub tables: Share,
}

impl Shares {
    /// Of a process that takes so many connections: what lasts long never has all of them.
    pub fn new(connections: usize) -> Shares {
        let part = |most: usize, of: usize| most.min(connections / of).max(1);
        let again = "close some, or come again";
        let requests = Most { subject: SUBJECT_PART_OF_REQUESTS, ..Most::of(connections) };
        let bodies = Most { subject: SUBJECT_PART_OF_BODIES, ..Most::of(BODY_BYTES_MAX) };
        let share = Share::new;
        Shares {
            requests: share(
                Named("requests", "too_many_requests", "requests under way", "ask fewer at once"),
                requests,
            ),
            questions: share(
                Named("questions", "too_many_requests", "questions", "ask fewer at once"),
                Most { subject: SUBJECT_PART_OF_QUESTIONS, ..Most::of(QUESTIONS_MAX) },
            ),
            bodies: share(
                Named(
                    "body_bytes",
                    "body_budget_used",
                    "bytes of bodies on their way in",
                    "send smaller bodies, or fewer at once",
                ),
                bodies,
            ),
            answers: share(
                Named(
                    "answer_bytes",
                    "answer_budget_used",
                    "bytes of answers that were not taken yet",
                    "read the answers, or ask for smaller pages",
                ),
                Most::of(ANSWER_BYTES_MAX),
            ),
            streams: share(
                Named("streams", "too_many_streams", "open streams", again),
                Most::of(part(STREAMS_MAX, 2)),
            ),
            replays: share(
                Named("replays", "too_many_streams", "open replays", again),
                Most::of(part(REPLAYS_MAX, 8)),
            ),
            uploads: share(
                Named(
                    "uploads",
                    "too_many_streams",
                    "open streams of readings",
                    "come again, or send arrays",
                ),
                Most::of(part(UPLOADS_MAX, 8)),
            ),
            tables: share(
                Named("tables", "too_many_tables", "tables on their way out", again),
                Most::of(part(TABLES_MAX, 8)),
            ),
        }
    }
}

/// Who holds something.
#[derive(Clone, Debug)]
pub struct ShareHolder {
    tenant: Arc<str>,
    subject: Subject,
}

impl ShareHolder {
    /// Whoever calls.
    pub fn of(caller: &Caller) -> ShareHolder {
        ShareHolder { tenant: caller.tenant.clone(), subject: caller.counted() }
    }
}

/// How much there is, and one in how many of it a tenant and a subject may hold.
#[derive(Clone, Copy, Debug)]
struct Most {
    process: usize,
    tenant: usize,
    subject: usize,
}

impl Most {
    fn of(process: usize) -> Most {
        Most { process, tenant: TENANT_PART, subject: SUBJECT_PART }
    }
}

/// In the metric, in the answer, for people, and what to do.
#[derive(Clone, Copy, Debug)]
struct Named(&'static str, &'static str, &'static str, &'static str);

/// One kind of thing that is lent; cheap to clone.
#[derive(Clone)]
pub struct Share(Arc<Inner>);

struct Inner {
    named: Named,
    most: Most,
    lent: Mutex<Lent>,
    /// Something is back.
    back: Notify,
}

#[derive(Default)]
struct Lent {
    all: usize,
    tenants: HashMap<Arc<str>, usize>,
    subjects: HashMap<Subject, usize>,
}

/// What somebody holds, until it is dropped.
pub struct Permit {
    share: Arc<Inner>,
    holder: ShareHolder,
    n: usize,
}

/// Why nothing was lent.
#[derive(Clone, Debug)]
pub struct UsedUp {
    /// Stable.
    pub code: &'static str,
    /// Of what, as the metric names it.
    pub limit: &'static str,
    /// Whose part: `subject`, `tenant` or `process`.
    pub whose: &'static str,
    /// For a person, with the mend.
    pub detail: String,
}

/// Whose part is used up, how much it is, and how much of it is held.
#[derive(Clone, Copy)]
struct Short {
    whose: &'static str,
    most: usize,
    held: usize,
}

impl Share {
    fn new(named: Named, most: Most) -> Share {
        let (lent, back) = (Mutex::default(), Notify::new());
        Share(Arc::new(Inner { named, most, lent, back }))
    }

    /// Lends `n`, or says why not.
    pub fn lend(&self, holder: &ShareHolder, n: usize) -> Result<Permit, UsedUp> {
        self.try_lend(holder, n).map_err(|short| self.0.refuse(&short, n))
    }

    /// The same, for who may wait a while until others are done.
    pub async fn lend_within(
        &self,
        holder: &ShareHolder,
        n: usize,
        wait: Duration,
    ) -> Result<Permit, UsedUp> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            // Listening before looking: what comes back in between is heard.
            let mut back = std::pin::pin!(self.0.back.notified());
            back.as_mut().enable();
            match self.try_lend(holder, n) {
                Ok(held) => return Ok(held),
                Err(short) => {
                    if tokio::time::timeout_at(until, back).await.is_err() {
                        return Err(self.0.refuse(&short, n));
                    }
                }
            }
        }
    }

    fn try_lend(&self, holder: &ShareHolder, n: usize) -> Result<Permit, Short> {
        self.0.lent().take(&self.0.most, holder, n)?;
        Ok(Permit { share: self.0.clone(), holder: holder.clone(), n })
    }
}

impl Inner {
    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock()
    }

    fn refuse(&self, short: &Short, n: usize) -> UsedUp {
        let (Named(limit, code, what, mend), Short { whose, most, held }) = (self.named, *short);
        metrics::counter!("vitals_refused_total", "limit" => limit, "whose" => whose).increment(1);
        let detail = format!(
            "{held} of {most} {what} are held (the limit of a {whose} at each process of vitals), and \
             {n} more would be too many: {mend}"
        );
        UsedUp { code, limit, whose, detail }
    }
}

impl Lent {
    fn take(&mut self, most: &Most, holder: &ShareHolder, n: usize) -> Result<(), Short> {
        let of_subject = self.subjects.get(&holder.subject).copied().unwrap_or(0);
        let of_tenant = self.tenants.get(&holder.tenant).copied().unwrap_or(0);
        let part = |of: usize| (most.process / of).max(1);
        for (whose, held, most) in [
            ("subject", of_subject, part(most.subject)),
            ("tenant", of_tenant, part(most.tenant)),
            ("process", self.all, most.process),
        ] {
            if held.saturating_add(n) > most {
                return Err(Short { whose, most, held });
            }
        }
        self.all += n;
        self.subjects.insert(holder.subject, of_subject + n);
        match self.tenants.get_mut(&holder.tenant) {
            Some(held) => *held += n,
            None => drop(self.tenants.insert(holder.tenant.clone(), n)),
        }
        Ok(())
    }

    fn give_back(&mut self, holder: &ShareHolder, n: usize) {
        self.all = self.all.saturating_sub(n);
        if let Some(held) = self.subjects.get_mut(&holder.subject) {
            *held = held.saturating_sub(n);
            if *held == 0 {
                self.subjects.remove(&holder.subject);
            }
        }
        if let Some(held) = self.tenants.get_mut(&holder.tenant) {
            *held = held.saturating_sub(n);
            if *held == 0 {
                self.tenants.remove(&holder.tenant);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.lent().give_back(&self.holder, self.n);
        self.share.back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(process: usize) -> Share {
        Share::new(Named("things", "too_many_things", "things", "wait"), Most::of(process))
    }

    fn holder(tenant: &str, subject: &str) -> ShareHolder {
        ShareHolder { tenant: tenant.into(), subject: Subject::new(tenant, subject) }
    }

    /// Lends ones until it is refused; how many, and whose part was used up.
    fn all_of(share: &Share, holder: &ShareHolder) -> (Vec<Permit>, &'static str) {
        let mut held = Vec::new();
        loop {
            match share.try_lend(holder, 1) {
                Ok(one) => held.push(one),
                Err(short) => return (held, short.whose),
            }
        }
    }

    #[test]
    fn a_subject_and_a_tenant_have_their_parts_and_leave_the_rest() {
        let share = share(80);
        let mut held = Vec::new();
        for subject in 0..4 {
            let (of_one, whose) = all_of(&share, &holder("a", &format!("s{subject}")));
            assert_eq!((of_one.len(), whose), (10, if subject < 4 { "subject" } else { "" }));
            held.extend(of_one);
        }
        assert!(all_of(&share, &holder("a", "s4")).0.is_empty(), "the tenant has its half");
        for subject in 0..4 {
            held.extend(all_of(&share, &holder("b", &format!("s{subject}"))).0);
        }
        assert_eq!((held.len(), all_of(&share, &holder("c", "s")).1), (80, "process"));
        drop(held);
        let lent = share.0.lent();
        assert_eq!((lent.all, lent.subjects.len(), lent.tenants.len()), (0, 0, 0));
    }

    #[test]
    fn everybody_may_have_one_of_little() {
        let share = share(3);
        let one = all_of(&share, &holder("a", "s"));
        assert_eq!((one.0.len(), one.1), (1, "subject"));
        assert_eq!(all_of(&share, &holder("b", "s")).0.len(), 1);
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back() {
        let share = share(8);
        let nurse = holder("a", "nurse");
        let first = share.try_lend(&nurse, 1).ok().expect("there is one");
        let soon = Duration::from_secs(20);
        let (waited, ()) = tokio::join!(share.lend_within(&nurse, 1, soon), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        let second = waited.expect("it came back");
        let late = share.lend_within(&nurse, 1, Duration::from_millis(1)).await;
        assert_eq!(late.err().expect("none is left").whose, "subject");
        drop(second);
    }
}
