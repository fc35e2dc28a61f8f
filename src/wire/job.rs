//! Jobs, and what comes of them: of trying a rule over the recorded history, and of an export.
#![allow(missing_docs, reason = "the names are those of the contract")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{ExportResult, Id, Links, Time};

/// A job that was accepted.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct JobStarted {
    pub id: Uuid,
    #[serde(rename = "_links")]
    pub links: Links,
}

/// How far a job is, then its result.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    pub id: Uuid,
    pub kind: JobKind,
    pub state: JobState,
    pub asked_by: String,
    pub asked_at: Time,
    pub started_at: Option<Time>,
    pub ended_at: Option<Time>,
    pub progress: JobProgress,
    pub result: Option<JobResult>,
    pub error: Option<String>,
    #[serde(rename = "_links")]
    pub links: Links,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum JobKind {
    Backtest,
    Export,
    Reassign,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum JobState {
    Waiting,
    Running,
    Done,
    Cancelled,
    Failed,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct JobProgress {
    #[schemars(range(min = 0))]
    pub readings: i64,
    #[schemars(range(min = 0))]
    pub of: i64,
}

/// Of one rule, of a sweep, or of an export; or how many readings of a device were moved.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Result")]
pub enum JobResult {
    One {
        report: Box<Report>,
        against: Option<Compared>,
    },
    Sweep {
        axes: Vec<String>,
        settings: Vec<Setting>,
        /// SVG.
        picture: String,
    },
    Reassigned {
        /// Recorded for the patient; the others were there before.
        copied: i64,
        /// Taken away from where they lay.
        retracted: i64,
    },
    Export(ExportResult),
}

/// What one rule would have done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[schemars(with = "Id")]
    pub rule: String,
    pub rule_version: u32,
    /// Readings that were judged.
    pub readings: u64,
    /// Patients of whom there were any.
    pub patients: usize,
    /// Of them, those with an alert.
    pub patients_with_alerts: usize,
    /// Observed time.
    pub patient_days: f64,
    /// Alerts raised.
    pub alerts: u64,
    /// The same by observed time.
    pub alerts_per_patient_day: f64,
    /// Said again, or to others, had nobody answered.
    pub repeats: u64,
    /// In alarm, of the observed time.
    pub alarm_part: f64,
    /// The share of the noisiest tenth of patients in all alerts.
    pub noisiest_tenth_part: f64,
    /// By ward; those without come under an empty name.
    pub wards: Vec<WardNumbers>,
    /// The noisiest patients.
    pub noisiest: Vec<PatientNumbers>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct WardNumbers {
    pub ward: String,
    pub patients: usize,
    pub patient_days: f64,
    pub alerts: u64,
    pub alerts_per_patient_day: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct PatientNumbers {
    #[schemars(with = "Id")]
    pub patient_id: String,
    pub patient_days: f64,
    pub alerts: u64,
    pub alarm_seconds: f64,
}

/// How the alerts of a rule lie to those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Of the rule.
    pub alerts: u64,
    /// Of the others.
    pub others: u64,
    /// Of the rule, while one of the others stood.
    pub both: u64,
    /// Of the rule alone.
    pub gained: u64,
    /// Of the others alone.
    pub lost: u64,
}

/// One point of a sweep.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// A number or a text of each axis, as in the rule.
    #[schemars(with = "Vec<SettingValue>")]
    pub setting: Vec<Value>,
    pub alerts: u64,
    pub alerts_per_patient_day: f64,
    pub patients_with_alerts: usize,
    pub alarm_part: f64,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[allow(dead_code, reason = "for the description alone")]
enum SettingValue {
    Number(f64),
    Text(String),
}
