//! Devices: what is registered of one, and whom it measures from when on.
//!
//! Guarantees that of two changes at the same moment the second one is made of what the first
//! one left, so that an id is one device's alone and a device at one patient; and that saying
//! the same again changes nothing. Does not move readings: that is a reassignment.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::devices::{
    DEVICE_ALIAS, DEVICE_ASSIGNED, DEVICE_REGISTERED, DEVICE_UNASSIGNED, Device, Registration,
    Said, find_on,
};
use crate::event::{Event, NO_PATIENT};
use crate::log::{AppendError, Log, append, in_turn};

/// Events of a device, which are all read whenever one of its readings names no patient.
pub const CHANGES_PER_DEVICE_MAX: usize = 5_000;

/// Why nothing was said of a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The log refused it, or is gone.
    #[error("{0}")]
    Append(#[from] AppendError),
    /// The id is another device's alias.
    #[error("this id is an alias of {0}: ask for that device")]
    IsAlias(String),
    /// An alias is another device's, or a device by itself.
    #[error("{0} is a device of its own, or another one's alias: an id is one device's alone")]
    AliasTaken(String),
    /// It was changed too often.
    #[error(
        "{CHANGES_PER_DEVICE_MAX} changes of this device are recorded, as many as may be: go on under another id"
    )]
    TooMany,
}

impl From<sqlx::Error> for DeviceError {
    fn from(error: sqlx::Error) -> DeviceError {
        DeviceError::Append(error.into())
    }
}

/// Who says something, and when.
pub type By<'a> = (&'a str, DateTime<Utc>);

/// Whoever changes or reassigns devices of a tenant goes one after the other.
pub(super) async fn turn(tx: &mut PgConnection, tenant: &str) -> Result<(), sqlx::Error> {
    in_turn(tx, &format!("devices/{tenant}")).await
}

/// Says all that is registered of a device.
pub async fn register(
    log: &Log,
    (tenant, device_id): (&str, &str),
    (by, now): By<'_>,
    registration: Registration,
) -> Result<Device, DeviceError> {
    let wanted: Vec<String> = [&[device_id.to_owned()][..], &registration.aliases].concat();
    let mut tx = log.pool().begin().await?;
    turn(&mut tx, tenant).await?;
    let found = find_on(&mut tx, log, tenant, &wanted, None).await?;
    let device = found.get(device_id).cloned().unwrap_or_default();
    own(&device)?;
    for alias in &registration.aliases {
        let other = found.get(alias);
        let is_taken = other.is_some_and(|other| match &other.alias_of {
            Some(owner) => owner != device_id,
            None => other.is_known(),
        });
        if is_taken || alias == device_id {
            return Err(DeviceError::AliasTaken(alias.clone()));
        }
    }
    let before = device.registered.as_ref().map(|registered| &registered.registration);
    if before == Some(&registration) {
        return Ok(device);
    }
    let before = before.map_or(&[][..], |before| &before.aliases);
    let of = |id: &str, kind, said: Said| event(tenant, (id, kind), now, &said);
    let said = Said { v: 1, by: by.to_owned(), ..Said::default() };
    let mut events = Vec::new();
    for id in before.iter().filter(|id| !registration.aliases.contains(id)) {
        events.push(of(id, DEVICE_ALIAS, said.clone())?);
    }
    for id in registration.aliases.iter().filter(|id| !before.contains(id)) {
        let said = Said { alias_of: Some(device_id.to_owned()), ..said.clone() };
        events.push(of(id, DEVICE_ALIAS, said)?);
    }
    events.push(of(device_id, DEVICE_REGISTERED, Said { device: Some(registration), ..said })?);
    commit(log, tx, (tenant, device_id), &events).await
}

/// Says that from a moment on a device measures a patient, or nobody.
pub async fn assign(
    log: &Log,
    (tenant, device_id): (&str, &str),
    by: &str,
    (patient_id, from): (Option<&str>, DateTime<Utc>),
) -> Result<Device, DeviceError> {
    let mut tx = log.pool().begin().await?;
    turn(&mut tx, tenant).await?;
    let mut found = find_on(&mut tx, log, tenant, &[device_id.to_owned()], None).await?;
    let device = found.remove(device_id).unwrap_or_default();
    own(&device)?;
    if device.says(from, patient_id) {
        return Ok(device);
    }
    let kind = if patient_id.is_some() { DEVICE_ASSIGNED } else { DEVICE_UNASSIGNED };
    let said = Said {
        v: 1,
        by: by.to_owned(),
        patient_id: patient_id.map(str::to_owned),
        ..Said::default()
    };
    let events = [event(tenant, (device_id, kind), from, &said)?];
    commit(log, tx, (tenant, device_id), &events).await
}

/// Only of a device itself, and only if there is room for more.
fn own(device: &Device) -> Result<(), DeviceError> {
    match &device.alias_of {
        Some(owner) => Err(DeviceError::IsAlias(owner.clone())),
        None if device.events >= CHANGES_PER_DEVICE_MAX => Err(DeviceError::TooMany),
        None => Ok(()),
    }
}

async fn commit(
    log: &Log,
    mut tx: sqlx::PgTransaction<'_>,
    (tenant, device_id): (&str, &str),
    events: &[Event],
) -> Result<Device, DeviceError> {
    let shard = log.shard_of(tenant, NO_PATIENT);
    append(&mut tx, shard, events).await?;
    let mut found = find_on(&mut tx, log, tenant, &[device_id.to_owned()], None).await?;
    tx.commit().await?;
    log.wake().appended(shard, events);
    Ok(found.remove(device_id).unwrap_or_default())
}

/// What is said of a device.
pub(super) fn event(
    tenant: &str,
    (device_id, kind): (&str, &str),
    at: DateTime<Utc>,
    said: &Said,
) -> Result<Event, sqlx::Error> {
    let data = serde_json::to_string(said).map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(Event::non_reading(kind, (tenant, NO_PATIENT), device_id, at, data))
}
