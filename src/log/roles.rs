//! Who the service is in the database, beside the owner of the log (`migrations/0008_roles.sql`).
//!
//! Guarantees that what the service may is decided in one place, `share_all`, by the owner,
//! and that who asks ([`faults`]) hears of everything that it may beyond that. Does not make
//! the roles where it may not: that is for who owns the server (`docs/operations.md`).

use sqlx::PgPool;
use sqlx::postgres::PgConnection;

/// The login of those who append, fold and page.
pub const SERVICE: &str = "vitals_service";
/// The role in which somebody is answered, within the rows of their tenant.
pub const TENANT: &str = "vitals_tenant";

/// Who a connection is, as far as the log is concerned.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// May do anything, or owns what the log is made of: could rewrite it.
    pub may_rewrite: bool,
    /// There is a log.
    pub has_log: bool,
    /// May make roles.
    pub makes_roles: bool,
    /// May act as [`TENANT`].
    pub is_walled: bool,
    /// Both roles are there.
    pub has_roles: bool,
}

/// Who a connection is. Also before there is a log.
pub async fn identity(connection: &mut PgConnection) -> Result<Identity, sqlx::Error> {
    sqlx::query_as(include_str!("identity.sql"))
        .bind(SERVICE)
        .bind(TENANT)
        .fetch_one(connection)
        .await
}

/// Makes the roles that are missing, for who may. Two at a time are both content.
pub async fn make(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(include_str!("make_roles.sql")).execute(connection).await.map(|_| ())
}

/// Gives the service what is its, and puts the wall up, where that is missing.
pub async fn share(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("select share_all()").execute(pool).await.map(|_| ())
}

/// Everything that the service may and should not. Nothing where there is no such role.
pub async fn faults(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(include_str!("faults.sql")).bind(SERVICE).bind(TENANT).fetch_all(pool).await
}
