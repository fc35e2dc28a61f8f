//! A page of a list.

use schemars::JsonSchema;
use serde::Serialize;

/// What every list answers.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The `cursor` of the page after it.
    pub next: Option<String>,
    #[serde(rename = "_links")]
    pub links: PageLinks,
}

/// This page, and the one after it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct PageLinks {
    #[serde(rename = "self")]
    pub this: String,
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of the list at `link`, asked for with this query but for its cursor.
    pub fn new(items: Vec<T>, next: Option<String>, link: &str, query: &str) -> Page<T> {
        let join = if query.is_empty() { "" } else { "&" };
        let following = next.as_ref().map(|next| format!("{link}?{query}{join}cursor={next}"));
        let this = if query.is_empty() { link.to_owned() } else { format!("{link}?{query}") };
        Page { items, next, links: PageLinks { this, next: following } }
    }
}
