//! What is a rule, what is none, and what is said about it.

use chrono::TimeDelta;

use super::model::{Leaf, Mode, Op, Per, Rule};
use super::registry::{RuleSet, RuleSnapshot, shipped_rules};
use crate::vital::Vital;

const HIGH_HEART_RATE: &str = include_str!("shipped/high-heart-rate.toml");
const HR_HIGH: &str = include_str!("shipped/hr-high.toml");

#[test]
fn the_default_rule_is_the_contracts_and_the_others_are_drafts() {
    let rules = shipped_rules().unwrap();
    let [rule, others @ ..] = &*rules else { panic!("no rule") };
    assert_eq!((rule.id.as_str(), rule.event.as_str()), ("high-heart-rate", "HIGH_HEART_RATE"));
    assert_eq!(rule.threshold(), Some((Vital::HeartRate, Op::Above, 120.0, 120.0)));
    assert_eq!((rule.lateness, rule.mode), (TimeDelta::seconds(120), Mode::Active));
    assert!(rule.on_delay.is_zero() && rule.off_delay.is_zero() && !rule.has_timers());
    assert!(others.len() > 10 && others.iter().all(|rule| rule.mode == Mode::Draft));
    RuleSnapshot::new().unwrap();
}

#[test]
fn the_clinical_example_is_read_whole() {
    let rule = Rule::parse(HR_HIGH, 3).unwrap();
    assert_eq!(rule.threshold(), Some((Vital::HeartRate, Op::Above, 130.0, 110.0)));
    assert_eq!((rule.on_delay, rule.off_delay), (TimeDelta::seconds(60), TimeDelta::seconds(180)));
    assert_eq!((rule.samples_min, rule.version), (5, 3));
    assert_eq!(rule.max_gap, Some(TimeDelta::seconds(20)));
    assert_eq!(rule.escalate[0].event, "HIGH_HEART_RATE_ESCALATED");
    let json: serde_json::Value = toml::from_str(HR_HIGH).unwrap();
    assert_eq!(Rule::read(&json, 3).unwrap(), rule);
}

#[track_caller]
fn check_refused(text: &str, change: (&str, &str), expect: &str) {
    let changed = text.replace(change.0, change.1);
    assert_ne!(changed, text);
    let message = Rule::parse(&changed, 1).unwrap_err().to_string();
    assert!(message.contains(expect), "{message}");
}

#[test]
fn a_bad_rule_names_the_line_the_place_and_what_would_be_right() {
    let check = |change: (&str, &str), expect: &str| check_refused(HR_HIGH, change, expect);
    check(
        ("value = 130", "value = 105"),
        "line 12, /clear/value: 110 does not lie on the safe side",
    );
    check(
        ("heart_rate", "heart_beat"),
        "line 8, /when/vital: \"heart_beat\" is no vital: use one of heart_rate,",
    );
    check(
        ("value = 130", "value = 130, unit = \"bpm\""),
        "line 8, /when/unit: unit \"bpm\" does not fit heart_rate: send \"/min\"",
    );
    check(("value = 130", "value = 1300"), "/when/value: 1300 /min is outside");
    check(
        ("on_delay = \"60s\"", "on_delay = \"10s\""),
        "line 9, /on_delay: 10s is shorter than max_gap, 20s",
    );
    check(("on_delay = \"60s\"", "on_delay = 60"), "line 9, /on_delay: this must be a time as");
    check(("min = 100, max = 180", "min = 180, max = 100"), "/bounds: min, 180, is above max, 100");
    check(
        ("min = 100, max = 180", "min = 140, max = 180"),
        "/bounds: when.value, 130, must lie within",
    );
    check(("re_alarm", "realarm"), "line 13, /realarm: unknown key: use id,");
    check(("\">\"", "\"~\""), "/when/op: \"~\" is no comparison");
    check(("HIGH_HEART_RATE", "high"), "line 5, /event: the event must be in upper case");
    check(("hr-high", "hr high"), "/id: the id must match");
    check(("draft", "on"), "/mode: use draft, shadow, active or retired");
    check(("priority = \"high\"", "priority = high"), "line 6, /");
    check(
        ("[{ after = \"2m\"", "[{ after = \"5m\", event = \"A\" }, { after = \"2m\""),
        "/escalate: put the steps in the order of time",
    );
    check(("re_alarm", "inhibited_by = [\"hr-high\"]\nre_alarm"), "a rule cannot inhibit itself");
    check_refused(
        HIGH_HEART_RATE,
        ("{ vital = \"heart_rate\", op = \">\", value = 120 }", "{ missing = { for = \"5m\" } }"),
        "use priority = \"technical\"",
    );
    check_refused(
        HIGH_HEART_RATE,
        (
            "{ vital = \"heart_rate\", op = \">\", value = 120 }",
            "{ count = { vital = \"spo2\", op = \"<\", value = 88, n = 6, of = 5 } }",
        ),
        "6 of the last 5 is never reached",
    );
}

#[test]
fn conditions_are_joined_and_units_converted() {
    let text = HIGH_HEART_RATE.replace(
        "{ vital = \"heart_rate\", op = \">\", value = 120 }",
        "{ all = [{ vital = \"body_temperature\", op = \">\", value = 101.3, unit = \"[degF]\" }, \
           { any = [{ score = { at_least = 5 } }, { not = { vital = \"spo2\", op = \">=\", value = 94 } }] }] }",
    );
    let rule = Rule::parse(&text, 1).unwrap();
    assert_eq!(rule.when.leaves.len(), 3);
    let Leaf::Threshold { value, .. } = rule.when.leaves[0] else { panic!() };
    assert_eq!(value, 38.5);
    assert!(rule.concerns(Vital::RespiratoryRate) && !rule.concerns(Vital::BodyWeight));
}

#[test]
fn rules_that_inhibit_each_other_in_a_circle_are_refused_by_name() {
    let rule = |id: &str, by: &str| {
        let text = HIGH_HEART_RATE.replace("high-heart-rate", id);
        Rule::parse(&format!("{text}\ninhibited_by = [\"{by}\"]"), 1).unwrap().into()
    };
    let refused = RuleSet::new([rule("a", "b"), rule("b", "c"), rule("c", "a")]).unwrap_err();
    assert!(refused.to_string().contains("a, b, c inhibit each other in a circle"), "{refused}");
    let set = RuleSet::new([rule("a", "b"), rule("b", "c")]).unwrap();
    let order: Vec<&str> = set.rules().iter().map(|rule| &*rule.id).collect();
    assert_eq!(order, ["b", "a"]);
}

#[test]
fn devices_are_judged_apart_where_priority_is_high_and_a_rule_may_say_otherwise() {
    let per = |text: &str| Rule::parse(text, 1).unwrap().per;
    let medium = HIGH_HEART_RATE.replace("\"high\"", "\"medium\"");
    assert_eq!((per(HIGH_HEART_RATE), per(&medium)), (Per::Device, Per::Patient));
    assert_eq!(per(&format!("{HIGH_HEART_RATE}per = \"patient\"")), Per::Patient);
    assert_eq!(per(&format!("{medium}per = \"device\"")), Per::Device);
    let score = include_str!("shipped/news2-high.toml");
    assert_eq!(per(score), Per::Patient, "a score is of several devices");
    for text in [score, include_str!("shipped/device-silent.toml")] {
        let refused = Rule::parse(&format!("{text}per = \"device\""), 1).unwrap_err();
        assert_eq!(refused.pointer, "/per");
    }
    let refused = Rule::parse(&format!("{medium}per = \"watch\""), 1).unwrap_err();
    assert!(refused.to_string().contains("use \"patient\" or \"device\""), "{refused}");
}
