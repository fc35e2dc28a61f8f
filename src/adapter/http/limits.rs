//! How much a subject of a tenant may ask for in a minute.
//!
//! Guarantees that every answer to a good token says where its subject stands; that
//! from 80 % of a limit on answers go out later, and only the answers: what was asked
//! for is done by then; and that what is refused with 429 was not done. One subject's
//! use is never another's. Does not count requests without a good token, nor what the
//! other processes of an installation count.
//!
//! The headers are those of draft-ietf-httpapi-ratelimit-headers-06, the last one that
//! has them as four. They tell of the limit of which most is used. `RateLimit-Reset` is
//! when the whole limit is back, but beside `Retry-After` the same moment as that.

mod meter;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use governor::clock::MonotonicClock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::meter::Subject;
use self::meter::{Meter, Refused, SUBJECTS_MAX, Standing};
use super::auth::Caller;
use super::problem::Problem;

/// The longest that a part of a stream waits until it is due.
const DUE_MS_MAX: u64 = 20_000;
/// The largest part of a stream, of what a minute allows: it is due within seconds.
const STREAM_PART: u32 = 10;
/// How often subjects are forgotten of whom nothing is to be remembered.
const FORGET_SECONDS: u64 = 60;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

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
}

/// A request that was counted.
pub struct Asked<'a> {
    subject: Subject,
    /// With this request, whatever flows back while it is done.
    standing: Standing,
    policy: &'a HeaderValue,
}

/// What a kind of caller is told and counted by, beside its readings.
struct Kind {
    requests: Limit,
    policy: HeaderValue,
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
    /// Limits that nobody has used.
    pub fn new(rates: Rates) -> Limits {
        let limit = |per_minute, name, unit, advice| {
            let meter = Meter::new(per_minute, MonotonicClock);
            Limit { meter, name, unit, advice }
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
        }))
    }

    /// Counts a request before anything is done: 429 when none is left.
    pub fn request(&self, caller: &Caller) -> Result<Asked<'_>, Problem> {
        let (Kind { requests, policy }, subject) = (self.kind(caller), caller.counted());
        requests.take(&subject, NonZeroU32::MIN, policy)?;
        Ok(Asked { standing: requests.meter.standing(&subject), subject, policy })
    }

    /// Says with a request's answer where its subject stands, and holds it back if that
    /// is near a limit.
    pub async fn answer(&self, asked: Asked<'_>, mut response: Response) -> Response {
        // Refused because of its readings: that is what it was told, and at once.
        if response.headers().contains_key(LIMIT) {
            return response;
        }
        let standing = asked.standing.tighter(self.0.readings.meter.standing(&asked.subject));
        tell(response.headers_mut(), standing, asked.policy);
        let slowed = standing.slowed();
        if !slowed.is_zero() {
            tokio::time::sleep(slowed).await;
        }
        response
    }

    /// Counts readings before they are stored: 429 when fewer are left, 413 when they
    /// are more than ever can be.
    pub fn readings(&self, caller: &Caller, count: usize) -> Result<(), Problem> {
        let limit = &self.0.readings;
        match NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)) {
            Some(count) => limit.take(&caller.counted(), count, &self.kind(caller).policy),
            None => Ok(()),
        }
    }

    /// Counts readings of a stream before they are stored. Its sender is made to wait
    /// until they are due, so that a stream runs at the speed of the limit; 429 when
    /// that takes longer than [`DUE_MS_MAX`], or `hurry` is cancelled.
    pub async fn readings_when_due(
        &self,
        caller: &Caller,
        count: usize,
        hurry: &CancellationToken,
    ) -> Result<(), Problem> {
        let until = Instant::now() + Duration::from_millis(DUE_MS_MAX);
        let subject = caller.counted();
        while let Some(n) = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX))
            && let Err(refused) = self.0.readings.meter.take(&subject, n)
        {
            match refused {
                Refused::For(wait) if Instant::now() + wait <= until && !hurry.is_cancelled() => {
                    tokio::select! {
                        () = hurry.cancelled() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                // Said in the same words as to an array.
                _ => return self.readings(caller, count),
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
            let All { devices, gateways, readings } = &*self.0;
            for limit in [&devices.requests, &gateways.requests, readings] {
                if limit.meter.forget() >= SUBJECTS_MAX {
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
}

impl Limit {
    fn take(&self, subject: &Subject, n: NonZeroU32, policy: &HeaderValue) -> Result<(), Problem> {
        let refused = match self.meter.take(subject, n) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let standing = self.meter.standing(subject);
        let (most, unit) = (standing.per_minute, self.unit);
        let Refused::For(wait) = refused else {
            let detail =
                format!("{n} {unit} are more than the {most} of a whole minute: split them");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail));
        };
        metrics::counter!("vitals_rate_limited_total", "limit" => self.name).increment(1);
        let seconds = wait.as_millis().div_ceil(1_000).max(1) as u64;
        let detail = format!(
            "{most} {unit} a minute at each process of vitals, and {} are left: come again in {seconds} s; {}",
            standing.remaining(),
            self.advice
        );
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
            .header(header::RETRY_AFTER, HeaderValue::from(seconds))
            .header(LIMIT, HeaderValue::from(most))
            .header(REMAINING, HeaderValue::from(standing.remaining()))
            .header(RESET, HeaderValue::from(seconds))
            .header(POLICY, policy.clone()))
    }
}

/// Both limits of a caller, each for a window of a minute.
fn policy(requests: NonZeroU32, readings: NonZeroU32) -> HeaderValue {
    let text =
        format!("{requests};w=60;comment=\"requests\", {readings};w=60;comment=\"readings\"");
    // Digits and the words above: always a value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn tell(headers: &mut HeaderMap, standing: Standing, policy: &HeaderValue) {
    headers.insert(LIMIT, HeaderValue::from(standing.per_minute));
    headers.insert(REMAINING, HeaderValue::from(standing.remaining()));
    headers.insert(RESET, HeaderValue::from(standing.reset_seconds()));
    headers.insert(POLICY, policy.clone());
}
