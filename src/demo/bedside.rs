//! The bedside: sends the ward's readings over HTTP, as devices would.
//!
//! Guarantees that it remembers what it sent and when, so that the account at the
//! end does not have to believe the platform. Gives up at the first answer that a
//! demo should not get.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::ward::{SimReading, Ward};
use crate::clock::{Clock, rfc3339};
use crate::delivery::webhook::sign::{Secret, SecretError};
use crate::vital::Vital;

/// Readings of one request.
const READINGS_PER_REQUEST: usize = 1_000;

/// What a demo should not meet.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BedsideError {
    #[error("the demo's request failed: {0}")]
    Http(#[from] reqwest::Error),
    #[error("{method} {path} was answered {status}: {body}")]
    Answer { method: Method, path: String, status: StatusCode, body: String },
    #[error("the webhook's secret cannot be read: {0}")]
    Secret(#[from] SecretError),
}

/// A heart rate that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Whose.
    pub patient_id: String,
    /// Of them.
    pub value: f64,
    /// As it was told to the platform.
    pub measured_at: DateTime<Utc>,
    /// Just before its request began.
    pub sent_at: DateTime<Utc>,
}

/// The sending side.
pub struct Bedside {
    client: reqwest::Client,
    base: String,
    token: String,
    clock: Clock,
    started_at: DateTime<Utc>,
    speed: u32,
    simulated_s: u64,
    acknowledged: u64,
    webhook: Option<String>,
    heart_rates: Vec<Sent>,
}

impl Bedside {
    /// A bedside that talks to the server at `base` with `token`.
    pub fn new(base: &str, token: &str, clock: Clock) -> Result<Bedside, BedsideError> {
        Ok(Bedside {
            client: reqwest::Client::builder().no_proxy().build()?,
            base: format!("{base}/api/v1"),
            token: token.to_owned(),
            started_at: clock.now(),
            clock,
            speed: 1,
            simulated_s: 0,
            acknowledged: 0,
            webhook: None,
            heart_rates: Vec::new(),
        })
    }

    /// Registers the ward's patients.
    pub async fn register(&self, ward: &Ward) -> Result<(), BedsideError> {
        for patient in ward.patients() {
            let record = json!({ "ward": patient.ward, "birthDate": patient.birth_date });
            let path = format!("/patients/{}/record", patient.id);
            self.ask(Method::PUT, &path, Some(record)).await?;
        }
        Ok(())
    }

    /// Registers the receiver for every alert; returns the secret.
    pub async fn subscribe(&mut self, url: &str) -> Result<Secret, BedsideError> {
        let wish = json!({ "url": url, "events": ["*"], "description": "the demo's receiver" });
        let answer = self.ask(Method::POST, "/webhooks", Some(wish)).await?;
        self.webhook = answer["id"].as_str().map(str::to_owned);
        Ok(Secret::parse(answer["secret"].as_str().unwrap_or_default())?)
    }

    /// Takes the receiver out again.
    pub async fn unsubscribe(&self) -> Result<(), BedsideError> {
        if let Some(id) = &self.webhook {
            self.ask(Method::DELETE, &format!("/webhooks/{id}"), None).await?;
        }
        Ok(())
    }

    /// Simulated time begins now.
    pub fn begin(&mut self, speed: u32) {
        self.started_at = self.clock.now();
        self.speed = speed;
    }

    /// Sends all readings that have become due.
    pub async fn send_due(&mut self, ward: &Ward) -> Result<(), BedsideError> {
        let elapsed = (self.clock.now() - self.started_at).num_milliseconds().max(0) as u64;
        let until_s = elapsed * u64::from(self.speed) / 1_000;
        let due = ward.between(self.simulated_s, until_s);
        self.simulated_s = until_s;
        for readings in due.chunks(READINGS_PER_REQUEST) {
            self.send(readings).await?;
        }
        Ok(())
    }

    async fn send(&mut self, readings: &[SimReading]) -> Result<(), BedsideError> {
        let body = readings.iter().map(|r| {
            json!({
                "patientId": r.patient_id,
                "deviceId": r.device_id,
                "vital": r.vital,
                "value": r.value,
                "measuredAt": rfc3339(self.measured_at(r)),
            })
        });
        let body: Value = body.collect();
        let sent_at = self.clock.now();
        for reading in readings.iter().filter(|r| r.vital == Vital::HeartRate) {
            self.heart_rates.push(Sent {
                patient_id: reading.patient_id.clone(),
                value: reading.value,
                measured_at: self.measured_at(reading),
                sent_at,
            });
        }
        let answer = self.ask(Method::POST, "/readings", Some(body)).await?;
        self.acknowledged += answer["stored"].as_u64().unwrap_or(0);
        Ok(())
    }

    /// Simulated seconds as real time.
    fn measured_at(&self, reading: &SimReading) -> DateTime<Utc> {
        let micros = reading.at_s * 1_000_000 / u64::from(self.speed);
        self.started_at + TimeDelta::microseconds(micros as i64)
    }

    /// Readings whose commit was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Every heart rate that was sent, by patient, in order.
    pub fn heart_rates(&self) -> HashMap<&str, Vec<&Sent>> {
        let mut by_patient: HashMap<&str, Vec<&Sent>> = HashMap::new();
        for sent in &self.heart_rates {
            by_patient.entry(&sent.patient_id).or_default().push(sent);
        }
        by_patient
    }

    /// A patient's whole history, as the platform replays it.
    pub async fn replay(&self, patient_id: &str) -> Result<Vec<Value>, BedsideError> {
        let path = format!("/patients/{patient_id}/replay?speed=max");
        let text = self.text(Method::GET, &path, None).await?;
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        Ok(data.filter_map(|data| serde_json::from_str(data).ok()).collect())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, BedsideError> {
        let text = self.text(method, path, body).await?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn text(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<String, BedsideError> {
        let request = self.client.request(method.clone(), format!("{}{path}", self.base));
        let request = request.bearer_auth(&self.token);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        // 207 as well: a reading of our own ward that is rejected is a defect.
        if !status.is_success() || status == StatusCode::MULTI_STATUS {
            let body = text.chars().take(500).collect();
            return Err(BedsideError::Answer { method, path: path.to_owned(), status, body });
        }
        Ok(text)
    }
}
