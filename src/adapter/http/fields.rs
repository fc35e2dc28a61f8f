//! `fields=`: an answer with only those of its fields that are asked for.
//!
//! Guarantees that a name which the answer cannot have is refused, by the answer's own
//! schema, so that a misspelt one is not mistaken for an empty one. Does not save the
//! question: what is left out was asked all the same.

use std::collections::BTreeMap;

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use super::problem::Problem;

/// The longest list of fields.
const FIELDS_BYTES_MAX: usize = 1_000;
/// How deep schemas are followed; ours end long before.
const DEPTH_MAX: usize = 16;
/// What holds the things of a list, whose fields are meant.
const ITEMS: &str = "items";

/// What is left of a thing: all of it, or these of its fields.
#[derive(Default)]
struct Wanted {
    whole: bool,
    fields: BTreeMap<String, Wanted>,
}

/// The answer as JSON, with only these of its fields: `patientId,vitals.heart_rate`. Of a
/// list the fields of its items are meant.
pub fn only<T: Serialize + JsonSchema>(body: &T, fields: &str) -> Result<Value, Problem> {
    if fields.len() > FIELDS_BYTES_MAX {
        let detail = format!("fields has {FIELDS_BYTES_MAX} bytes at most");
        return Err(Problem::unreadable("invalid_fields", detail));
    }
    let mut generator = SchemaGenerator::default();
    let schema = generator.root_schema_for::<T>().to_value();
    let schema = Schema { root: &schema, at: vec![&schema] };
    let items = schema.named(ITEMS);
    let mut wanted = Wanted::default();
    for path in fields.split(',').map(str::trim) {
        items.as_ref().unwrap_or(&schema).check(path)?;
        wanted.add(path);
    }
    let mut answer = serde_json::to_value(body).map_err(|error| {
        tracing::error!(%error, "an answer could not be written");
        let detail = "the answer could not be written: this is a fault of the server";
        Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })?;
    match (items, answer.get_mut(ITEMS)) {
        (Some(_), Some(items)) => wanted.keep(items),
        _ => wanted.keep(&mut answer),
    }
    Ok(answer)
}

impl Wanted {
    fn add(&mut self, path: &str) {
        let mut at = self;
        for name in path.split('.') {
            at = at.fields.entry(name.to_owned()).or_default();
        }
        at.whole = true;
    }

    fn keep(&self, value: &mut Value) {
        match value {
            _ if self.whole => {}
            Value::Array(values) => values.iter_mut().for_each(|value| self.keep(value)),
            Value::Object(fields) => {
                fields.retain(|name, _| self.fields.contains_key(name));
                for (name, wanted) in &self.fields {
                    if let Some(value) = fields.get_mut(name) {
                        wanted.keep(value);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A place in a schema: what may stand there, in one of several ways.
struct Schema<'a> {
    root: &'a Value,
    at: Vec<&'a Value>,
}

impl<'a> Schema<'a> {
    /// Whether there is something at a path.
    fn check(&self, path: &str) -> Result<(), Problem> {
        let mut at = Schema { root: self.root, at: self.at.clone() };
        for name in path.split('.') {
            at = at.named(name).ok_or_else(|| {
                let known = at.names();
                let has = match known.is_empty() {
                    true => "there are none".to_owned(),
                    false => format!("there are {}", known.join(", ")),
                };
                let detail = format!("fields names \"{path}\", of which {name:?} is none: {has}");
                Problem::unreadable("invalid_fields", detail)
            })?;
        }
        Ok(())
    }

    /// What stands under a name, if anything can.
    fn named(&self, name: &str) -> Option<Schema<'a>> {
        let found = self.objects().into_iter().filter_map(|object| {
            let own = object.get("properties").and_then(|own| own.get(name));
            let fits = object.get("propertyNames").is_none_or(|names| self.has_name(names, name));
            own.or_else(|| object.get("additionalProperties").filter(|it| it.is_object() && fits))
        });
        let at: Vec<&Value> = found.collect();
        (!at.is_empty()).then_some(Schema { root: self.root, at })
    }

    /// Whether the names of a map may be this one.
    fn has_name(&self, names: &Value, name: &str) -> bool {
        let names = Schema { root: self.root, at: vec![names] }.all();
        let listed = names.iter().filter_map(|schema| schema.get("enum")?.as_array());
        let mut listed = listed.peekable();
        listed.peek().is_none() || listed.flatten().any(|known| known == name)
    }

    fn names(&self) -> Vec<&'a str> {
        let objects = self.objects();
        let own = objects.iter().filter_map(|object| object.get("properties")?.as_object());
        let mut names: Vec<&str> = own.flat_map(|own| own.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Through references, alternatives and lists, down to objects.
    fn objects(&self) -> Vec<&'a Value> {
        let is_object = |it: &&Value| {
            it.get("properties").is_some() || it.get("additionalProperties").is_some()
        };
        self.all().into_iter().filter(is_object).collect()
    }

    fn all(&self) -> Vec<&'a Value> {
        let mut all = self.at.clone();
        let mut layer = self.at.clone();
        for _ in 0..DEPTH_MAX {
            layer = layer.iter().flat_map(|schema| self.within(schema)).collect();
            if layer.is_empty() {
                break;
            }
            all.extend(&layer);
        }
        all
    }

    fn within(&self, schema: &'a Value) -> Vec<&'a Value> {
        let referred = schema.get("$ref").and_then(Value::as_str);
        let referred = referred.and_then(|at| self.root.pointer(at.strip_prefix('#')?));
        let ways = ["anyOf", "oneOf", "allOf"].into_iter();
        let ways = ways.filter_map(|key| schema.get(key)?.as_array()).flatten();
        referred.into_iter().chain(ways).chain(schema.get("items")).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::{Page, State, Ward};

    fn refused<T: Serialize + JsonSchema>(body: &T, fields: &str) -> bool {
        only(body, fields).is_err()
    }

    #[test]
    fn of_a_thing_stays_what_is_asked_for() {
        let mut wanted = Wanted::default();
        for path in ["a", "b.c", "d.e", "d"] {
            wanted.add(path);
        }
        let mut value = json!({
            "a": 1, "b": [{ "c": 2, "x": 3 }, { "c": null }], "d": { "e": 4, "f": 5 }, "x": {}
        });
        wanted.keep(&mut value);
        let left = json!({ "a": 1, "b": [{ "c": 2 }, { "c": null }], "d": { "e": 4, "f": 5 } });
        assert_eq!(value, left);
    }

    #[test]
    fn what_an_answer_cannot_have_is_refused() {
        let page = Page::<State>::new(Vec::new(), None, "/", "");
        for known in
            ["patientId", "vitals.heart_rate.value,alerts.event", "news2.parts.spo2", "_links"]
        {
            let answer = only(&page, known).unwrap_or_else(|_| panic!("{known}"));
            assert_eq!(answer, serde_json::to_value(&page).unwrap());
        }
        for unknown in ["", "patientid", "items", "vitals.pulse", "patientId.x", "a,", "alerts..id"]
        {
            assert!(refused(&page, unknown), "{unknown}");
        }
        assert!(refused(&page, &"ward,".repeat(300)));
        let ward = Ward {
            ward: "4B".to_owned(),
            alerts: 0,
            news2: None,
            patients: Vec::new(),
            is_cut: false,
            links: [("self", String::new())].into(),
        };
        let answer = only(&ward, "ward,patients.vitals.spo2.value,patients.bed").unwrap();
        assert_eq!(answer, json!({ "ward": "4B", "patients": [] }));
    }
}
