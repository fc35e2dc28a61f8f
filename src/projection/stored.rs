//! By which text the tables of a projection were made, as the database has it.

use sqlx::PgConnection;

use super::fold::Projection;

/// The hash of the text that made a projection's tables; `None` when there are none.
pub(super) async fn made_by(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select sql_hash from projection where name = $1")
        .bind(projection.name)
        .fetch_optional(connection)
        .await
}

/// Whether the text is kept that made a projection's tables: an old version did not.
pub(super) async fn keeps_text(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select apply_sql is not null and check_sql is not null from projection where name = $1",
    )
    .bind(projection.name)
    .fetch_one(connection)
    .await
}

pub(super) async fn remember(
    connection: &mut PgConnection,
    projection: &Projection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into projection (name, sql_hash, apply_sql, check_sql) values ($1, $2, $3, $4) \
         on conflict (name) do update set sql_hash = excluded.sql_hash, \
             apply_sql = excluded.apply_sql, check_sql = excluded.check_sql",
    )
    .bind(projection.name)
    .bind(projection.sql_hash())
    .bind(projection.apply)
    .bind(projection.check)
    .execute(connection)
    .await?;
    Ok(())
}
