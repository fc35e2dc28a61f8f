//! NEWS2, the National Early Warning Score of the Royal College of Physicians
//! (London, December 2017), as a pure function.
//!
//! Guarantees that a score is made of what was measured and nothing else: a
//! parameter without a usable value adds no points, is named, and makes the score
//! partial. A partial score, and its band, is therefore a lower bound.
//!
//! Does not know whom it scores: NEWS2 is for adults, not in pregnancy, and scale 2
//! only where a clinician set it for the patient. The caller holds to that.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::vital::Vital;

/// A vital's latest value, as it stands at the asked moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// In the vital's canonical unit.
    pub value: f64,
    /// How old it is at the asked moment. Negative (a device clock that runs ahead)
    /// is fresh.
    pub age_seconds: f64,
    /// Implausible for a living patient: counts as missing.
    pub suspect: bool,
}

/// A score and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct News2 {
    /// The sum of the parts.
    pub score: u32,
    /// The clinical risk that the RCP gives this score.
    pub band: Band,
    /// Some parameter is missing or stale: the truth may be higher.
    pub partial: bool,
    /// Parameters without a usable value, in the order of the chart.
    pub missing: Vec<&'static str>,
    /// Parameters whose value is too old to count, in the order of the chart.
    pub stale: Vec<&'static str>,
    /// Points by parameter; a 0 is there too, for it was measured.
    pub parts: BTreeMap<&'static str, u32>,
}

impl News2 {
    /// The RCP's "red score": 3 points in any single parameter.
    pub fn any_single_three(&self) -> bool {
        self.parts.values().any(|&points| points == RED_POINTS)
    }
}

/// Clinical risk, by the RCP's thresholds and triggers (NEWS2 report, chart 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    /// 0–4. The chart has no band apart for 0.
    Low,
    /// Below 5, with 3 points in a single parameter.
    LowMedium,
    /// 5–6.
    Medium,
    /// 7 and more.
    High,
}

/// Which saturations are normal for the patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Scale 1, for everybody.
    One,
    /// Scale 2: target 88–92 %, in hypercapnic respiratory failure, where a
    /// clinician decided so.
    Two,
}

/// The points of a parameter that alone makes the score "red".
const RED_POINTS: u32 = 3;

/// After this age a value is stale: twelve hours, the longest that the RCP lets pass
/// between two sets of observations, for a score of 0 (NEWS2 report, chart 4:
/// "minimum 12 hourly"). What is older than the laxest schedule says nothing about
/// now. One limit holds for every parameter, since the RCP asks for whole sets.
pub const STALE_AFTER_SECONDS: f64 = 12.0 * 3600.0;

/// The parameters, in the order of the RCP's chart.
pub(super) const PARAMETERS: [Vital; 7] = [
    Vital::RespiratoryRate,
    Vital::Spo2,
    Vital::OxygenFlow,
    Vital::SystolicBp,
    Vital::HeartRate,
    Vital::Consciousness,
    Vital::BodyTemperature,
];

/// Points by value: a row holds up to and including its first number.
type Chart = &'static [(i64, u32)];

const MORE: i64 = i64::MAX;
const RESPIRATORY_RATE: Chart = &[(8, 3), (11, 1), (20, 0), (24, 2), (MORE, 3)];
const SPO2_SCALE_1: Chart = &[(91, 3), (93, 2), (95, 1), (MORE, 0)];
const SPO2_SCALE_2_ON_AIR: Chart = &[(83, 3), (85, 2), (87, 1), (MORE, 0)];
const SPO2_SCALE_2_ON_OXYGEN: Chart =
    &[(83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (MORE, 3)];
const SYSTOLIC_BP: Chart = &[(90, 3), (100, 2), (110, 1), (219, 0), (MORE, 3)];
const HEART_RATE: Chart = &[(40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (MORE, 3)];
/// 0 is alert; confusion, voice, pain and unresponsive weigh the same.
const CONSCIOUSNESS: Chart = &[(0, 0), (MORE, 3)];
/// In tenths of a degree.
const BODY_TEMPERATURE: Chart = &[(350, 3), (360, 1), (380, 0), (390, 1), (MORE, 2)];
const OXYGEN_POINTS: u32 = 2;

/// What is known of a parameter.
enum Known {
    Value(f64),
    Stale,
    Missing,
}

/// Scores what `vitals` knows.
///
/// `vitals` answers the latest value of a vital, or `None`. Values are rounded
/// first (temperature to 0.1, the others to whole numbers), then scored. Only the
/// air-or-oxygen question is put to the unrounded flow: a quarter of a litre is
/// oxygen.
///
/// On scale 2 a saturation of 93 % and more is normal on air and too high on
/// oxygen. When it is not known which, the saturation has no points that could be
/// defended: it is left out and named missing, as the oxygen is named.
pub fn score(vitals: impl Fn(Vital) -> Option<Input>, scale: Scale) -> News2 {
    let on_oxygen = match known(vitals(Vital::OxygenFlow)) {
        Known::Value(flow) => Some(flow > 0.0),
        Known::Stale | Known::Missing => None,
    };
    let mut parts = BTreeMap::new();
    let (mut missing, mut stale) = (Vec::new(), Vec::new());
    for vital in PARAMETERS {
        match known(vitals(vital)) {
            Known::Value(value) => match points(vital, value, scale, on_oxygen) {
                Some(points) => {
                    parts.insert(vital.name(), points);
                }
                None => missing.push(vital.name()),
            },
            Known::Stale => stale.push(vital.name()),
            Known::Missing => missing.push(vital.name()),
        }
    }
    let score = parts.values().sum();
    let red = parts.values().any(|&points| points == RED_POINTS);
    let partial = !(missing.is_empty() && stale.is_empty());
    News2 { score, band: band(score, red), partial, missing, stale, parts }
}

/// Suspect comes before stale: a value that is not to be believed has no age.
fn known(input: Option<Input>) -> Known {
    match input {
        Some(Input { value, suspect: false, age_seconds }) if value.is_finite() => {
            if age_seconds <= STALE_AFTER_SECONDS { Known::Value(value) } else { Known::Stale }
        }
        _ => Known::Missing,
    }
}

/// The points of one value; `None` when they hang on something unknown.
fn points(vital: Vital, value: f64, scale: Scale, on_oxygen: Option<bool>) -> Option<u32> {
    let whole = value.round() as i64;
    match vital {
        Vital::RespiratoryRate => look_up(RESPIRATORY_RATE, whole),
        Vital::Spo2 => spo2_points(whole, scale, on_oxygen),
        Vital::OxygenFlow => on_oxygen.map(|yes| if yes { OXYGEN_POINTS } else { 0 }),
        Vital::SystolicBp => look_up(SYSTOLIC_BP, whole),
        Vital::HeartRate => look_up(HEART_RATE, whole),
        Vital::Consciousness => look_up(CONSCIOUSNESS, whole),
        Vital::BodyTemperature => look_up(BODY_TEMPERATURE, (value * 10.0).round() as i64),
        _ => None,
    }
}

fn spo2_points(percent: i64, scale: Scale, on_oxygen: Option<bool>) -> Option<u32> {
    let on_air = look_up(SPO2_SCALE_2_ON_AIR, percent);
    let with_oxygen = look_up(SPO2_SCALE_2_ON_OXYGEN, percent);
    match (scale, on_oxygen) {
        (Scale::One, _) => look_up(SPO2_SCALE_1, percent),
        (Scale::Two, Some(true)) => with_oxygen,
        (Scale::Two, Some(false)) => on_air,
        // Up to 92 % the answer is the same either way.
        (Scale::Two, None) => on_air.filter(|_| on_air == with_oxygen),
    }
}

fn look_up(chart: Chart, value: i64) -> Option<u32> {
    chart.iter().find(|(up_to, _)| value <= *up_to).map(|&(_, points)| points)
}

fn band(score: u32, red: bool) -> Band {
    match score {
        7.. => Band::High,
        5..=6 => Band::Medium,
        _ if red => Band::LowMedium,
        _ => Band::Low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All normal, on air; in the order of the chart.
    const NORMAL: [f64; 7] = [16.0, 98.0, 0.0, 120.0, 70.0, 0.0, 37.0];

    fn fresh(value: f64) -> Option<Input> {
        Some(Input { value, age_seconds: 60.0, suspect: false })
    }

    /// A normal patient, but for what `changed` says.
    fn with(changed: &[(Vital, Option<Input>)], scale: Scale) -> News2 {
        let normal = |v| PARAMETERS.iter().position(|p| *p == v).and_then(|i| fresh(NORMAL[i]));
        score(
            |v| match changed.iter().find(|(vital, _)| *vital == v) {
                Some((_, input)) => *input,
                None => normal(v),
            },
            scale,
        )
    }

    fn with_values(changed: &[(Vital, f64)], scale: Scale) -> News2 {
        let changed: Vec<_> = changed.iter().map(|&(vital, value)| (vital, fresh(value))).collect();
        with(&changed, scale)
    }

    #[test]
    fn every_boundary_of_the_chart_scores_as_printed() {
        #[rustfmt::skip]
        let chart: [(Vital, &[(f64, u32)]); 7] = [
            (Vital::RespiratoryRate, &[(0.0, 3), (8.0, 3), (9.0, 1), (11.0, 1), (12.0, 0), (20.0, 0), (21.0, 2), (24.0, 2), (25.0, 3), (60.0, 3)]),
            (Vital::Spo2, &[(70.0, 3), (91.0, 3), (92.0, 2), (93.0, 2), (94.0, 1), (95.0, 1), (96.0, 0), (100.0, 0)]),
            (Vital::OxygenFlow, &[(0.0, 0), (0.25, 2), (2.0, 2), (15.0, 2)]),
            (Vital::SystolicBp, &[(60.0, 3), (90.0, 3), (91.0, 2), (100.0, 2), (101.0, 1), (110.0, 1), (111.0, 0), (219.0, 0), (220.0, 3), (260.0, 3)]),
            (Vital::HeartRate, &[(30.0, 3), (40.0, 3), (41.0, 1), (50.0, 1), (51.0, 0), (90.0, 0), (91.0, 1), (110.0, 1), (111.0, 2), (130.0, 2), (131.0, 3), (200.0, 3)]),
            (Vital::Consciousness, &[(0.0, 0), (1.0, 3), (2.0, 3), (3.0, 3), (4.0, 3)]),
            (Vital::BodyTemperature, &[(34.0, 3), (35.0, 3), (35.1, 1), (36.0, 1), (36.1, 0), (38.0, 0), (38.1, 1), (39.0, 1), (39.1, 2), (41.0, 2)]),
        ];
        for (vital, rows) in chart {
            for &(value, points) in rows {
                let news2 = with_values(&[(vital, value)], Scale::One);
                assert_eq!(news2.parts[vital.name()], points, "{vital} {value}");
                assert_eq!(news2.score, points, "{vital} {value}");
                assert!(!news2.partial);
            }
        }
    }

    #[test]
    fn scale_2_asks_for_oxygen_only_above_its_target() {
        // Saturation, points on air, points on oxygen.
        #[rustfmt::skip]
        let chart = [
            (75.0, 3, 3), (83.0, 3, 3), (84.0, 2, 2), (85.0, 2, 2), (86.0, 1, 1), (87.0, 1, 1),
            (88.0, 0, 0), (92.0, 0, 0), (93.0, 0, 1), (94.0, 0, 1), (95.0, 0, 2), (96.0, 0, 2),
            (97.0, 0, 3), (100.0, 0, 3),
        ];
        for (spo2, air, oxygen) in chart {
            let got = |flow| {
                let input = (Vital::OxygenFlow, flow);
                with(&[(Vital::Spo2, fresh(spo2)), input], Scale::Two).parts.get("spo2").copied()
            };
            assert_eq!(got(fresh(0.0)), Some(air), "{spo2} on air");
            assert_eq!(got(fresh(2.0)), Some(oxygen), "{spo2} on oxygen");
            assert_eq!(got(None), (air == oxygen).then_some(air), "{spo2}, oxygen unknown");
        }
    }

    #[test]
    fn values_are_rounded_before_they_are_scored() {
        for (vital, value, points) in [
            (Vital::RespiratoryRate, 8.4, 3),
            (Vital::RespiratoryRate, 8.5, 1),
            (Vital::Spo2, 95.4, 1),
            (Vital::Spo2, 95.5, 0),
            (Vital::SystolicBp, 90.49, 3),
            (Vital::HeartRate, 130.4, 2),
            (Vital::HeartRate, 130.5, 3),
            (Vital::BodyTemperature, 38.04, 0),
            (Vital::BodyTemperature, 38.06, 1),
            (Vital::BodyTemperature, 35.04, 3),
        ] {
            let news2 = with_values(&[(vital, value)], Scale::One);
            assert_eq!(news2.parts[vital.name()], points, "{vital} {value}");
        }
    }

    #[test]
    fn the_worked_example_is_11() {
        let news2 = with_values(
            &[
                (Vital::RespiratoryRate, 22.0),
                (Vital::Spo2, 93.0),
                (Vital::OxygenFlow, 2.0),
                (Vital::SystolicBp, 98.0),
                (Vital::HeartRate, 112.0),
                (Vital::BodyTemperature, 38.4),
            ],
            Scale::One,
        );
        assert_eq!((news2.score, news2.band, news2.partial), (11, Band::High, false));
    }

    #[test]
    fn bands_follow_the_thresholds_and_the_single_three() {
        // Respiration 9 gives 1, pulse 112 gives 2, consciousness 1 gives 3, oxygen gives 2.
        let (rr, hr) = ((Vital::RespiratoryRate, 9.0), (Vital::HeartRate, 112.0));
        let (acvpu, o2) = ((Vital::Consciousness, 1.0), (Vital::OxygenFlow, 2.0));
        let cold = (Vital::BodyTemperature, 34.0);
        let cases: [(&[_], u32, Band); 11] = [
            (&[], 0, Band::Low),
            (&[rr], 1, Band::Low),
            (&[hr, rr], 3, Band::Low),
            (&[hr, o2], 4, Band::Low),
            (&[acvpu], 3, Band::LowMedium),
            (&[acvpu, rr], 4, Band::LowMedium),
            (&[hr, o2, rr], 5, Band::Medium),
            (&[acvpu, hr], 5, Band::Medium),
            (&[acvpu, cold], 6, Band::Medium),
            (&[acvpu, hr, o2], 7, Band::High),
            (&[acvpu, cold, hr, o2], 10, Band::High),
        ];
        for (changed, score, band) in cases {
            let news2 = with_values(changed, Scale::One);
            assert_eq!((news2.score, news2.band), (score, band), "{changed:?}");
            let red = changed.contains(&acvpu) || changed.contains(&cold);
            assert_eq!(news2.any_single_three(), red, "{changed:?}");
        }
    }

    #[test]
    fn nothing_is_assumed_normal() {
        let nothing = score(|_| None, Scale::One);
        assert!(nothing.partial && nothing.parts.is_empty() && nothing.stale.is_empty());
        assert_eq!(nothing.missing, PARAMETERS.map(Vital::name));

        for vital in PARAMETERS {
            let unusable = |value, age_seconds, suspect| {
                with(&[(vital, Some(Input { value, age_seconds, suspect }))], Scale::One)
            };
            // Each of these values would score, were it believed.
            for (missing, what) in [
                (with(&[(vital, None)], Scale::One), "absent"),
                (unusable(2.0, 60.0, true), "suspect"),
                (unusable(2.0, 1e9, true), "suspect and old"),
                (unusable(f64::NAN, 60.0, false), "no number"),
            ] {
                assert_eq!(missing.missing, [vital.name()], "{what}");
                assert!(missing.partial && missing.stale.is_empty(), "{what}");
                assert_eq!((missing.score, missing.parts.len()), (0, 6), "{what}");
            }
            let old = unusable(2.0, STALE_AFTER_SECONDS + 1.0, false);
            assert_eq!(old.stale, [vital.name()]);
            assert!(old.partial && old.missing.is_empty());
            assert_eq!((old.score, old.parts.len()), (0, 6));
            for age_seconds in [STALE_AFTER_SECONDS, -30.0] {
                assert!(!unusable(2.0, age_seconds, false).partial, "{vital} {age_seconds}");
            }
        }
    }

    #[test]
    fn stale_oxygen_on_scale_2_leaves_a_high_saturation_unscored() {
        let stale = Some(Input { value: 2.0, age_seconds: 1e6, suspect: false });
        let news2 = with(&[(Vital::OxygenFlow, stale)], Scale::Two);
        assert_eq!((news2.missing, news2.stale), (vec!["spo2"], vec!["oxygen_flow"]));
        let news2 = with(&[(Vital::OxygenFlow, stale)], Scale::One);
        assert_eq!((news2.missing, news2.stale), (vec![], vec!["oxygen_flow"]));
    }

    #[test]
    fn it_reads_on_the_wire_as_the_contract_shows() {
        let news2 = with(
            &[
                (Vital::HeartRate, fresh(95.0)),
                (Vital::Spo2, fresh(92.0)),
                (Vital::Consciousness, None),
                (Vital::SystolicBp, Some(Input { value: 80.0, age_seconds: 1e6, suspect: false })),
            ],
            Scale::One,
        );
        let expect = serde_json::json!({
            "score": 3, "band": "low", "partial": true,
            "missing": ["consciousness"], "stale": ["systolic_bp"],
            "parts": {
                "heart_rate": 1, "spo2": 2,
                "respiratory_rate": 0, "oxygen_flow": 0, "body_temperature": 0
            }
        });
        assert_eq!(serde_json::to_value(&news2).unwrap(), expect);
        assert_eq!(serde_json::to_value(Band::LowMedium).unwrap(), "low-medium");
    }
}
