//! The numbers of a backtest, as people and programs read them.
//!
//! Guarantees that rates and parts are over observed time: a silence of more than two hours
//! counts neither as time in which nothing happened nor as time in alarm.

use std::collections::BTreeMap;

use super::{BacktestTotals, PatientTrials};
use crate::rules::model::Rule;
pub use crate::wire::{Compared, PatientNumbers, Report, WardNumbers};

/// Patients that are named, the noisiest first.
const NOISIEST_MAX: usize = 10;

impl Report {
    /// Of the rule that stands at `index` in the question.
    pub fn of(found: &BacktestTotals, index: usize, rule: &Rule) -> Report {
        let alerts_of = |p: &PatientTrials| p.tallies.get(index).map_or(0, |t| u64::from(t.alerts));
        let days = sum(found.patients.iter().map(|p| p.days));
        let tallies = || found.patients.iter().filter_map(|p| p.tallies.get(index));
        let alerts: u64 = found.patients.iter().map(alerts_of).sum();
        let alarm = sum(tallies().map(|t| t.alarm_micros as f64));
        let mut noisy: Vec<&PatientTrials> = found.patients.iter().collect();
        noisy.sort_by(|a, b| alerts_of(b).cmp(&alerts_of(a)).then_with(|| a.id.cmp(&b.id)));
        let tenth: u64 = noisy.iter().take(noisy.len().div_ceil(10)).map(|p| alerts_of(p)).sum();
        Report {
            rule: rule.id.clone(),
            rule_version: rule.version,
            readings: found.readings,
            patients: found.patients.len(),
            patients_with_alerts: found.patients.iter().filter(|p| alerts_of(p) > 0).count(),
            patient_days: days,
            alerts,
            alerts_per_patient_day: per(alerts as f64, days),
            repeats: tallies().map(|t| u64::from(t.repeats)).sum(),
            alarm_part: per(alarm / 86_400e6, days),
            noisiest_tenth_part: per(tenth as f64, alerts as f64),
            wards: wards(found, alerts_of),
            noisiest: noisy
                .into_iter()
                .filter(|p| alerts_of(p) > 0)
                .take(NOISIEST_MAX)
                .map(|p| PatientNumbers {
                    patient_id: p.id.clone(),
                    patient_days: p.days,
                    alerts: alerts_of(p),
                    alarm_seconds: p
                        .tallies
                        .get(index)
                        .map_or(0.0, |t| t.alarm_micros as f64 / 1e6),
                })
                .collect(),
        }
    }
}

/// The standard library's sum of nothing is -0.
fn sum(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, |sum, n| sum + n)
}

fn per(n: f64, of: f64) -> f64 {
    if of > 0.0 { n / of } else { 0.0 }
}

fn wards(found: &BacktestTotals, alerts_of: impl Fn(&PatientTrials) -> u64) -> Vec<WardNumbers> {
    let mut wards: BTreeMap<String, WardNumbers> = BTreeMap::new();
    for patient in &found.patients {
        let name = patient.ward.clone().unwrap_or_default();
        let ward =
            wards.entry(name.clone()).or_insert(WardNumbers { ward: name, ..Default::default() });
        ward.patients += 1;
        ward.patient_days += patient.days;
        ward.alerts += alerts_of(patient);
    }
    let mut wards: Vec<WardNumbers> = wards.into_values().collect();
    for ward in &mut wards {
        ward.alerts_per_patient_day = per(ward.alerts as f64, ward.patient_days);
    }
    wards.sort_by(|a, b| b.alerts_per_patient_day.total_cmp(&a.alerts_per_patient_day));
    wards
}

/// Compares the first rule with all others of the question, by patient and time.
pub fn compared(found: &BacktestTotals) -> Compared {
    let mut all = Compared::default();
    let meets = |a: &(i64, i64), b: &(i64, i64)| a.0 <= b.1 && b.0 <= a.1;
    for patient in &found.patients {
        let Some((first, others)) = patient.tallies.split_first() else { continue };
        let others: Vec<(i64, i64)> = others.iter().flat_map(|t| t.times.iter().copied()).collect();
        for time in &first.times {
            let both = others.iter().any(|other| meets(time, other));
            all.alerts += 1;
            all.both += u64::from(both);
            all.gained += u64::from(!both);
        }
        for other in &others {
            all.others += 1;
            all.lost += u64::from(!first.times.iter().any(|time| meets(time, other)));
        }
    }
    all
}
