//! Scopes with the routes that take them, and roles with their scopes.

use std::collections::BTreeMap;

use serde_json::Value;
use vitals::auth::{Role, Scope};

use super::{header, row};

/// Both tables.
pub fn tables() -> String {
    let mut text = String::from("\n## Scopes\n\n");
    text += &header(&["scope", "allows to", "routes"]);
    let mut routes = routes();
    for scope in Scope::ALL {
        let of = routes.remove(scope.name()).unwrap_or_default().join(", ");
        text += &row([&*format!("`{}`", scope.name()), scope.allows(), &of]);
    }
    assert!(routes.is_empty(), "routes with scopes that are none: {routes:?}");
    text += "\n## Roles\n\n";
    text += &header(&["role", "who that is", "scopes"]);
    for role in Role::ALL {
        let scopes: Vec<String> = role.scopes().list().map(|s| format!("`{}`", s.name())).collect();
        text += &row([role.name(), role.is_who(), &scopes.join(", ")]);
    }
    text
}

/// Of each scope, the routes that take it.
fn routes() -> BTreeMap<String, Vec<String>> {
    let mut routes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let document = vitals::adapter::http::openapi::document();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let scopes = operation["security"].as_array().into_iter().flatten();
            let scopes = scopes.filter_map(|way| way["token"].as_array()).flatten();
            for scope in scopes.filter_map(Value::as_str) {
                let route = format!("{} `{path}`", method.to_uppercase());
                routes.entry(scope.to_owned()).or_default().push(route);
            }
        }
    }
    routes
}
