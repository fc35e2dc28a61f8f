//! One access, and how it lies in the log.
//!
//! Guarantees that every text of it can be stored and has a bounded length, whoever sent it:
//! what is longer is cut, and what is no character of a line is replaced. Does not decide
//! what is recorded.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{ACCESS, ACCESSES_OF, Event, NO_TENANT, is_fhir_id};

/// The longest text of an access that others choose: a subject, a token's name, a ward.
const TEXT_CHARS_MAX: usize = 255;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Asked for something.
    Read,
    /// Changed something, or tried to.
    Change,
    /// Handed in readings, which are in the log themselves.
    Readings,
    /// Said who they are, and was given what lets them in from then on; or was not.
    SignIn,
    /// Gave that back.
    SignOut,
    /// Nobody did anything: so many reads could not be recorded.
    PassedOver,
}

impl Action {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Change => "change",
            Action::Readings => "readings",
            Action::SignIn => "sign_in",
            Action::SignOut => "sign_out",
            Action::PassedOver => "passed_over",
        }
    }
}

/// By which means somebody is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// A token.
    Token,
    /// The certificate of their connection.
    Certificate,
    /// The link that came with an alert.
    Link,
    /// A session that a browser holds.
    Session,
    /// What their maker may hand on to open a stream.
    Ticket,
    /// A key of a program.
    Key,
}

/// Who it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// Their tenant.
    pub tenant: Arc<str>,
    /// Their name.
    pub subject: String,
    /// The name of their token, session or key, if it has one.
    pub token_id: Option<String>,
    /// What they came by.
    pub by: Means,
}

/// What of whom, as far as the request named it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Which patient.
    pub patient: Option<String>,
    /// Which device.
    pub device: Option<String>,
    /// Which ward.
    pub ward: Option<String>,
    /// Which of what the route is about: an alert, a rule, a webhook.
    pub id: Option<String>,
}

/// One access; or several that are the same but for when they were.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What was done.
    pub action: Action,
    /// By whom; nobody who is known, if they had no good token.
    pub who: Option<Who>,
    /// In capitals.
    pub method: &'static str,
    /// As the router has it, without what stands in it.
    pub route: String,
    /// See there.
    pub resource: Resource,
    /// From where: the other end of the connection.
    pub address: Option<IpAddr>,
    /// What was answered; nothing if they were gone before.
    pub status: Option<u16>,
    /// The code of a refusal.
    pub code: Option<String>,
}

/// What an access says in the log, beside its columns: when, by whom, of whose data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are those of Access, Who and Resource")]
pub struct AccessData {
    pub v: u8,
    pub action: String,
    pub method: String,
    pub route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Means>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ward: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How many there were; one when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// When the last one of several was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// When it was, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) first: DateTime<Utc>,
    pub(super) last: DateTime<Utc>,
    pub(super) count: u64,
}

impl Times {
    pub(super) fn once(at: DateTime<Utc>) -> Times {
        Times { first: at, last: at, count: 1 }
    }
}

impl Access {
    /// Reads that were not recorded.
    pub(super) fn passed_over(tenant: Arc<str>) -> Access {
        let nobody = Who { tenant, subject: "audit".into(), token_id: None, by: Means::Token };
        Access {
            action: Action::PassedOver,
            who: Some(nobody),
            method: "",
            route: String::new(),
            resource: Resource::default(),
            address: None,
            status: None,
            code: None,
        }
    }

    /// Whose it is, also where nobody is known.
    pub(super) fn tenant(&self) -> Arc<str> {
        self.who.as_ref().map_or_else(|| NO_TENANT.into(), |who| who.tenant.clone())
    }

    /// As an event.
    pub(super) fn event(self, times: Times) -> Event {
        let (tenant, resource) = (self.tenant(), self.resource);
        let several = times.count > 1;
        let is_known = self.action != Action::PassedOver;
        let data = AccessData {
            v: 1,
            action: self.action.name().to_owned(),
            method: self.method.to_owned(),
            route: line(self.route),
            status: self.status,
            code: self.code,
            by: self.who.as_ref().map(|who| who.by).filter(|_| is_known),
            token_id: self.who.as_ref().and_then(|who| who.token_id.clone()).map(line),
            address: self.address.map(|address| address.to_string()),
            device_id: resource.device.map(line),
            ward: resource.ward.map(line),
            id: resource.id.map(line),
            count: several.then_some(times.count),
            until: several.then_some(times.last),
        };
        // What is no id is no patient's.
        let patient = resource.patient.filter(|patient| is_fhir_id(patient)).unwrap_or_default();
        let stream = (tenant, format!("{ACCESSES_OF}{patient}"));
        let by = self.who.map_or_else(String::new, |who| line(who.subject));
        let data = serde_json::to_string(&data).unwrap_or_default();
        Event::non_reading(ACCESS, stream, by, times.first, data)
    }
}

/// A text as it can stand in a line.
fn line(text: String) -> String {
    let plain = text.len() <= TEXT_CHARS_MAX && !text.chars().any(char::is_control);
    if plain {
        return text;
    }
    let shown = text.chars().take(TEXT_CHARS_MAX);
    shown.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_can_be_stored_whatever_was_sent() {
        let long = "\0x".repeat(TEXT_CHARS_MAX);
        let who = Who {
            tenant: "ward".into(),
            subject: "nurse".into(),
            token_id: Some(long.clone()),
            by: Means::Token,
        };
        let access = Access {
            action: Action::Read,
            who: Some(who),
            method: "GET",
            route: "/api/v1/patients/{patient_id}".into(),
            resource: Resource { patient: Some("no id\n".into()), ..Resource::default() },
            address: None,
            status: Some(200),
            code: None,
        };
        let event = access.clone().event(Times::once(DateTime::UNIX_EPOCH));
        assert_eq!((&*event.patient_id, &*event.source_id), (ACCESSES_OF, "nurse"));
        let data: AccessData = serde_json::from_str(event.data.as_deref().unwrap()).unwrap();
        let token_id = data.token_id.unwrap();
        assert_eq!(token_id.chars().count(), TEXT_CHARS_MAX);
        assert!(!token_id.contains('\0') && data.count.is_none());
        let nobody = Access { who: None, ..access }.event(Times::once(DateTime::UNIX_EPOCH));
        assert_eq!((&*nobody.tenant, &*nobody.source_id), (NO_TENANT, ""));
    }
}
