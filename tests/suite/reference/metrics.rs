//! Metrics, and what each says.

use std::collections::BTreeSet;

use vitals::telemetry::names::METRICS;

use super::{header, row};
use crate::tidy::sources;

/// The table.
pub fn table() -> String {
    let mut text = format!("\n{}", header(&["metric", "kind", "labels", "what it says"]));
    for (name, kind, labels, says) in METRICS {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{kind:?}").to_lowercase();
        text += &row([&*format!("`{name}`"), &kind, &labels.join(", "), says]);
    }
    text
}

/// `"vitals_…"`, of those that count.
fn metrics_named(text: &str) -> BTreeSet<String> {
    let macros = ["metrics::counter!(", "metrics::gauge!(", "metrics::histogram!("];
    let named = macros.iter().flat_map(|called| text.split(called).skip(1));
    let name =
        |rest: &str| Some(rest.trim_start().strip_prefix('"')?.split_once('"')?.0.to_owned());
    named.map(|rest| name(rest).expect("a metric's name is written where it is counted")).collect()
}

/// What is counted is described, and nothing else.
pub fn agree() {
    let counted: BTreeSet<String> =
        sources("src").iter().flat_map(|(_, text)| metrics_named(text)).collect();
    let described: BTreeSet<String> = METRICS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(counted, described);
}
