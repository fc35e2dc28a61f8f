//! `vitals migrate`: what only the owner of the log may do, before the service starts.
//!
//! Guarantees that afterwards a service of this version finds the schema, the projections
//! and its rights, and needs no connection of the owner's to serve.

use std::process::ExitCode;

use super::database::Database;
use super::error::Error;
use crate::config::Common;
use crate::log::roles;
use crate::projection;

/// Connections of a rebuild, if one is needed.
const CONNECTIONS_MAX: u32 = 8;

/// Migrates.
pub async fn run(common: &Common) -> Result<ExitCode, Error> {
    let database = Database::open(common).await?;
    let migrated = async {
        let log = database.log(common, database.owner_pool(CONNECTIONS_MAX)).await?;
        projection::renew(&log).await?;
        Ok::<_, Error>(roles::identity(&mut *log.pool().acquire().await?).await?)
    }
    .await;
    database.close().await?;
    let roles = migrated?;
    println!("migrated");
    if !roles.has_roles {
        println!(
            "no role {} beside the owner {}: docs/operations.md says how to make it",
            roles::SERVICE,
            roles.name
        );
    }
    Ok(ExitCode::SUCCESS)
}
