//! Every metric that there is, and what it says.
//!
//! One table for `/metrics` and for `docs/reference/metrics.md`. Guarantees that nothing is
//! counted under a name that is not in it (`tests/suite/tidy.rs`).

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is now.
    Gauge,
    /// How it is distributed, over buckets.
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Name, kind, labels, and what it says.
pub type Metric = (&'static str, Kind, &'static [&'static str], &'static str);

/// All of them.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    ("vitals_alert_events_total", Counter, &[], "Alert events that the rules have appended"),
    ("vitals_anchor_errors_total", Counter, &[], "Times that the heads of the log could not be published"),
    ("vitals_anchor_timestamp_seconds", Gauge, &[], "When the heads of the log were last published, seconds since 1970"),
    ("vitals_append_errors_total", Counter, &[], "Appends that failed; nothing of them was acknowledged"),
    ("vitals_audit_append_errors_total", Counter, &[], "Appends of accesses that failed; they are tried again"),
    ("vitals_audit_passed_over_total", Counter, &[], "Reads that found the audit's queue full; their number is recorded"),
    ("vitals_audit_recorded_total", Counter, &[], "Accesses recorded"),
    ("vitals_audit_syslog_errors_total", Counter, &[], "Times that accesses could not be told to syslog"),
    ("vitals_audit_syslog_lag_seconds", Gauge, &[], "For how long the oldest access that syslog was not told has been recorded"),
    ("vitals_audit_syslog_sent_total", Counter, &[], "Accesses told to syslog, repeats included"),
    ("vitals_connections", Gauge, &[], "Open connections from outside"),
    ("vitals_consumer_errors_total", Counter, &["consumer"], "Steps of a consumer that failed and are tried again"),
    ("vitals_consumer_lag_positions", Gauge, &["consumer"], "How far a consumer is behind the log, in all shards"),
    ("vitals_drifting_patients", Gauge, &["projection"], "Patients of whom a projection is not what the log says"),
    ("vitals_export_bytes", Gauge, &[], "Bytes of exports that are kept or written, in the database"),
    ("vitals_http_problems_total", Counter, &["code"], "Requests refused or failed, by the code of their answer"),
    ("vitals_http_request_seconds", Histogram, &["method", "route"], "From a request to the beginning of its answer"),
    ("vitals_http_requests_total", Counter, &["method", "route", "status"], "Requests answered"),
    ("vitals_identity_provider_up", Gauge, &[], "Whether people can sign in by the identity provider: 1, or 0"),
    ("vitals_jobs", Gauge, &["state"], "Jobs that wait or run, in all processes"),
    ("vitals_jobs_ended_total", Counter, &["kind", "end"], "Jobs that ended in this process"),
    ("vitals_jobs_refused_total", Counter, &["limit"], "Jobs that were refused because there were too many"),
    ("vitals_log_ahead_seconds", Gauge, &[], "How far the log's time is ahead of this process's clock"),
    ("vitals_log_incarnation", Gauge, &[], "Number of the log's history; a restore begins another one"),
    ("vitals_log_lost_positions", Gauge, &[], "Positions known to have been acknowledged that a restore lost"),
    ("vitals_log_restored_total", Counter, &[], "Restores of the log that this process has met"),
    ("vitals_parked_patients", Gauge, &["consumer"], "Patients that a consumer goes on without"),
    ("vitals_parked_total", Counter, &["consumer"], "Patients that were parked by this process"),
    ("vitals_queue_full_total", Counter, &[], "Batches of readings refused because the queue was full"),
    ("vitals_rate_limited_total", Counter, &["limit"], "Requests refused by a rate limit"),
    ("vitals_readings_rejected_total", Counter, &["code"], "Readings refused, by the code that their sender was told"),
    ("vitals_readings_stored_total", Counter, &[], "Readings committed"),
    ("vitals_refused_total", Counter, &["limit", "whose"], "Times that a budget was used up"),
    ("vitals_self_checked_patients_total", Counter, &["projection"], "Patients whose projection was compared with the log"),
    ("vitals_sign_ins_total", Counter, &["outcome"], "Who signed in and out with a browser, and who did not get in"),
    ("vitals_stopped_shards", Gauge, &["consumer"], "Shards in which a consumer has stopped"),
    ("vitals_tls_certificate_expires_seconds", Gauge, &[], "When the TLS certificate expires, seconds since 1970"),
    ("vitals_tls_handshake_failures_total", Counter, &[], "TLS handshakes that failed"),
    ("vitals_tls_reload_failures_total", Counter, &[], "Looks at the TLS files that found something unusable"),
    ("vitals_trace_spans_total", Counter, &["outcome"], "Steps of traces that were sent, failed to be, or were dropped because too many waited"),
    ("vitals_traces_limited_total", Counter, &[], "Traces that were not recorded because there are too many a second"),
    ("vitals_trials_refused_total", Counter, &[], "Rules that were not tried because too many were at that moment"),
    ("vitals_webhook_attempt_seconds", Histogram, &["class"], "How long an attempt to deliver took"),
    ("vitals_webhook_attempts_total", Counter, &["outcome", "class"], "Attempts to deliver"),
    ("vitals_webhook_breakers", Gauge, &["state"], "Endpoints that cannot be reached, or are probed"),
    ("vitals_webhook_delivery_seconds", Histogram, &["class"], "From when a delivery was made to when it was taken"),
    ("vitals_webhook_due", Gauge, &["class"], "Deliveries that are due"),
    ("vitals_webhook_oldest_due_seconds", Gauge, &["class"], "For how long the oldest delivery has been due"),
];

/// Tells Prometheus what each says.
pub(super) fn describe() {
    for (name, kind, _, says) in METRICS {
        match kind {
            Counter => metrics::describe_counter!(*name, *says),
            Gauge => metrics::describe_gauge!(*name, *says),
            Histogram => metrics::describe_histogram!(*name, *says),
        }
    }
}
