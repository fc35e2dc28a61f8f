//! What can be asked of the API, one entry a route and method.
//!
//! Guarantees that the schema of an answer is that of the handler's own type. What stands
//! here beside (statuses, codes, parameters) is written by hand, and held true from outside:
//! every answer that a test of the suite gets is checked against its entry
//! (`tests/suite/support/described.rs`).

use super::operation::{Operation, Refusals, by_anybody, on};
use crate::adapter::http::{
    ack, alerts, api_keys, assignment, audit, corrections, deliveries, devices, diff, exports,
    fronts, history, jobs, patients, readings, record, revocation, root, rules, shadow, silences,
    tickets, trials, webhook_events, webhooks,
};
use crate::auth::Scope;
use crate::wire;

/// Of every operation.
pub const EVERY: Refusals = &[
    (400, "invalid_query unknown_parameter ambiguous_authorization"),
    (401, "unauthorised"),
    (403, "scope_missing csrf"),
    (429, "rate_limited too_many_requests answer_budget_used"),
    (500, "internal stored_unreadable"),
    (
        503,
        "database_unavailable keys_unavailable timeout too_many_connections too_many_requests \
         answer_budget_used",
    ),
];
/// Of every operation that changes something.
pub const CHANGE: Refusals = &[(503, "audit_busy audit_unavailable")];
/// Of every operation that takes a body.
pub const BODY: Refusals = &[
    (400, "unreadable_json unreadable_encoding body_broken_off"),
    (408, "body_timeout"),
    (413, "body_too_large"),
    (415, "encoding_not_supported"),
    (422, "invalid_body unknown_field nul_character"),
    (429, "body_budget_used"),
    (503, "body_budget_used"),
];
/// What a patient or device is named in, or the token is narrowed to.
const OUTSIDE_TOKEN: Refusals = &[(403, "outside_token")];
const PATIENT: Refusals = &[(403, "outside_token"), (422, "invalid_id")];
const NOT_FOUND: Refusals = &[(404, "not_found")];
const PAGED: Refusals = &[(400, "invalid_limit invalid_cursor"), (409, "log_restored")];
const FIELDS: Refusals = &[(400, "invalid_fields")];
const MONTH_ARCHIVED: Refusals = &[(410, "month_archived")];
const APPENDS: Refusals = &[(503, "log_unavailable")];
const STREAM: Refusals = &[
    (400, "invalid_last_event_id"),
    (409, "log_restored"),
    (429, "too_many_streams"),
    (503, "too_many_streams"),
];
/// A whole history as a table.
const TABLE: Refusals = &[(429, "too_many_tables"), (503, "too_many_tables")];
const EXPORT: Refusals = &[
    (422, "invalid_range invalid_id invalid_recipient"),
    (429, "too_many_jobs too_many_export_bytes"),
    (503, "jobs_busy"),
];
const STATE: Refusals = &[(400, "invalid_state")];
const TEXT: Refusals = &[(422, "invalid_text")];
const REASON: Refusals = &[(400, "invalid_reason")];
const LINK: Refusals = &[(403, "link_invalid link_expired")];
const RULE: Refusals = &[
    (400, "unreadable_rule"),
    (410, "month_archived"),
    (422, "invalid_rule too_many_pages backtest_too_long"),
    (503, "backtest_failed trials_busy"),
];
const RECORD: Refusals = &[
    (413, "record_too_large"),
    (
        422,
        "invalid_id invalid_text invalid_ward invalid_birth_date invalid_spo2_scale invalid_limit_of_patient \
         not_an_object too_many_devices invalid_interval",
    ),
];
const READINGS: Refusals = &[
    (400, "not_utf8 empty_batch"),
    (403, "outside_token"),
    (413, "batch_too_large"),
    (
        422,
        "not_readings empty_batch not_an_object missing_field not_a_number not_a_string invalid_reading \
         invalid_id unknown_vital unit_not_accepted value_out_of_range quality_out_of_range invalid_time \
         measured_in_future measured_too_early month_archived context_not_an_object context_too_large \
         invalid_context not_utf8 unreadable_json line_too_long device_unassigned",
    ),
    (429, "too_many_streams"),
    (503, "log_unavailable queue_full too_many_streams stopping"),
];
const DEVICE: Refusals = &[(409, "device_is_alias too_many_changes"), (422, "invalid_id")];
const RETRACTION: Refusals =
    &[(422, "missing_field unknown_vital invalid_time invalid_reason invalid_id")];
const ENDPOINT: Refusals = &[(
    422,
    "webhook_url_too_long webhook_url_unreadable webhook_url_scheme webhook_url_userinfo \
     webhook_url_fragment webhook_address_refused webhook_host_unresolved invalid_events invalid_description \
     invalid_signature invalid_secret invalid_headers invalid_client_certificate invalid_payload \
     invalid_heartbeat too_many_webhooks",
)];

/// Parameters of queries: name, schema, and what they say.
#[rustfmt::skip]
pub const PARAMETERS: &[(&str, &str, &str)] = &[
    ("asOf", r#"{"type": "string", "format": "date-time"}"#, "As it was true at this moment."),
    ("knownAt", r#"{"type": "string", "format": "date-time"}"#, "Only what had been recorded by this moment."),
    ("from", r#"{"type": "string", "format": "date-time"}"#, "From here on."),
    ("to", r#"{"type": "string", "format": "date-time"}"#, "Until here, not included."),
    ("vital", r#"{"type": "string", "examples": ["heart_rate", "heart_rate,spo2"]}"#, "One vital, or several with commas between them."),
    ("every", r#"{"type": "string", "examples": ["1m", "15m", "1h"]}"#, "Buckets of this length, of one vital."),
    ("points", r#"{"type": "integer", "minimum": 3, "maximum": 10000}"#, "Thinned to at most so many readings of one vital, for a chart."),
    ("speed", r#"{"type": "string", "examples": ["max", "60"]}"#, "Times real time, or `max`."),
    ("types", r#"{"type": "string", "enum": ["reading", "alert", "reading,alert", "alert,reading"]}"#, "What is sent; both when left out."),
    ("ward", r#"{"type": "string", "examples": ["4B"]}"#, "Only this ward's."),
    ("alertState", r#"{"type": "string", "enum": ["active", "ended", "cleared", "missed", "retracted"]}"#, "Only those in this state; `ended` are those that stood when their rule was no longer on trial."),
    ("mode", r#"{"type": "string", "enum": ["active", "shadow"]}"#, "Those of rules that page, as if left out, or of rules on trial."),
    ("deliveryState", r#"{"type": "string", "enum": ["pending", "delivered", "dead"]}"#, "Only those in this state."),
    ("patientId", r#"{"type": "string", "pattern": "^[A-Za-z0-9\\-.]{1,64}$"}"#, "Only this patient's."),
    ("patient", r#"{"type": "string", "pattern": "^[A-Za-z0-9\\-.]{1,64}$"}"#, "Only those to this patient's data."),
    ("subject", r#"{"type": "string", "maxLength": 255}"#, "Only those by this subject."),
    ("reason", r#"{"type": "string", "maxLength": 1000}"#, "Why, which is kept with the version."),
    ("force", r#"{"type": "boolean"}"#, "Also beyond `max_pages_per_patient_day`; needs a reason."),
    ("after", r#"{"type": "integer", "format": "int64", "minimum": 0}"#, "Only those with a higher number."),
    ("lastEventId", r#"{"type": "string"}"#, "As the header `Last-Event-ID`, which goes before it: for who cannot send that the first time."),
    ("ticket", r#"{"type": "string"}"#, "What `POST /stream/tickets` answered, in place of a token."),
    ("link", r#"{"type": "string"}"#, "What the link of the page carried, in place of a token."),
    ("limit", r#"{"type": "integer", "minimum": 1}"#, "So many at most."),
    ("fields", r#"{"type": "string", "maxLength": 1000}"#, "Only these fields, with commas between them and dots inwards (`patientId,vitals.spo2.value`); in a list of its items. All others are left out, also those that are required here."),
    ("cursor", r#"{"type": "string"}"#, "Where the page before ended: its `next`."),
];

const PATIENTS_MANAGE: Scope = Scope::PatientsManage;
const VITALS_READ: Scope = Scope::VitalsRead;
const ALERTS_READ: Scope = Scope::AlertsRead;
const ALERTS_ACK: Scope = Scope::AlertsAck;
const RULES_MANAGE: Scope = Scope::RulesManage;
const WEBHOOKS_MANAGE: Scope = Scope::WebhooksManage;
const FORM: &str = "application/x-www-form-urlencoded";
const HTML: &str = "text/html";
const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";
const PARQUET: &str = "application/vnd.apache.parquet";
const TOML: &str = "application/toml";

/// All of them, in the order of the router.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    by_anybody("get", "/", "Who one is here, and everything that one may do")
        .tagged(&root::root),

    on("post", "/readings", Scope::ReadingsWrite, "Stores readings; answered after the commit").in_wards().body_also_as::<wire::Readings>(&[NDJSON])
        .answers(&[201, 207], &readings::store).refuses(&[READINGS]),

    on("get", "/patients", VITALS_READ, "The patients with their states, now or at a moment").in_wards().of_patients().query(&["ward", "asOf", "knownAt", "cursor", "limit<=500", "fields"])
        .tagged(&patients::list).refuses(&[PAGED, FIELDS, OUTSIDE_TOKEN, MONTH_ARCHIVED]),
    on("get", "/patients/{patient_id}", VITALS_READ, "A patient's state, now or at a moment").in_wards().query(&["asOf", "knownAt", "fields"])
        .tagged(&patients::state).refuses(&[FIELDS, PATIENT, NOT_FOUND, MONTH_ARCHIVED]),
    on("put", "/patients/{patient_id}", PATIENTS_MANAGE, "The same as `PUT` of the record").in_wards().of_patients().body::<wire::Record>()
        .answers(&[200], &record::put).refuses(&[PATIENT, NOT_FOUND, RECORD, &[(422, "would_erase")], APPENDS]),
    on("get", "/patients/{patient_id}/record", VITALS_READ, "A patient's record, and who changed it last").in_wards().of_patients()
        .tagged(&record::get).refuses(&[PATIENT, NOT_FOUND]),
    on("put", "/patients/{patient_id}/record", PATIENTS_MANAGE, "The whole record; null removes a field, and one that steers alarms is not left out").in_wards().of_patients().body::<wire::Record>()
        .answers(&[200], &record::put).refuses(&[PATIENT, NOT_FOUND, RECORD, &[(422, "would_erase")], APPENDS]),
    on("patch", "/patients/{patient_id}/record", PATIENTS_MANAGE, "A part of the record: what is left out stays, null removes").in_wards().of_patients().body::<wire::Record>()
        .answers(&[200], &record::patch).refuses(&[PATIENT, NOT_FOUND, RECORD, APPENDS]),
    on("get", "/patients/{patient_id}/readings", VITALS_READ, "History: a page, buckets, points, or by `Accept` a whole table").in_wards()
        .query(&["vital", "from", "to", "every", "points", "limit<=10000", "cursor", "fields"]).tagged(&history::readings).also_as(&[CSV, NDJSON, PARQUET])
        .refuses(&[PAGED, FIELDS, PATIENT, NOT_FOUND, MONTH_ARCHIVED, &[(400, "unknown_vital vital_required every_or_points invalid_every invalid_points whole_table"), (406, "not_acceptable"), (422, "too_many_readings")], TABLE]),
    on("get", "/patients/{patient_id}/diff", VITALS_READ, "What was known at a moment against what is known of it now").in_wards().query(&["asOf", "knownAt", "from", "limit<=10000", "cursor"])
        .tagged(&diff::diff).refuses(&[PAGED, PATIENT, NOT_FOUND, MONTH_ARCHIVED, &[(400, "as_of_required")]]),
    on("post", "/patients/{patient_id}/readings/retract", Scope::ReadingsCorrect, "A reading was entered in error").in_wards().body::<wire::Retraction>()
        .answers(&[200, 201], &corrections::retract).refuses(&[PATIENT, RETRACTION, NOT_FOUND, MONTH_ARCHIVED, APPENDS]),
    on("get", "/patients/{patient_id}/{vital}", VITALS_READ, "The newest reading of a vital").in_wards()
        .tagged(&patients::vital).refuses(&[PATIENT, &[(404, "not_found unknown_vital")]]),
    on("get", "/wards/{ward}", VITALS_READ, "All that a ward's wall needs").in_wards().of_patients().query(&["fields"])
        .tagged(&fronts::ward).refuses(&[FIELDS, OUTSIDE_TOKEN, &[(422, "invalid_ward")]]),
    on("get", "/mobile/patients/{patient_id}", VITALS_READ, "A patient on a phone, in few bytes").in_wards()
        .tagged(&fronts::mobile).refuses(&[PATIENT, NOT_FOUND]),
    on("get", "/devices", VITALS_READ, "What sends: last heard of, expected interval, coverage").in_wards().query(&["patientId", "limit<=500", "cursor"])
        .tagged(&devices::list).refuses(&[PAGED, OUTSIDE_TOKEN]),
    on("get", "/devices/{id}", VITALS_READ, "A device: at each patient that it has measured, what is registered, and its assignments, now or at a moment").in_wards().query(&["asOf", "knownAt"])
        .tagged(&devices::get).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("put", "/devices/{id}", PATIENTS_MANAGE, "All that is registered of a device: model, vitals, interval, aliases").of_tenant().body::<wire::DeviceRegistration>()
        .answers(&[200], &assignment::put).refuses(&[OUTSIDE_TOKEN, DEVICE, APPENDS, &[(422, "invalid_text invalid_interval unknown_vital too_many_aliases"), (409, "alias_taken")]]),
    on("post", "/devices/{id}/assign", PATIENTS_MANAGE, "From a moment on a device measures a patient, and no other").of_tenant().body::<wire::NewAssignment>()
        .answers(&[200], &assignment::assign).refuses(&[OUTSIDE_TOKEN, DEVICE, APPENDS, &[(422, "missing_field invalid_time"), (410, "month_archived")]]),
    on("post", "/devices/{id}/unassign", PATIENTS_MANAGE, "From a moment on a device measures nobody").of_tenant().body::<wire::EndedAssignment>().may_be_empty()
        .answers(&[200], &assignment::unassign).refuses(&[OUTSIDE_TOKEN, DEVICE, APPENDS, &[(422, "invalid_time"), (410, "month_archived")]]),
    on("post", "/devices/{id}/reassign", Scope::ReadingsCorrect, "What a device measured in a time was another patient's: a job that moves the readings, or undoes all it did").of_tenant().body::<wire::Reassignment>()
        .answers(&[202], &assignment::reassign).located().refuses(&[OUTSIDE_TOKEN, MONTH_ARCHIVED, &[(409, "device_is_alias reassignment_under_way"), (422, "invalid_id missing_field invalid_time invalid_range invalid_reason"), (429, "too_many_jobs"), (503, "jobs_busy")]]),
    on("get", "/patients/{patient_id}/replay", VITALS_READ, "What happened, at a multiple of real time; resumes with `Last-Event-ID`").in_wards().query(&["from", "to", "knownAt", "speed", "lastEventId", "ticket"]).by_ticket()
        .resumes().events().refuses(&[PATIENT, NOT_FOUND, MONTH_ARCHIVED, STREAM, &[(400, "invalid_speed")]]),
    on("get", "/stream", VITALS_READ, "What happens, as it happens; resumes with `Last-Event-ID`").in_wards().query(&["types", "lastEventId", "ticket"]).by_ticket()
        .resumes().events().refuses(&[MONTH_ARCHIVED, STREAM, &[(400, "invalid_types")]]),
    on("post", "/stream/tickets", VITALS_READ, "What opens a stream or a replay for a minute, as `ticket` of its address: for an `EventSource` of another origin").in_wards()
        .answers(&[201], &tickets::make),

    on("get", "/alerts", ALERTS_READ, "Alerts, newest first; with `mode=shadow` what rules on trial would have raised").in_wards().query(&["mode", "alertState", "patientId", "limit<=1000", "cursor", "fields"])
        .tagged(&alerts::list).refuses(&[PAGED, FIELDS, STATE, OUTSIDE_TOKEN, &[(400, "invalid_id")]]),
    on("get", "/alerts/{id}", ALERTS_READ, "An alert, and what raised it").in_wards()
        .tagged(&alerts::get).refuses(&[NOT_FOUND]),
    on("get", "/alerts/{id}/ack", ALERTS_ACK, "A page with one button, for a phone: what it is, and who has seen it").in_wards().query(&["link"]).by_link()
        .page().refuses(&[NOT_FOUND, LINK]),
    on("post", "/alerts/{id}/ack", ALERTS_ACK, "Somebody has seen it; a form is answered with the page").in_wards().query(&["link"]).by_link()
        .body_also_as::<wire::AcknowledgementRequest>(&[FORM]).answers(&[200], &ack::acknowledge).also_as(&[HTML]).refuses(&[NOT_FOUND, TEXT, APPENDS, LINK]),
    on("post", "/alerts/{id}/clear", ALERTS_ACK, "It is over, says a person").in_wards().body::<wire::AcknowledgementRequest>()
        .answers(&[200], &ack::clear).refuses(&[NOT_FOUND, TEXT, APPENDS]),

    on("get", "/rules", RULES_MANAGE, "The newest version of each rule").of_tenant()
        .tagged(&rules::list).refuses(&[OUTSIDE_TOKEN]),
    on("post", "/rules/backtest", RULES_MANAGE, "What a rule would have raised over the history: a job").of_tenant().body::<wire::Backtest>()
        .answers(&[202], &trials::start).located().refuses(&[OUTSIDE_TOKEN, &[(422, "invalid_rule invalid_sweep invalid_against"), (429, "too_many_jobs"), (503, "jobs_busy")]]),
    on("get", "/rules/{id}", RULES_MANAGE, "The newest version of a rule").of_tenant()
        .tagged(&rules::get).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("put", "/rules/{id}", RULES_MANAGE, "Writes a rule: a new version").of_tenant().query(&["reason", "force"]).body_also_as::<wire::Rule>(&[TOML])
        .answers(&[200], &rules::put).refuses(&[OUTSIDE_TOKEN, RULE, REASON, APPENDS]),
    on("delete", "/rules/{id}", RULES_MANAGE, "Retires a rule").of_tenant().query(&["reason"])
        .nothing().refuses(&[OUTSIDE_TOKEN, NOT_FOUND, REASON, APPENDS, &[(422, "invalid_rule")]]),
    on("get", "/rules/{id}/versions", RULES_MANAGE, "Every version of a rule, with who and why").of_tenant()
        .tagged(&rules::history).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("get", "/rules/{id}/report", RULES_MANAGE, "The pages that the version on trial would have sent, by day (UTC) and patient, beside those that the rules at work have sent").of_tenant().query(&["from", "to", "limit<=1000", "cursor"])
        .tagged(&shadow::report).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, PAGED, &[(400, "invalid_range")]]),
    on("get", "/silences", ALERTS_ACK, "The silences, newest first").of_tenant()
        .tagged(&silences::list).refuses(&[OUTSIDE_TOKEN]),
    on("post", "/silences", ALERTS_ACK, "Holds pages of a rule, a patient or a ward back; never of high priority, and refused when it could hold none back").of_tenant().body::<wire::NewSilence>()
        .answers(&[201], &silences::create).refuses(&[OUTSIDE_TOKEN, APPENDS, &[(422, "invalid_silence silence_has_no_effect")]]),
    on("get", "/silences/{id}", ALERTS_ACK, "A silence, with what it held back").of_tenant()
        .tagged(&silences::get).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("delete", "/silences/{id}", ALERTS_ACK, "Ends a silence").of_tenant()
        .answers(&[200], &silences::end).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, APPENDS]),
    on("get", "/jobs/{id}", RULES_MANAGE, "How far a job is, then its result; with the scope that started it").or(&[Scope::ReadingsCorrect, VITALS_READ]).of_tenant()
        .tagged(&jobs::get).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("delete", "/jobs/{id}", RULES_MANAGE, "Stops a job, or puts the bytes of an export away; with the scope that started it").or(&[Scope::ReadingsCorrect, VITALS_READ]).of_tenant()
        .nothing().refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),

    on("post", "/exports", VITALS_READ, "Readings as one table, of all patients or some: a job").of_tenant().body::<wire::NewExport>()
        .answers(&[202], &exports::start).located().refuses(&[OUTSIDE_TOKEN, EXPORT]),
    on("get", "/jobs/{id}/result", VITALS_READ, "The bytes of an export that is done, whole or by `Range`").of_tenant()
        .file().also_as(&[CSV, NDJSON, PARQUET]).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, TABLE, &[(410, "export_expired"), (416, "range_not_satisfiable")]]),

    on("post", "/tokens/revoke", Scope::TokensRevoke, "Takes a token, or all that a subject has by now, out of use").of_tenant().body::<wire::Revocation>()
        .answers(&[200], &revocation::revoke).refuses(&[OUTSIDE_TOKEN, APPENDS, &[(422, "missing_field invalid_revocation invalid_reason")]]),

    on("get", "/api-keys", Scope::KeysManage, "The tenant's API keys, newest first, without their secrets").in_wards().query(&["limit<=500", "cursor"])
        .tagged(&api_keys::list).refuses(&[PAGED]),
    on("post", "/api-keys", Scope::KeysManage, "Makes an API key, no wider than the token; it is told this once").in_wards().body::<wire::NewApiKey>()
        .answers(&[201], &api_keys::make).refuses(&[OUTSIDE_TOKEN, APPENDS, &[(409, "too_many_api_keys"), (422, "missing_field invalid_api_key invalid_id")]]),
    on("delete", "/api-keys/{id}", Scope::KeysManage, "Takes an API key out of use").in_wards().query(&["reason"])
        .nothing().refuses(&[NOT_FOUND, REASON, APPENDS]),
    on("get", "/audit", Scope::AuditRead, "Who has read or changed what of whom, newest first: a page, or by `Accept` all of it").of_tenant().query(&["patient", "subject", "from", "to", "limit<=1000", "cursor"])
        .tagged(&audit::list).also_as(&[NDJSON]).refuses(&[OUTSIDE_TOKEN, PAGED, &[(400, "invalid_id"), (406, "not_acceptable")], TABLE]),

    on("get", "/webhooks", WEBHOOKS_MANAGE, "The tenant's endpoints").of_tenant()
        .tagged(&webhooks::list).refuses(&[OUTSIDE_TOKEN]),
    on("post", "/webhooks", WEBHOOKS_MANAGE, "Makes an endpoint; its secret is told this once").of_tenant().body::<wire::NewWebhook>()
        .answers(&[201], &webhooks::create).located().refuses(&[OUTSIDE_TOKEN, ENDPOINT, APPENDS]),
    on("get", "/webhooks/{id}", WEBHOOKS_MANAGE, "An endpoint").of_tenant()
        .tagged(&webhooks::get).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("patch", "/webhooks/{id}", WEBHOOKS_MANAGE, "Changes an endpoint, or pauses it").of_tenant().body::<wire::ChangedWebhook>()
        .answers(&[200], &webhooks::change).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, ENDPOINT, APPENDS, &[(422, "invalid_state")]]),
    on("delete", "/webhooks/{id}", WEBHOOKS_MANAGE, "Ends an endpoint").of_tenant()
        .nothing().refuses(&[OUTSIDE_TOKEN, NOT_FOUND, APPENDS]),
    on("post", "/webhooks/{id}/rotate-secret", WEBHOOKS_MANAGE, "A new secret, told this once; the one before signs too for 24 hours").of_tenant().body::<wire::Rotation>().may_be_empty()
        .answers(&[200], &webhooks::rotate).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, &[(409, "rotated_too_often"), (422, "invalid_signature invalid_secret")]]),
    on("post", "/webhooks/{id}/ping", WEBHOOKS_MANAGE, "Sends a signed test event now and says what came of it").of_tenant()
        .answers(&[200], &webhooks::ping).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("post", "/webhooks/{id}/replay", WEBHOOKS_MANAGE, "Sends the deliveries of a time once more, under their ids").of_tenant().body::<wire::Replay>()
        .answers(&[202], &deliveries::replay_range).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, &[(409, "webhook_disabled"), (422, "invalid_range invalid_state too_many_deliveries")]]),
    on("get", "/webhooks/{id}/deliveries", WEBHOOKS_MANAGE, "What was sent to it, newest first").of_tenant().query(&["deliveryState", "limit<=1000", "cursor"])
        .tagged(&deliveries::list).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, PAGED, STATE]),
    on("get", "/webhooks/{id}/events", WEBHOOKS_MANAGE, "What it was to be told, by number, without gaps").of_tenant().query(&["after", "limit<=1000", "cursor"])
        .tagged(&webhook_events::list).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, PAGED, &[(400, "invalid_after")]]),
    on("get", "/deliveries/{id}", WEBHOOKS_MANAGE, "A delivery with every attempt").of_tenant()
        .tagged(&deliveries::get).refuses(&[OUTSIDE_TOKEN, NOT_FOUND]),
    on("post", "/deliveries/{id}/replay", WEBHOOKS_MANAGE, "Sends a delivery once more, under its id").of_tenant()
        .answers(&[202], &deliveries::replay).refuses(&[OUTSIDE_TOKEN, NOT_FOUND, &[(409, "webhook_disabled")]]),
];
