//! What callers of version 1 stand on: today's description against the committed one.
//!
//! Guarantees that whatever a caller could send is still taken, and whatever they could read
//! is still there: a route, a parameter, a field, a type, a medium. What is added breaks
//! nobody. Does not look at examples, words and codes of errors.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// How deep schemas are followed; they refer to themselves nowhere.
const DEPTH_MAX: usize = 12;

/// What breaks somebody, in words; empty when nothing does.
pub fn broken(committed: &Value, today: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (path, method, old) in operations(committed) {
        let at = format!("{method} {path}");
        let Some(new) = today.pointer(&pointer(&["paths", &path, &method])) else {
            found.push(format!("{at} is gone"));
            continue;
        };
        let both = Both { committed, today };
        both.parameters(&at, old, new, &mut found);
        both.body(&at, old, new, &mut found);
        both.answers(&at, old, new, &mut found);
        let ways = |of: &Value| of["security"].as_array().cloned().unwrap_or_default();
        let (was, is) = (ways(old), ways(new));
        // One scope more that will do breaks nobody, and no scope at all did not ask for one.
        if was.iter().any(|way| !is.contains(way)) || was.is_empty() != is.is_empty() {
            found.push(format!("{at} takes another scope"));
        }
    }
    found
}

/// What is promised of a description, a line for each path and type: nothing that is said in
/// words, and no answers but those that were hoped for.
pub fn promise(document: &Value) -> String {
    let lines = |of: &Value| -> String {
        let of = without_words(of);
        let of = of.as_object().expect("an object").iter();
        of.map(|(name, one)| format!("{}: {one}", Value::from(name.as_str())))
            .collect::<Vec<_>>()
            .join(",\n")
    };
    format!(
        "{{\"paths\": {{\n{}\n}}, \"components\": {{\"schemas\": {{\n{}\n}}}}}}\n",
        lines(&document["paths"]),
        lines(&document["components"]["schemas"])
    )
}

fn without_words(value: &Value) -> Value {
    match value {
        Value::Object(all) => {
            let is_word = |key: &str, value: &Value| {
                ["example", "examples", "description", "summary", "title", "operationId"]
                    .contains(&key)
                    && !value.is_object()
                    || key == "examples"
                    || key.len() == 3 && key.starts_with(['4', '5'])
            };
            let kept = all.iter().filter(|(key, value)| !is_word(key, value));
            kept.map(|(key, value)| (key.clone(), without_words(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_words).collect(),
        one => one.clone(),
    }
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods");
            methods.iter().map(move |(method, of)| (path.clone(), method.clone(), of))
        })
        .collect()
}

fn pointer(parts: &[&str]) -> String {
    let escaped = parts.iter().map(|part| part.replace('~', "~0").replace('/', "~1"));
    escaped.map(|part| format!("/{part}")).collect()
}

/// Both documents, by which references are followed.
struct Both<'a> {
    committed: &'a Value,
    today: &'a Value,
}

/// Who reads what a schema describes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// We do: it must not be asked for more than before.
    In,
    /// They do: they must not get less than before.
    Out,
}

impl Both<'_> {
    fn parameters(&self, at: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
        let named = |operation: &Value| -> Map<String, Value> {
            let all = operation["parameters"].as_array().cloned().unwrap_or_default();
            all.into_iter()
                .map(|one| (one["name"].as_str().expect("a name").to_owned(), one))
                .collect()
        };
        let (old, new) = (named(old), named(new));
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            found.push(format!("{at}: the parameter {name} is gone"));
        }
        for (name, parameter) in &new {
            let was = old.get(name).is_some_and(|old| old["required"] == true);
            if parameter["required"] == true && !was {
                found.push(format!("{at}: the parameter {name} has to be sent"));
            }
        }
    }

    fn body(&self, at: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
        let (old, new) = (&old["requestBody"], &new["requestBody"]);
        if old.is_null() && new["required"] == true {
            found.push(format!("{at}: a body has to be sent"));
        }
        self.media(&format!("{at}: body"), old, new, Way::In, found);
    }

    fn answers(&self, at: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
        let old = old["responses"].as_object().expect("answers");
        for (status, answer) in old.iter().filter(|(status, _)| status.starts_with('2')) {
            let at = format!("{at}: {status}");
            match new["responses"].get(status) {
                Some(new) => self.media(&at, answer, new, Way::Out, found),
                None => found.push(format!("{at} is gone")),
            }
        }
    }

    fn media(&self, at: &str, old: &Value, new: &Value, way: Way, found: &mut Vec<String>) {
        let Some(old) = old["content"].as_object() else { return };
        for (medium, old) in old {
            match new["content"].get(medium) {
                Some(new) => self.schema(at, (&old["schema"], &new["schema"]), way, 0, found),
                None => found.push(format!("{at}: {medium} is gone")),
            }
        }
    }

    fn schema(
        &self,
        at: &str,
        (old, new): (&Value, &Value),
        way: Way,
        depth: usize,
        found: &mut Vec<String>,
    ) {
        if depth > DEPTH_MAX {
            return;
        }
        let (old, new) = (resolved(self.committed, old), resolved(self.today, new));
        self.types(at, (old, new), way, found);
        let none = Map::new();
        let fields =
            |schema: &'_ Value| schema["properties"].as_object().cloned().unwrap_or(none.clone());
        let (old_fields, new_fields) = (fields(old), fields(new));
        for (name, field) in &old_fields {
            let at = format!("{at}/{name}");
            match new_fields.get(name) {
                Some(new) => self.schema(&at, (field, new), way, depth + 1, found),
                None => found.push(format!("{at} is gone")),
            }
        }
        let required = |schema: &Value| -> BTreeSet<String> {
            let names = schema["required"].as_array().cloned().unwrap_or_default();
            names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (old_required, new_required) = (required(old), required(new));
        match way {
            Way::In => found.extend(
                new_required
                    .difference(&old_required)
                    .map(|name| format!("{at}/{name} has to be sent")),
            ),
            Way::Out => found.extend(
                old_required
                    .difference(&new_required)
                    .filter(|name| new_fields.contains_key(*name))
                    .map(|name| format!("{at}/{name} may be missing")),
            ),
        }
        for part in ["items", "additionalProperties"] {
            if old[part].is_object() && new[part].is_object() {
                let at = format!("{at}/{part}");
                self.schema(&at, (&old[part], &new[part]), way, depth + 1, found);
            }
        }
        for part in ["oneOf", "anyOf", "allOf"] {
            let (Some(olds), Some(news)) = (old[part].as_array(), new[part].as_array()) else {
                continue;
            };
            for (n, (old, new)) in olds.iter().zip(news).enumerate() {
                self.schema(&format!("{at}/{part}/{n}"), (old, new), way, depth + 1, found);
            }
            if way == Way::In && news.len() < olds.len() {
                found.push(format!("{at}: one of the forms that were taken is gone"));
            }
        }
    }

    fn types(&self, at: &str, (old, new): (&Value, &Value), way: Way, found: &mut Vec<String>) {
        for key in ["type", "enum"] {
            let (old, new) = (set(&old[key]), set(&new[key]));
            if old.is_empty() && new.is_empty() {
                continue;
            }
            let breaks = match (way, key) {
                // What was taken is taken.
                (Way::In, _) => !new.is_empty() && (old.is_empty() || !old.is_subset(&new)),
                // What is read is of a type that was read before; new words are no break.
                (Way::Out, "type") => !old.is_empty() && (new.is_empty() || !new.is_subset(&old)),
                (Way::Out, _) => false,
            };
            if breaks {
                found.push(format!("{at}: {key} was {old:?} and is {new:?}"));
            }
        }
    }
}

fn set(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(items) => items.iter().map(Value::to_string).collect(),
        Value::Null => BTreeSet::new(),
        one => [one.to_string()].into(),
    }
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..DEPTH_MAX {
        match schema["$ref"].as_str().and_then(|to| document.pointer(to.strip_prefix('#')?)) {
            Some(found) => schema = found,
            None => break,
        }
    }
    schema
}

/// Holds that each of these is found; each is a change of the description that breaks somebody.
pub fn finds(document: &Value) {
    let change = |at: &str, change: &dyn Fn(&mut Value)| {
        let mut changed = document.clone();
        change(changed.pointer_mut(at).unwrap_or_else(|| panic!("{at}")));
        broken(document, &changed)
    };
    assert_eq!(broken(document, document), [""; 0]);
    let remove = |key: &'static str| {
        move |value: &mut Value| {
            value.as_object_mut().unwrap().shift_remove(key).unwrap_or_else(|| panic!("{key}"));
        }
    };
    let schema = "/components/schemas";
    for (at, how, says) in [
        ("/paths", &remove("/patients/{patient_id}/diff") as &dyn Fn(&mut Value), "is gone"),
        (&*format!("{schema}/Retraction/properties"), &remove("reason"), "body/reason is gone"),
        (&*format!("{schema}/State/properties"), &remove("vitals"), "200/vitals is gone"),
        (
            &*format!("{schema}/Retraction"),
            &|value: &mut Value| value["required"].as_array_mut().unwrap().push("by".into()),
            "body/by has to be sent",
        ),
        (
            &*format!("{schema}/Stored/properties/stored"),
            &|value: &mut Value| value["type"] = "string".into(),
            "stored: type was",
        ),
        (
            "/paths/~1patients/get/parameters",
            &|value: &mut Value| drop(value.as_array_mut().unwrap().pop()),
            "the parameter",
        ),
        (
            "/paths/~1patients/get",
            &|value: &mut Value| {
                value["security"] = serde_json::json!([{ "token": ["rules:manage"] }])
            },
            "another scope",
        ),
    ] {
        let found = change(at, how);
        assert!(found.iter().any(|one| one.contains(says)), "{at}: {says}: {found:?}");
    }
    // What is added breaks nobody.
    let added = change(&format!("{schema}/Stored/properties"), &|value| {
        value["more"] = serde_json::json!({ "type": "string" });
    });
    assert_eq!(added, [""; 0]);
}
