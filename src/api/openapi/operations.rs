//! What can be asked of the API, one entry a route and method.

/// A route with a method.
pub struct Operation {
    /// In lower case.
    pub method: &'static str,
    /// Below `/api/v1`.
    pub path: &'static str,
    /// Which scope of a token it takes.
    pub scope: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Names of [`PARAMETERS`].
    pub query: &'static [&'static str],
    /// The schema of its body.
    pub body: Option<&'static str>,
    /// The status and the schema of its answer.
    pub answer: (&'static str, &'static str),
}

impl Operation {
    const fn query(mut self, names: &'static [&'static str]) -> Operation {
        self.query = names;
        self
    }

    const fn body(mut self, schema: &'static str) -> Operation {
        self.body = Some(schema);
        self
    }

    const fn answers(mut self, status: &'static str, schema: &'static str) -> Operation {
        self.answer = (status, schema);
        self
    }
}

const fn on(
    method: &'static str,
    path: &'static str,
    scope: &'static str,
    summary: &'static str,
) -> Operation {
    let answer = ("200", "Object");
    Operation { method, path, scope, summary, query: &[], body: None, answer }
}

/// Parameters of queries: name, type, and what they say.
#[rustfmt::skip]
pub const PARAMETERS: &[(&str, &str, &str)] = &[
    ("asOf", "time", "as it was true at this moment"),
    ("knownAt", "time", "only what had been recorded by this moment"),
    ("from", "time", "from here on"),
    ("to", "time", "until here, not included"),
    ("vital", "string", "one vital, or several with commas between them"),
    ("every", "string", "buckets of this length: 1m, 15m, 1h"),
    ("points", "integer", "thinned to at most so many readings, for a chart"),
    ("speed", "string", "times real time, or max"),
    ("types", "string", "reading, alert, or both with a comma between them"),
    ("ward", "string", "only this ward's"),
    ("state", "string", "only those in this state"),
    ("patientId", "string", "only this patient's"),
    ("reason", "string", "why, which is kept with the version"),
    ("force", "boolean", "also beyond max_pages_per_patient_day; needs a reason"),
    ("after", "integer", "only those with a higher number"),
    ("limit", "integer", "so many at most"),
    ("cursor", "string", "where the page before ended: its next"),
    ("link", "string", "the signed link that came with the alert, in place of a token"),
];

const R: &str = "vitals:read";
const A: &str = "alerts:read";
const K: &str = "alerts:ack";
const M: &str = "rules:manage";
const H: &str = "webhooks:manage";

/// All of them, in the order of the router.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    on("post", "/readings", "readings:write", "Stores readings; answered after the commit").body("Readings").answers("201", "Stored"),

    on("get", "/patients", R, "The patients with their states").query(&["ward", "cursor", "limit"]).answers("200", "List"),
    on("get", "/patients/{patient_id}", R, "A patient's state, now or at a moment").query(&["asOf", "knownAt"]).answers("200", "State"),
    on("put", "/patients/{patient_id}", R, "Registers a patient: the whole record").body("Object"),
    on("get", "/patients/{patient_id}/readings", R, "History: a page, buckets, points, or by Accept a whole table").query(&["vital", "from", "to", "every", "points", "limit", "cursor"]).answers("200", "List"),
    on("get", "/patients/{patient_id}/diff", R, "What was known at a moment against what is known of it now").query(&["asOf", "knownAt", "from", "limit", "cursor"]).answers("200", "Diff"),
    on("post", "/patients/{patient_id}/readings/retract", "readings:correct", "A reading was entered in error").body("Retraction").answers("201", "Object"),
    on("get", "/patients/{patient_id}/{vital}", R, "The newest reading of a vital").answers("200", "Newest"),
    on("get", "/devices", R, "What sends: last heard of, expected interval, coverage").query(&["patientId", "limit", "cursor"]).answers("200", "List"),
    on("get", "/devices/{id}", R, "A device, at each patient that it has measured"),
    on("get", "/patients/{patient_id}/replay", R, "What happened, at a multiple of real time; resumes with Last-Event-ID").query(&["from", "to", "knownAt", "speed"]).answers("200", "Events"),
    on("get", "/stream", R, "What happens, as it happens; resumes with Last-Event-ID").query(&["types"]).answers("200", "Events"),

    on("get", "/alerts", A, "Alerts, newest first").query(&["state", "patientId", "limit", "cursor"]).answers("200", "List"),
    on("get", "/alerts/{id}", A, "An alert, and what raised it").answers("200", "Alert"),
    on("post", "/alerts/{id}/ack", K, "Somebody has seen it").query(&["link"]).body("Acknowledgement").answers("200", "Alert"),
    on("post", "/alerts/{id}/clear", K, "It is over, says a person").body("Acknowledgement").answers("200", "Alert"),

    on("get", "/rules", M, "The newest version of each rule").answers("200", "List"),
    on("post", "/rules/backtest", M, "What a rule would have raised over the history: a job").body("Object").answers("202", "Object"),
    on("put", "/rules/{id}", M, "Writes a rule: a new version, in JSON or as application/toml").query(&["reason", "force"]).body("Object"),
    on("delete", "/rules/{id}", M, "Retires a rule").query(&["reason"]).answers("204", "Nothing"),
    on("get", "/rules/{id}/versions", M, "Every version of a rule, with who and why").answers("200", "List"),
    on("get", "/silences", K, "The silences, newest first").answers("200", "List"),
    on("post", "/silences", K, "Holds pages of a rule, a patient or a ward back; never of high priority").body("Object").answers("201", "Object"),
    on("get", "/silences/{id}", K, "A silence, with what it held back"),
    on("delete", "/silences/{id}", K, "Ends a silence"),
    on("get", "/jobs/{id}", M, "How far a job is, then its result"),
    on("delete", "/jobs/{id}", M, "Stops a job").answers("204", "Nothing"),

    on("get", "/webhooks", H, "The tenant's endpoints").answers("200", "List"),
    on("post", "/webhooks", H, "Makes an endpoint; its secret is told this once").body("Endpoint").answers("201", "Endpoint"),
    on("get", "/webhooks/{id}", H, "An endpoint").answers("200", "Endpoint"),
    on("patch", "/webhooks/{id}", H, "Changes an endpoint, or pauses it").body("Endpoint").answers("200", "Endpoint"),
    on("delete", "/webhooks/{id}", H, "Ends an endpoint").answers("204", "Nothing"),
    on("post", "/webhooks/{id}/rotate-secret", H, "A new secret, told this once; the one before signs too for 24 hours").answers("200", "Endpoint"),
    on("post", "/webhooks/{id}/ping", H, "Sends a signed test event now and says what came of it"),
    on("post", "/webhooks/{id}/replay", H, "Sends the deliveries of a time once more, under their ids").body("Times").answers("202", "Object"),
    on("get", "/webhooks/{id}/deliveries", H, "What was sent to it, newest first").query(&["state", "limit", "cursor"]).answers("200", "List"),
    on("get", "/webhooks/{id}/events", H, "What it was to be told, by number, without gaps").query(&["after", "limit", "cursor"]).answers("200", "List"),
    on("get", "/deliveries/{id}", H, "A delivery with every attempt"),
    on("post", "/deliveries/{id}/replay", H, "Sends a delivery once more, under its id").answers("202", "Object"),
];
