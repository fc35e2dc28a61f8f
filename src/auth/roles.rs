//! What an identity provider's claims mean here: the operator's map.
//!
//! Guarantees that a claim gives what the map says for its value and nothing else, whether
//! the provider writes it as a text, as several in one text, as a list, or inside another
//! claim. A token's own scopes count beside it. Does not verify a token.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::scope::{Role, Scope, Scopes};
use super::wards::{self, Held};
use crate::event::{ID_RULE, is_fhir_id};

/// Entries of a map.
const GRANTS_MAX: usize = 10_000;
/// Values of a token's claims that are looked at.
const VALUES_MAX: usize = 1_000;

/// What claims mean.
///
/// ```toml
/// claims = ["groups", "realm_access.roles"]
/// tenant = "hospital-1"
///
/// [[grant]]
/// value = "icu-nurses"
/// role = "nurse"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleMap {
    /// Where a token says what its subject is. A dot leads inwards, where no claim has it in
    /// its name.
    claims: Vec<String>,
    /// Whose a token is that names no tenant.
    tenant: Option<String>,
    /// The claim that names the tenant, instead of `tenant`.
    tenant_claim: Option<String>,
    #[serde(default)]
    grant: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    /// What stands in a claim.
    value: String,
    role: Option<String>,
    scope: Option<String>,
    /// Whose a token is in which it stands.
    tenant: Option<String>,
    /// Where it may be done; everywhere if none are named.
    wards: Option<Vec<String>>,
}

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RoleMapError {
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("{0}")]
    Map(String),
    #[error("grant {number} (\"{value}\"): {why}")]
    Grant { number: usize, value: String, why: String },
}

/// What a token's claims come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What its subject may.
    pub scopes: Scopes,
    /// In which wards: of each grant.
    pub held: Vec<Held>,
    /// Whose it is, if the map says so.
    pub tenant: Option<String>,
}

/// Two grants of one token, of which each says another tenant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's claims stand for two tenants, {0} and {1}: have the operator narrow the map")]
pub struct TwoTenants(String, String);

impl RoleMap {
    /// Reads one.
    pub fn parse(text: &str) -> Result<RoleMap, RoleMapError> {
        let map: RoleMap = toml::from_str(text)?;
        if map.claims.is_empty() || map.claims.iter().any(String::is_empty) {
            return Err(RoleMapError::Map(
                "claims: name those that are to be looked at".to_owned(),
            ));
        }
        if map.grant.len() > GRANTS_MAX {
            return Err(RoleMapError::Map(format!("more than {GRANTS_MAX} grants")));
        }
        if let Some(tenant) = map.tenant.as_ref().filter(|tenant| !is_fhir_id(tenant)) {
            return Err(RoleMapError::Map(format!("tenant \"{tenant}\" {ID_RULE}")));
        }
        for (n, grant) in map.grant.iter().enumerate() {
            let value = grant.value.clone();
            grant.check().map_err(|why| RoleMapError::Grant { number: n + 1, value, why })?;
        }
        Ok(map)
    }

    /// Where it looks.
    pub fn claims(&self) -> &[String] {
        &self.claims
    }

    /// What a token's claims come to: all that any of their values gives.
    pub fn granted(&self, claims: &Map<String, Value>) -> Result<Granted, TwoTenants> {
        let mut granted = Granted::default();
        let said = self.claims.iter().filter_map(|name| find(claims, name));
        for value in said.flat_map(values).take(VALUES_MAX) {
            for grant in self.grant.iter().filter(|grant| grant.value == value) {
                granted.scopes = granted.scopes.and(grant.scopes());
                let held = grant.held();
                if !granted.held.contains(&held) {
                    granted.held.push(held);
                }
                match (&granted.tenant, &grant.tenant) {
                    (Some(one), Some(other)) if one != other => {
                        return Err(TwoTenants(one.clone(), other.clone()));
                    }
                    (_, Some(tenant)) => granted.tenant = Some(tenant.clone()),
                    (_, None) => {}
                }
            }
        }
        if granted.tenant.is_none() {
            let claim = self.tenant_claim.as_ref().and_then(|name| find(claims, name));
            let named = claim.and_then(Value::as_str).map(str::to_owned);
            granted.tenant = named.or_else(|| self.tenant.clone());
        }
        Ok(granted)
    }
}

impl Grant {
    fn check(&self) -> Result<(), String> {
        if self.value.is_empty() {
            return Err("value is empty".to_owned());
        }
        if self.role.is_none() && self.scope.is_none() {
            return Err("role or scope is missing".to_owned());
        }
        if let Some(role) = self.role.as_ref().filter(|role| Role::named(role).is_none()) {
            let all = Role::ALL.map(Role::name).join(", ");
            return Err(format!("\"{role}\" is no role; {all} are"));
        }
        let mut scopes = self.scope.as_deref().unwrap_or_default().split_whitespace();
        if let Some(unknown) = scopes.find(|scope| Scope::named(scope).is_none()) {
            return Err(format!("\"{unknown}\" is no scope; {} are", Scope::names()));
        }
        match &self.wards {
            // It may be meant to take something away, and would give nothing at all.
            Some(wards) if wards.is_empty() => {
                return Err("wards names none: leave it out for all of them".to_owned());
            }
            wards => wards::check(wards.as_deref().unwrap_or_default())?,
        }
        match &self.tenant {
            Some(tenant) if !is_fhir_id(tenant) => Err(format!("tenant {ID_RULE}")),
            _ => Ok(()),
        }
    }

    fn held(&self) -> Held {
        let wards = self.wards.as_ref().map(|wards| wards.iter().cloned().collect());
        Held { scopes: self.scopes(), wards }
    }

    fn scopes(&self) -> Scopes {
        let role = self.role.as_deref().and_then(Role::named).map(Role::scopes);
        let scope = self.scope.as_deref().map(Scopes::read);
        role.unwrap_or_default().and(scope.unwrap_or_default())
    }
}

/// The claim of this name, or inside others where its dots lead.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(claim) = claims.get(name) {
        return Some(claim);
    }
    let mut dots = name.match_indices('.');
    dots.find_map(|(at, _)| {
        let (outer, inner) = (name.get(..at)?, name.get(at + 1..)?);
        find(claims.get(outer)?.as_object()?, inner)
    })
}

/// The texts of a claim: of a list each, of a text each word and all of it.
fn values(claim: &Value) -> Vec<&str> {
    match claim {
        Value::String(text) => {
            let words = text.split_whitespace().filter(|word| word.len() < text.len());
            std::iter::once(text.as_str()).chain(words).collect()
        }
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MAP: &str = r#"
        claims = ["scp", "roles", "groups", "realm_access.roles", "resource_access.vitals.roles",
                  "https://vitals.example/roles"]
        tenant = "hospital-1"
        tenant_claim = "tid"
        [[grant]]
        value = "icu-nurses"
        role = "nurse"
        [[grant]]
        value = "Vitals.Read"
        scope = "vitals:read"
        [[grant]]
        value = "clinic"
        role = "viewer"
        tenant = "clinic-2"
        [[grant]]
        value = "both words"
        scope = "rules:manage"
    "#;

    fn granted(claims: Value) -> Granted {
        RoleMap::parse(MAP).unwrap().granted(claims.as_object().unwrap()).unwrap()
    }

    #[test]
    fn claims_are_found_as_providers_shape_them() {
        let nurse = Role::Nurse.scopes();
        for claims in [
            json!({ "realm_access": { "roles": ["offline_access", "icu-nurses"] } }),
            json!({ "resource_access": { "vitals": { "roles": ["icu-nurses"] } } }),
            json!({ "groups": ["icu-nurses"] }),
            json!({ "groups": "icu-nurses" }),
            json!({ "roles": "x icu-nurses y" }),
            json!({ "https://vitals.example/roles": ["icu-nurses"] }),
            json!({ "scp": [1, null, { "a": "icu-nurses" }, "icu-nurses"] }),
        ] {
            assert_eq!(granted(claims.clone()).scopes, nurse, "{claims}");
        }
        let read = Scopes::of(&[Scope::VitalsRead]);
        assert_eq!(granted(json!({ "scp": "openid Vitals.Read" })).scopes, read);
        let rules = Scopes::of(&[Scope::RulesManage]);
        assert_eq!(granted(json!({ "groups": ["both words"] })).scopes, rules);
        for none in [
            json!({}),
            json!({ "groups": ["ICU-nurses", "icu-nurses "] }),
            json!({ "groups": { "icu-nurses": true } }),
            json!({ "other": ["icu-nurses"] }),
            json!({ "realm_access": "icu-nurses" }),
        ] {
            assert_eq!(granted(none.clone()).scopes, Scopes::default(), "{none}");
        }
    }

    #[test]
    fn a_tenant_is_a_grants_or_a_claims_or_the_maps_and_never_two() {
        let tenant = |claims| granted(claims).tenant;
        assert_eq!(tenant(json!({})).as_deref(), Some("hospital-1"));
        assert_eq!(tenant(json!({ "tid": "t-3" })).as_deref(), Some("t-3"));
        let of_grant = json!({ "tid": "t-3", "groups": ["clinic"] });
        assert_eq!(tenant(of_grant).as_deref(), Some("clinic-2"));
        let map = MAP.replace("role = \"nurse\"", "role = \"nurse\"\ntenant = \"hospital-1\"");
        let both = json!({ "groups": ["clinic", "icu-nurses"] });
        let said = RoleMap::parse(&map).unwrap().granted(both.as_object().unwrap());
        assert_eq!(said, Err(TwoTenants("clinic-2".to_owned(), "hospital-1".to_owned())));
    }

    #[test]
    fn a_map_that_cannot_be_meant_is_refused_with_the_entry_and_why() {
        for (text, says) in [
            ("", "missing field `claims`"),
            ("claims = []", "claims: name those"),
            ("claims = [\"a\"]\ntenant = \"a b\"", "tenant \"a b\""),
            ("claims = [\"a\"]\nward = \"7\"", "unknown field `ward`"),
            ("claims = [\"a\"]\n[[grant]]\nvalue = \"\"\nrole = \"nurse\"", "value is empty"),
            ("claims = [\"a\"]\n[[grant]]\nvalue = \"x\"", "role or scope is missing"),
            ("claims = [\"a\"]\n[[grant]]\nvalue = \"x\"\nrole = \"nurs\"", "\"nurs\" is no role"),
            ("claims = [\"a\"]\n[[grant]]\nvalue = \"x\"\nscope = \"all\"", "\"all\" is no scope"),
            (
                "claims = [\"a\"]\n[[grant]]\nvalue = \"x\"\nrole = \"nurse\"\nwards = []",
                "wards names none",
            ),
            (
                "claims = [\"a\"]\n[[grant]]\nvalue = \"x\"\nrole = \"nurse\"\nwards = [\" icu\"]",
                "\" icu\" is no name",
            ),
        ] {
            let said = RoleMap::parse(text).unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
