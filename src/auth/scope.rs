//! What a caller may: scopes, and the roles that stand for several of them.
//!
//! One table for the routes, for the API's description and for the documents. Guarantees that
//! a name which is no scope gives nothing. Does not say whose a thing is: that is the tenant's
//! border and a token's narrowing.

/// Something that a caller may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Write who lies where.
    PatientsManage,
    /// Hand in readings.
    ReadingsWrite,
    /// Take a reading back.
    ReadingsCorrect,
    /// Read what was measured.
    VitalsRead,
    /// Read alerts.
    AlertsRead,
    /// Answer alerts.
    AlertsAck,
    /// Write rules.
    RulesManage,
    /// Say where alerts go.
    WebhooksManage,
    /// Take tokens away.
    TokensRevoke,
    /// Make API keys.
    KeysManage,
    /// See who has read and changed what.
    AuditRead,
}

impl Scope {
    /// Every scope there is.
    pub const ALL: [Scope; 11] = [
        Scope::PatientsManage,
        Scope::ReadingsWrite,
        Scope::ReadingsCorrect,
        Scope::VitalsRead,
        Scope::AlertsRead,
        Scope::AlertsAck,
        Scope::RulesManage,
        Scope::WebhooksManage,
        Scope::TokensRevoke,
        Scope::KeysManage,
        Scope::AuditRead,
    ];

    /// As tokens have it.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::PatientsManage => "patients:manage",
            Scope::ReadingsWrite => "readings:write",
            Scope::ReadingsCorrect => "readings:correct",
            Scope::VitalsRead => "vitals:read",
            Scope::AlertsRead => "alerts:read",
            Scope::AlertsAck => "alerts:ack",
            Scope::RulesManage => "rules:manage",
            Scope::WebhooksManage => "webhooks:manage",
            Scope::TokensRevoke => "tokens:revoke",
            Scope::KeysManage => "keys:manage",
            Scope::AuditRead => "audit:read",
        }
    }

    /// What it is for, in a line.
    pub const fn allows(self) -> &'static str {
        match self {
            Scope::PatientsManage => "write who lies where, and their own limits",
            Scope::ReadingsWrite => "hand in readings",
            Scope::ReadingsCorrect => "say that a reading was entered in error",
            Scope::VitalsRead => "read states, histories, records and devices, and follow them",
            Scope::AlertsRead => "read alerts, and why they were raised",
            Scope::AlertsAck => "acknowledge, clear and silence alerts",
            Scope::RulesManage => "write rules, and try them on the history",
            Scope::WebhooksManage => "say where alerts go, and see whether they arrived",
            Scope::TokensRevoke => "take a token, or all of somebody's, out of use",
            Scope::KeysManage => "make API keys no wider than oneself, and take them out of use",
            Scope::AuditRead => "see who has read and changed what",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// The names of all, for whoever wrote another one.
    pub fn names() -> String {
        Scope::ALL.map(Scope::name).join(", ")
    }
}

/// Several scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u32);

impl Scopes {
    /// Those of a list.
    pub const fn of(list: &[Scope]) -> Scopes {
        let (mut all, mut n) = (0, 0);
        while n < list.len() {
            all |= 1 << list[n] as u32;
            n += 1;
        }
        Scopes(all)
    }

    /// Those of a text with spaces between them. What is no scope of ours is another's.
    pub fn read(text: &str) -> Scopes {
        let all = text.split_whitespace().filter_map(Scope::named);
        all.fold(Scopes::default(), |scopes, scope| scopes.and(Scopes::of(&[scope])))
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Scopes) -> Scopes {
        Scopes(self.0 | others.0)
    }

    /// Whether one is among them.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u32 != 0
    }

    /// Each of them, in the table's order.
    pub fn list(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

/// What somebody is, for an identity provider that knows no scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Looks at patients and alerts.
    Viewer,
    /// Also answers alerts.
    Nurse,
    /// Also says where patients lie and what their limits are, and corrects readings.
    Clinician,
    /// Writes rules and tries them, and sees what they do.
    Engineer,
    /// Connects systems: readings in, alerts out.
    Integrator,
    /// All of it.
    Administrator,
}

const VIEWER: Scopes = Scopes::of(&[Scope::VitalsRead, Scope::AlertsRead]);
const NURSE: Scopes = VIEWER.and(Scopes::of(&[Scope::AlertsAck]));

impl Role {
    /// Every role there is.
    pub const ALL: [Role; 6] = [
        Role::Viewer,
        Role::Nurse,
        Role::Clinician,
        Role::Engineer,
        Role::Integrator,
        Role::Administrator,
    ];

    /// As the operator writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Nurse => "nurse",
            Role::Clinician => "clinician",
            Role::Engineer => "engineer",
            Role::Integrator => "integrator",
            Role::Administrator => "administrator",
        }
    }

    /// Who that is, in a line.
    pub const fn is_who(self) -> &'static str {
        match self {
            Role::Viewer => "looks at patients and alerts: a wall, a student",
            Role::Nurse => "also answers alerts",
            Role::Clinician => {
                "also says where patients lie and what their limits are, and corrects"
            }
            Role::Engineer => "writes rules, tries them, and sees what they do",
            Role::Integrator => "connects systems: readings in, alerts out",
            Role::Administrator => "all of it",
        }
    }

    /// What they may.
    pub const fn scopes(self) -> Scopes {
        match self {
            Role::Viewer => VIEWER,
            Role::Nurse => NURSE,
            Role::Clinician => {
                NURSE.and(Scopes::of(&[Scope::PatientsManage, Scope::ReadingsCorrect]))
            }
            Role::Engineer => VIEWER.and(Scopes::of(&[Scope::RulesManage])),
            Role::Integrator => VIEWER.and(Scopes::of(&[
                Scope::ReadingsWrite,
                Scope::PatientsManage,
                Scope::WebhooksManage,
                Scope::KeysManage,
            ])),
            Role::Administrator => Scopes::of(&Scope::ALL),
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_scope_and_no_other_and_what_is_none_gives_nothing() {
        for scope in Scope::ALL {
            assert_eq!(Scope::named(scope.name()), Some(scope));
            let read = Scopes::read(&format!("openid {}  profile", scope.name()));
            assert_eq!(read.list().collect::<Vec<_>>(), [scope]);
        }
        for none in ["", "vitals", "vitals:*", "Vitals:read", "vitals:read,alerts:read"] {
            assert_eq!(Scopes::read(none), Scopes::default(), "{none}");
        }
        let all = Scope::ALL.map(Scope::name).join(" ");
        assert_eq!(Scopes::read(&all), Role::Administrator.scopes());
    }

    #[test]
    fn who_answers_alerts_can_read_them_and_only_who_runs_it_writes_rules() {
        for role in Role::ALL {
            let scopes = role.scopes();
            assert_eq!(Role::named(role.name()), Some(role));
            assert!(scopes.has(Scope::AlertsRead), "{role:?}");
            let engineers = [Role::Engineer, Role::Administrator].contains(&role);
            assert_eq!(scopes.has(Scope::RulesManage), engineers, "{role:?}");
        }
    }
}
