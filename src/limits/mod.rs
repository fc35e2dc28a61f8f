//! How much a subject of a tenant may ask for in a minute, and what a process lends.
//!
//! Guarantees that from 80 % of a limit on answers are to go out later, and only the
//! answers: what was asked for is done by then; and that what is refused was not done. One
//! subject's use is never another's. Knows no protocol: how a [`Limited`] is said, and
//! where a caller is told where they stand, is the adapter's to know. Does not count requests
//! without a good token. The processes of an installation count together ([`shared`]), and
//! nobody waits for that whose use is far from a limit.

mod asking;
mod meter;
pub mod shared;
pub mod shares;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::asking::Asking;
pub use self::meter::LimitState;
use self::meter::{Meter, OverLimit, SUBJECTS_MAX, Taken};
use crate::auth::{Caller, Subject};

/// The longest that a part of a stream waits until it is due.
const DUE_MS_MAX: u64 = 20_000;
/// The largest part of a stream, of what a minute allows: it is due within seconds.
const STREAM_PART: u32 = 10;
/// How often subjects are forgotten of whom nothing is to be remembered.
const FORGET_SECONDS: u64 = 60;

/// How many a minute.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Requests of a token with a device.
    pub device_requests: NonZeroU32,
    /// Requests of a token without one: a gateway, a page, a program.
    pub gateway_requests: NonZeroU32,
    /// Readings, of any token.
    pub readings: NonZeroU32,
}

/// The limits, and who has used how much of them; cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<All>);

struct All {
    devices: Kind,
    gateways: Kind,
    readings: Limit,
    clock: MeterClock,
    asking: Asking,
}

/// The time as the meters have it.
#[derive(Clone, Copy)]
struct MeterClock(Instant);

impl MeterClock {
    fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A request that was counted.
pub struct Asked<'a> {
    subject: Subject,
    /// With this request, whatever flows back while it is done.
    state: LimitState,
    /// Both limits of the caller, as draft-ietf-httpapi-ratelimit-headers-06 writes them.
    pub policy: &'a Bytes,
}

/// Why something was not taken; nothing of it was done.
#[derive(Clone, Debug)]
pub struct Limited {
    /// For a person, with the mend.
    pub detail: String,
    /// When to come again, and where one stands; `None` when it is more than there ever is.
    pub again: Option<Again>,
}

impl Limited {
    /// Stable, and the same by every adapter.
    pub fn code(&self) -> &'static str {
        if self.again.is_some() { "rate_limited" } else { "batch_too_large" }
    }
}

/// What somebody is told who may come again.
#[derive(Clone, Debug)]
pub struct Again {
    /// After so many seconds.
    pub seconds: u64,
    /// How much is used, of what.
    pub state: LimitState,
    /// See [`Asked::policy`].
    pub policy: Bytes,
}

/// What a kind of caller is told and counted by, beside its readings.
struct Kind {
    requests: Limit,
    policy: Bytes,
}

/// A limit with its names.
struct Limit {
    meter: Meter,
    /// In the metric.
    name: &'static str,
    /// What is counted.
    unit: &'static str,
    /// What to do beside waiting.
    advice: &'static str,
}

impl Limits {
    /// Limits of which nothing is used yet.
    pub fn new(rates: Rates) -> Limits {
        let limit = |per_minute, name, unit, advice| Limit {
            meter: Meter::new(per_minute),
            name,
            unit,
            advice,
        };
        let kind = |name, per_minute| Kind {
            requests: limit(
                per_minute,
                name,
                "requests",
                "ask less often, or put many readings into one request",
            ),
            policy: policy(per_minute, rates.readings),
        };
        Limits(Arc::new(All {
            devices: kind("device_requests", rates.device_requests),
            gateways: kind("gateway_requests", rates.gateway_requests),
            readings: limit(
                rates.readings,
                "readings",
                "readings",
                "these were not stored: send them again then, or fewer at once",
            ),
            clock: MeterClock(Instant::now()),
            asking: Asking::default(),
        }))
    }

    /// Counts a request before anything is done, if one is left.
    pub async fn request(&self, caller: &Caller) -> Result<Asked<'_>, Limited> {
        let (Kind { requests, policy }, subject) = (self.kind(caller), caller.counted());
        let taken = self.0.take(requests, &subject, NonZeroU32::MIN).await;
        let state = requests.meter.state(&subject, self.0.clock.now());
        taken.map_err(|refused| requests.refusal(NonZeroU32::MIN, refused, state, policy))?;
        Ok(Asked { state, subject, policy })
    }

    /// Where the subject of a request stands once it is done, by the limit of which most is
    /// used.
    pub fn state(&self, asked: &Asked<'_>) -> LimitState {
        let All { readings, clock, .. } = &*self.0;
        asked.state.tighter(readings.meter.state(&asked.subject, clock.now()))
    }

    /// Counts readings before they are stored, if so many are left.
    pub async fn readings(&self, caller: &Caller, count: usize) -> Result<(), Limited> {
        let (limit, subject) = (&self.0.readings, caller.counted());
        let Some(count) = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)) else {
            return Ok(());
        };
        let taken = self.0.take(limit, &subject, count).await;
        taken.map_err(|refused| {
            let state = limit.meter.state(&subject, self.0.clock.now());
            limit.refusal(count, refused, state, &self.kind(caller).policy)
        })
    }

    /// Counts readings of a stream before they are stored. Its sender is made to wait
    /// until they are due, so that a stream runs at the speed of the limit; refused when
    /// that takes longer than [`DUE_MS_MAX`], or `stop` is cancelled.
    pub async fn readings_when_due(
        &self,
        caller: &Caller,
        count: usize,
        stop: &CancellationToken,
    ) -> Result<(), Limited> {
        let until = Instant::now() + Duration::from_millis(DUE_MS_MAX);
        let subject = caller.counted();
        while let Some(n) = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX))
            && let Err(refused) = self.0.take(&self.0.readings, &subject, n).await
        {
            match refused {
                OverLimit::For(wait) if Instant::now() + wait <= until && !stop.is_cancelled() => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                // Said in the same words as to an array.
                _ => return self.readings(caller, count).await,
            }
        }
        Ok(())
    }

    /// How many readings of a stream may be counted at once.
    pub fn readings_per_part(&self) -> usize {
        (self.0.readings.meter.per_minute().get() / STREAM_PART).max(1) as usize
    }

    /// Forgets, now and then, of whom nothing is to be remembered.
    pub async fn forget(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(FORGET_SECONDS)).await;
            let now = self.0.clock.now();
            for limit in self.0.limits() {
                if limit.meter.forget(now) >= SUBJECTS_MAX {
                    let limit = limit.name;
                    tracing::warn!(
                        limit,
                        "more than {SUBJECTS_MAX} subjects: some are not counted"
                    );
                }
            }
        }
    }

    fn kind(&self, caller: &Caller) -> &Kind {
        if caller.device.is_some() { &self.0.devices } else { &self.0.gateways }
    }

    fn asking(&self) -> &Asking {
        &self.0.asking
    }

    /// What the other processes have to be told: of which limit, of whom, and how much.
    fn to_tell(&self, most: usize) -> Vec<(i16, Subject, i64)> {
        let now = self.0.clock.now();
        let limits = (0..).zip(self.0.limits());
        let told = limits.flat_map(|(n, limit)| {
            limit.meter.to_tell(now, most).into_iter().map(move |(subject, ns)| (n, subject, ns))
        });
        told.collect()
    }

    fn told(&self, limit: i16, subject: &Subject, own_ns: i64) {
        if let Some(limit) = self.0.numbered(limit) {
            limit.meter.told(subject, own_ns);
        }
    }

    /// What all processes have told flows back in so long.
    fn shared(&self, limit: i16, subject: &Subject, in_ns: i64) {
        let now = self.0.clock.now();
        if let Some(limit) = self.0.numbered(limit) {
            limit.meter.shared(subject, now.saturating_add_signed(in_ns), now);
        }
    }

    fn counted_by(&self, processes: u64) {
        let now = self.0.clock.now();
        self.0.limits().iter().for_each(|limit| limit.meter.counted_by(processes, now));
    }
}

impl All {
    /// By their numbers in `rate_use`.
    fn limits(&self) -> [&Limit; 3] {
        [&self.devices.requests, &self.gateways.requests, &self.readings]
    }

    fn numbered(&self, n: i16) -> Option<&Limit> {
        self.limits().get(usize::try_from(n).ok()?).copied()
    }

    /// Takes so many, or nothing; what is beyond the process's credit when the others have
    /// said what they know.
    async fn take(&self, limit: &Limit, subject: &Subject, n: NonZeroU32) -> Result<(), OverLimit> {
        match limit.meter.take(subject, n, self.clock.now())? {
            Taken::Quietly => Ok(()),
            Taken::ToTell => {
                self.asking.soon();
                Ok(())
            }
            Taken::OnCredit => {
                self.asking.told().await;
                limit.meter.keep(subject, n, self.clock.now())
            }
        }
    }
}

impl Limit {
    /// Says that so many were refused.
    fn refusal(
        &self,
        n: NonZeroU32,
        refused: OverLimit,
        state: LimitState,
        policy: &Bytes,
    ) -> Limited {
        let (most, unit) = (state.per_minute, self.unit);
        let OverLimit::For(wait) = refused else {
            let detail =
                format!("{n} {unit} are more than the {most} of a whole minute: split them");
            return Limited { detail, again: None };
        };
        metrics::counter!("vitals_rate_limited_total", "limit" => self.name).increment(1);
        let seconds = wait.as_millis().div_ceil(1_000).max(1) as u64;
        let detail = format!(
            "{most} {unit} a minute, and {} are left: come again in {seconds} s; {}",
            state.remaining(),
            self.advice
        );
        let again = Again { seconds, state, policy: policy.clone() };
        Limited { detail, again: Some(again) }
    }
}

/// Both limits of a caller, each for a window of a minute.
fn policy(requests: NonZeroU32, readings: NonZeroU32) -> Bytes {
    format!("{requests};w=60;comment=\"requests\", {readings};w=60;comment=\"readings\"").into()
}
