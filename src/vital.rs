//! The vitals, their units and their ranges.
//!
//! Guarantees that a [`Vital`] has one canonical unit in the whole platform and
//! that what is stored lies in its range. Does not judge a patient: limits that
//! mean something clinically live in rules.
//!
//! Codes are LOINC, units UCUM. The ranges are those of the public contract:
//! "stored" is what the measure can be at all (outside, the reading is refused),
//! "plausible" what a living patient shows (outside, it is kept but suspect: a
//! sensor that fell off reads 0).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of measurement.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Vital {
    HeartRate,
    RespiratoryRate,
    Spo2,
    BodyTemperature,
    SystolicBp,
    DiastolicBp,
    MeanBp,
    BloodGlucose,
    BodyWeight,
    OxygenFlow,
    Consciousness,
    HeartRateVariability,
}

/// Another unit, and the way from it to the canonical one.
type Also = (&'static str, fn(f64) -> f64);

/// What is fixed about a vital.
struct Facts {
    vital: Vital,
    name: &'static str,
    path: &'static str,
    json_key: &'static str,
    loinc: &'static str,
    unit: &'static str,
    also: Option<Also>,
    stored: (f64, f64),
    plausible: Option<(f64, f64)>,
}

/// 1 mmHg is 133.322387415 Pa (the conventional millimetre of mercury, BIPM).
const KPA_PER_MMHG: f64 = 0.133_322_387_415;
/// The molar mass of glucose is 180.156 g/mol, so 1 mmol/L is 18.0156 mg/dL.
const GLUCOSE_MG_DL_PER_MMOL_L: f64 = 18.0156;
/// The international avoirdupois pound, exact.
const KG_PER_LB: f64 = 0.453_592_37;

fn degf_to_cel(v: f64) -> f64 {
    (v - 32.0) * 5.0 / 9.0
}
fn kpa_to_mmhg(v: f64) -> f64 {
    v / KPA_PER_MMHG
}
fn mmol_to_mg_dl(v: f64) -> f64 {
    v * GLUCOSE_MG_DL_PER_MMOL_L
}
fn lb_to_kg(v: f64) -> f64 {
    v * KG_PER_LB
}

const KPA: Option<Also> = Some(("kPa", kpa_to_mmhg));

#[rustfmt::skip]
const FACTS: [Facts; 12] = [
    Facts { vital: Vital::HeartRate, name: "heart_rate", path: "heart-rate", json_key: "heartRate", loinc: "8867-4", unit: "/min", also: None, stored: (0.0, 400.0), plausible: Some((20.0, 300.0)) },
    Facts { vital: Vital::RespiratoryRate, name: "respiratory_rate", path: "respiratory-rate", json_key: "respiratoryRate", loinc: "9279-1", unit: "/min", also: None, stored: (0.0, 150.0), plausible: Some((3.0, 80.0)) },
    Facts { vital: Vital::Spo2, name: "spo2", path: "spo2", json_key: "spo2", loinc: "59408-5", unit: "%", also: None, stored: (0.0, 100.0), plausible: Some((50.0, 100.0)) },
    Facts { vital: Vital::BodyTemperature, name: "body_temperature", path: "body-temperature", json_key: "bodyTemperature", loinc: "8310-5", unit: "Cel", also: Some(("[degF]", degf_to_cel)), stored: (10.0, 46.0), plausible: Some((30.0, 43.0)) },
    Facts { vital: Vital::SystolicBp, name: "systolic_bp", path: "systolic-bp", json_key: "systolicBp", loinc: "8480-6", unit: "mm[Hg]", also: KPA, stored: (0.0, 400.0), plausible: Some((40.0, 300.0)) },
    Facts { vital: Vital::DiastolicBp, name: "diastolic_bp", path: "diastolic-bp", json_key: "diastolicBp", loinc: "8462-4", unit: "mm[Hg]", also: KPA, stored: (0.0, 300.0), plausible: Some((20.0, 200.0)) },
    Facts { vital: Vital::MeanBp, name: "mean_bp", path: "mean-bp", json_key: "meanBp", loinc: "8478-0", unit: "mm[Hg]", also: KPA, stored: (0.0, 350.0), plausible: Some((25.0, 250.0)) },
    Facts { vital: Vital::BloodGlucose, name: "blood_glucose", path: "blood-glucose", json_key: "bloodGlucose", loinc: "2339-0", unit: "mg/dL", also: Some(("mmol/L", mmol_to_mg_dl)), stored: (0.0, 2000.0), plausible: Some((10.0, 1000.0)) },
    Facts { vital: Vital::BodyWeight, name: "body_weight", path: "body-weight", json_key: "bodyWeight", loinc: "29463-7", unit: "kg", also: Some(("[lb_av]", lb_to_kg)), stored: (0.0, 700.0), plausible: Some((0.3, 400.0)) },
    Facts { vital: Vital::OxygenFlow, name: "oxygen_flow", path: "oxygen-flow", json_key: "oxygenFlow", loinc: "3151-8", unit: "L/min", also: None, stored: (0.0, 100.0), plausible: Some((0.0, 70.0)) },
    Facts { vital: Vital::Consciousness, name: "consciousness", path: "consciousness", json_key: "consciousness", loinc: "67775-7", unit: "{ACVPU}", also: None, stored: (0.0, 4.0), plausible: None },
    Facts { vital: Vital::HeartRateVariability, name: "heart_rate_variability", path: "heart-rate-variability", json_key: "heartRateVariability", loinc: "80404-7", unit: "ms", also: None, stored: (0.0, 2000.0), plausible: Some((1.0, 500.0)) },
];

/// A value that may be stored: finite, canonical unit, inside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// In [`Vital::unit`].
    pub value: f64,
    /// Outside what a living patient shows; never raises a physiological alert.
    pub suspect: bool,
}

/// Why a value cannot be stored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum MeasureError {
    #[error("unit \"{unit}\" does not fit {vital}: send {accepted}")]
    Unit { vital: Vital, unit: String, accepted: String },
    #[error(
        "{value} {unit} is outside {min}–{max} {unit}, which {vital} can be: check the sensor or the unit"
    )]
    Range { vital: Vital, value: f64, unit: &'static str, min: f64, max: f64 },
    #[error("{value} is not one of 0=A 1=C 2=V 3=P 4=U")]
    NotAcvpu { value: f64 },
}

impl Vital {
    /// All vitals, in the order of the contract's table.
    pub fn all() -> impl Iterator<Item = Vital> {
        FACTS.iter().map(|f| f.vital)
    }

    fn facts(self) -> &'static Facts {
        // The table is in the order of the enum; a test holds that.
        &FACTS[self as usize]
    }

    /// `heart_rate`: the name on the wire and in the database.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// `heart-rate`: the name in a URL.
    pub fn path(self) -> &'static str {
        self.facts().path
    }

    /// `heartRate`: the key of the value in the answer of a vital's own path.
    pub fn json_key(self) -> &'static str {
        self.facts().json_key
    }

    /// The LOINC code.
    pub fn loinc(self) -> &'static str {
        self.facts().loinc
    }

    /// The canonical unit, UCUM.
    pub fn unit(self) -> &'static str {
        self.facts().unit
    }

    /// The vital of a URL's path segment.
    pub fn from_path(path: &str) -> Option<Vital> {
        FACTS.iter().find(|f| f.path == path).map(|f| f.vital)
    }

    /// Brings `value` to the canonical unit and judges its range.
    ///
    /// `unit` left out means canonical. `value` must be finite.
    pub fn measure(self, value: f64, unit: Option<&str>) -> Result<Measured, MeasureError> {
        let facts = self.facts();
        let value = match unit {
            None => value,
            Some(u) if u == facts.unit => value,
            Some(u) => match facts.also {
                Some((also, convert)) if also == u => round_conversion(convert(value)),
                _ => return Err(self.unit_error(u)),
            },
        };
        let (min, max) = facts.stored;
        if !(min..=max).contains(&value) {
            return Err(MeasureError::Range { vital: self, value, unit: facts.unit, min, max });
        }
        if self == Vital::Consciousness && value.fract() != 0.0 {
            return Err(MeasureError::NotAcvpu { value });
        }
        let suspect = facts.plausible.is_some_and(|(lo, hi)| !(lo..=hi).contains(&value));
        // -0.0 is in the range but would print as "-0".
        Ok(Measured { value: value + 0.0, suspect })
    }

    fn unit_error(self, unit: &str) -> MeasureError {
        let facts = self.facts();
        let accepted = match facts.also {
            Some((also, _)) => format!("\"{}\" or \"{also}\"", facts.unit),
            None => format!("\"{}\"", facts.unit),
        };
        MeasureError::Unit { vital: self, unit: unit.to_owned(), accepted }
    }
}

/// Conversions leave binary dust (98.6 °F would be 36.99999999999999 °C): keep
/// nine decimals, far finer than any sensor.
fn round_conversion(v: f64) -> f64 {
    (v * 1e9).round() / 1e9
}

/// A name that is no vital.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("\"{0}\" is no vital: use one of {names}", names = FACTS.map(|f| f.name).join(", "))]
pub struct UnknownVital(pub String);

impl FromStr for Vital {
    type Err = UnknownVital;
    fn from_str(s: &str) -> Result<Vital, UnknownVital> {
        FACTS
            .iter()
            .find(|f| f.name == s)
            .map(|f| f.vital)
            .ok_or_else(|| UnknownVital(s.to_owned()))
    }
}

impl TryFrom<String> for Vital {
    type Error = UnknownVital;
    fn try_from(name: String) -> Result<Vital, UnknownVital> {
        name.parse()
    }
}

impl fmt::Display for Vital {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_round_trip() {
        for (i, f) in FACTS.iter().enumerate() {
            assert_eq!(f.vital as usize, i);
            assert_eq!(f.name.parse::<Vital>().unwrap(), f.vital);
            assert_eq!(Vital::from_path(f.path), Some(f.vital));
            assert_eq!(serde_json::to_value(f.vital).unwrap(), f.name);
        }
    }

    #[track_caller]
    fn check(vital: Vital, value: f64, unit: Option<&str>, expect: Result<(f64, bool), &str>) {
        let got = vital.measure(value, unit);
        match expect {
            Ok((v, suspect)) => assert_eq!(got, Ok(Measured { value: v, suspect })),
            Err(part) => {
                let message = got.unwrap_err().to_string();
                assert!(message.contains(part), "{message}");
            }
        }
    }

    #[test]
    fn units_convert_and_ranges_judge() {
        check(Vital::HeartRate, 82.0, None, Ok((82.0, false)));
        check(Vital::HeartRate, 0.0, None, Ok((0.0, true)));
        check(Vital::HeartRate, 400.0, Some("/min"), Ok((400.0, true)));
        check(Vital::HeartRate, 400.1, None, Err("outside 0–400"));
        check(Vital::HeartRate, 82.0, Some("bpm"), Err("send \"/min\""));
        check(Vital::BodyTemperature, 98.6, Some("[degF]"), Ok((37.0, false)));
        check(Vital::BodyTemperature, -17.8, None, Err("outside 10–46"));
        check(Vital::SystolicBp, 16.0, Some("kPa"), Ok((120.009_852_135, false)));
        check(Vital::BloodGlucose, 5.5, Some("mmol/L"), Ok((99.0858, false)));
        check(Vital::BodyWeight, 150.0, Some("[lb_av]"), Ok((68.038_855_5, false)));
        check(Vital::Consciousness, 1.5, None, Err("0=A"));
        check(Vital::Consciousness, 4.0, None, Ok((4.0, false)));
    }
}
