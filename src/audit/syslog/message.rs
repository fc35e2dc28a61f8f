//! An access as a line of syslog: RFC 5424, framed by its length (RFC 5425, 4.3).
//!
//! Guarantees that whatever an access says stays within its own value. The structured data
//! has all of it under names of our own; the text after it is for people.

use std::fmt::Write;

use super::lease::Stored;
use crate::audit::access::AccessData;
use crate::clock::rfc3339;
use crate::event::ACCESSES_OF;

/// The facility "log audit" (RFC 5424, 6.2.1), times eight.
const FACILITY: u8 = 13 * 8;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;
/// Our structured data's name, under the number that is kept for whoever has none (RFC 5612).
const SD_ID: &str = "vitals@32473";
/// Characters of a host's name at most.
const HOST_CHARS_MAX: usize = 255;

/// Who sends lines.
pub(super) struct Sender {
    host: String,
    process: u32,
}

impl Sender {
    pub(super) fn of_this_machine() -> Sender {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.chars().filter(char::is_ascii_graphic).take(HOST_CHARS_MAX);
        let name: String = name.collect();
        let host = if name.is_empty() { "-".to_owned() } else { name };
        Sender { host, process: std::process::id() }
    }

    /// A line with its length before it.
    pub(super) fn frame(&self, stored: &Stored) -> Vec<u8> {
        let line = self.line(stored);
        format!("{} {line}", line.len()).into_bytes()
    }

    fn line(&self, stored: &Stored) -> String {
        // What a newer version wrote is told as far as this one knows it.
        let data: AccessData = serde_json::from_str(&stored.data).unwrap_or_default();
        let severity = match (data.status, &*data.action) {
            (Some(400..=499), _) | (_, "passed_over") => WARNING,
            (_, "change" | "sign_in") => NOTICE,
            _ => INFORMATIONAL,
        };
        let (at, host) = (rfc3339(stored.occurred_at), &self.host);
        let what = if data.action.is_empty() { "-" } else { &*data.action };
        let mut line = format!(
            "<{}>1 {at} {host} vitals {} {what} [{SD_ID}",
            FACILITY + severity,
            self.process
        );
        let patient = stored.patient_id.strip_prefix(ACCESSES_OF).unwrap_or_default();
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        for (name, value) in [
            ("id", format!("{}-{}", stored.shard, stored.position)),
            ("tenant", stored.tenant.clone()),
            ("subject", stored.source_id.clone()),
            ("by", data.by.map(by).unwrap_or_default()),
            ("tokenId", text(&data.token_id)),
            ("address", text(&data.address)),
            ("method", data.method.clone()),
            ("route", data.route.clone()),
            ("status", number(data.status.map(u64::from))),
            ("code", text(&data.code)),
            ("patientId", patient.to_owned()),
            ("deviceId", text(&data.device_id)),
            ("ward", text(&data.ward)),
            ("resourceId", text(&data.id)),
            ("count", number(data.count)),
            ("until", data.until.map(rfc3339).unwrap_or_default()),
        ] {
            put(&mut line, name, &value);
        }
        line.push_str("] ");
        said(&mut line, stored, &data, patient);
        line
    }
}

/// As it is stored.
fn by(means: crate::audit::Means) -> String {
    let text = serde_json::to_value(means).unwrap_or_default();
    text.as_str().unwrap_or_default().to_owned()
}

fn put(line: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    line.push_str(&format!(" {name}=\""));
    for c in value.chars() {
        if matches!(c, '"' | '\\' | ']') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
}

fn said(line: &mut String, stored: &Stored, data: &AccessData, patient: &str) {
    let who = if stored.source_id.is_empty() { "nobody known" } else { &*stored.source_id };
    // A byte order mark says that it is UTF-8 (RFC 5424, 6.4).
    let mut text = format!("\u{feff}{who}: {} {}", data.method, data.route);
    if !patient.is_empty() {
        text.push_str(&format!(" of patient {patient}"));
    }
    let status = data.status.map_or_else(|| "not answered".to_owned(), |status| status.to_string());
    // A text takes whatever is written.
    let _never = write!(text, ", {status}");
    line.push_str(&text);
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_line_is_what_the_rfc_says_and_nothing_gets_out_of_its_value() {
        let data = AccessData {
            action: "read".into(),
            method: "GET".into(),
            route: "/api/v1/patients/{patient_id}".into(),
            status: Some(403),
            code: Some("scope_missing".into()),
            token_id: Some("a\"] [b\\".into()),
            ..AccessData::default()
        };
        let stored = Stored {
            shard: 1,
            position: 7,
            occurred_at: DateTime::UNIX_EPOCH,
            tenant: "ward".into(),
            patient_id: "_access/101".into(),
            source_id: "Schwester Ä".into(),
            data: serde_json::to_string(&data).unwrap(),
        };
        let sender = Sender { host: "h".into(), process: 9 };
        let line = "<108>1 1970-01-01T00:00:00Z h vitals 9 read [vitals@32473 id=\"1-7\" tenant=\"ward\" \
                    subject=\"Schwester Ä\" tokenId=\"a\\\"\\] [b\\\\\" method=\"GET\" \
                    route=\"/api/v1/patients/{patient_id}\" status=\"403\" code=\"scope_missing\" \
                    patientId=\"101\"] \u{feff}Schwester Ä: GET /api/v1/patients/{patient_id} of patient \
                    101, 403";
        let frame = String::from_utf8(sender.frame(&stored)).unwrap();
        assert_eq!(frame, format!("{} {line}", line.len()));
    }
}
