//! The page of one alert, for a nurse's phone: what it is, one button, and afterwards who
//! has answered.
//!
//! Guarantees that its address goes nowhere (it is a key), and what every page without a
//! script does (`super::super::html`). Times are in UTC and, beside that, as ages: a page
//! without a script does not know the ward's clock.

use chrono::{DateTime, Utc};

pub(super) use super::super::html::answer;
use super::super::html::{document, escaped};
use super::super::problem::ProblemText;
use crate::query::alerts::{Alert, AlertState};
use crate::wire::{Acknowledgement, Number};

/// The longest name and note of an acknowledgement.
pub(super) const BY_CHARS_MAX: usize = 200;

/// Where a patient lies, as far as it is registered.
pub struct Bed {
    pub ward: Option<String>,
    pub bed: Option<String>,
}

/// An alert. Without a bed nothing of the patient is shown: the message that the link
/// came with had nothing of them either.
pub fn alert(
    alert: &Alert,
    acknowledged: Option<&Acknowledgement>,
    bed: Option<&Bed>,
    now: DateTime<Utc>,
) -> String {
    let mut main = format!(
        "<p class=\"priority {priority}\">{priority} priority</p>\n<h1>{event}</h1>\n",
        priority = alert.priority.name(),
        event = escaped(&in_words(&alert.event)),
    );
    if let Some(bed) = bed {
        let facts = [
            ("Patient", Some(alert.patient_id.clone())),
            ("Ward", bed.ward.clone()),
            ("Bed", bed.bed.clone()),
            ("Measured by", Some(alert.device_id.clone())),
        ];
        let (vital, value) = (in_words(alert.vital.name()), Number(alert.value));
        main += &format!(
            "<p class=\"value\"><strong>{value}</strong> {unit} <span>{vital}</span></p>\n<dl>\n",
            unit = escaped(&alert.unit),
            vital = escaped(&vital),
        );
        for (name, fact) in facts.into_iter().filter_map(|(name, fact)| Some((name, fact?))) {
            main += &format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escaped(&fact));
        }
        main += "</dl>\n";
    }
    let since = if bed.is_some() { alert.since } else { alert.raised_at };
    main += &format!("<p class=\"since\">since {}</p>\n", moment(since, now));
    main += &standing(alert, acknowledged, now);
    document(&in_words(&alert.event), &main)
}

/// What is to be done about it, or was.
fn standing(alert: &Alert, acknowledged: Option<&Acknowledgement>, now: DateTime<Utc>) -> String {
    let over = match alert.state {
        AlertState::Cleared => {
            let at = alert.cleared_since.map(|at| format!(": cleared {}", moment(at, now)));
            Some(format!("It is over{}.", at.unwrap_or_default()))
        }
        AlertState::Retracted => Some("It was taken back: its reading was corrected.".to_owned()),
        AlertState::Missed => Some("Its reading came too late to page anybody.".to_owned()),
        AlertState::Active | AlertState::Ended => None,
    };
    let over = over.map(|over| format!("<p class=\"over\">{over}</p>\n")).unwrap_or_default();
    if let Some(Acknowledgement { by, at, note, .. }) = acknowledged {
        let by = by.as_deref().unwrap_or("somebody who had this link");
        let note = note.as_ref().map(|n| format!("<p class=\"note\">{}</p>\n", escaped(n)));
        return format!(
            "{over}<div class=\"done\"><p>Acknowledged by <strong>{}</strong></p>\n<p>{}</p>\n{}</div>\n",
            escaped(by),
            moment(at.0, now),
            note.unwrap_or_default(),
        );
    }
    if !over.is_empty() {
        return format!("{over}<p class=\"hint\">Nobody has to acknowledge it any more.</p>\n");
    }
    format!(
        "<form method=\"post\">\n\
         <label for=\"by\">Your name <span>(optional)</span></label>\n\
         <input id=\"by\" name=\"by\" maxlength=\"{BY_CHARS_MAX}\" autocomplete=\"name\">\n\
         <button>Acknowledge</button>\n\
         <p class=\"hint\">It tells the others that somebody has seen it. The alert stands until it is over.</p>\n\
         </form>\n"
    )
}

/// What went wrong.
pub fn told(told: &ProblemText) -> String {
    let title = match told.code {
        "link_expired" => "This link has expired",
        "link_invalid" | "unauthorised" => "This link is not complete",
        "not_found" => "There is no such alert",
        _ => "That did not work",
    };
    let detail = match told.code {
        "unauthorised" => "open it as it was sent to you, or acknowledge in the ward's page",
        _ => &told.detail,
    };
    let main = format!(
        "<h1>{}</h1>\n<p class=\"told\">Nothing was acknowledged: {}.</p>\n",
        escaped(title),
        escaped(detail),
    );
    document(title, &main)
}

/// `HIGH_HEART_RATE` as people say it.
fn in_words(name: &str) -> String {
    let words = name.replace('_', " ").to_lowercase();
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A time, and how long ago that is.
fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let ago = match (now - at).num_minutes() {
        ..1 => "just now".to_owned(),
        minutes @ 1..120 => format!("{minutes} min ago"),
        minutes @ 120..2_880 => format!("{} h ago", minutes / 60),
        minutes => format!("{} days ago", minutes / 1_440),
    };
    let format = if at.date_naive() == now.date_naive() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    format!(
        "<time datetime=\"{}\">{} UTC</time>, {ago}",
        crate::clock::rfc3339(at),
        at.format(format)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_page_is_text() {
        assert_eq!(in_words("HIGH_HEART_RATE"), "High heart rate");
        assert_eq!(in_words(""), "");
        let told = ProblemText { code: "other", detail: "<script>".to_owned() };
        assert!(!super::told(&told).contains("<script"));
    }

    #[test]
    fn a_time_is_said_with_its_age() {
        let now: DateTime<Utc> = "2026-01-02T10:00:00Z".parse().unwrap();
        let said = |at: &str| {
            moment(at.parse().unwrap(), now).split_once('>').unwrap().1.replace("</time>", "")
        };
        assert_eq!(said("2026-01-02T09:59:30Z"), "09:59 UTC, just now");
        assert_eq!(said("2026-01-02T09:30:00Z"), "09:30 UTC, 30 min ago");
        assert_eq!(said("2026-01-01T09:00:00Z"), "2026-01-01 09:00 UTC, 25 h ago");
    }
}
