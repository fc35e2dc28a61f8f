//! Turns: reading before appending, without holding up who appends.
//!
//! Guarantees that of those who take the same turn one after the other reads what the one
//! before committed. No reading waits for it: a shard's head is locked by appends and
//! by nothing else. Take turns before heads, never after.

use sqlx::PgConnection;

/// Apart from the other advisory locks of this database.
const TURNS: i32 = 0x7475_726e;

/// Waits until everybody else with this turn has ended their transaction.
pub async fn in_turn(tx: &mut PgConnection, of: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock($1, hashtext($2))")
        .bind(TURNS)
        .bind(of)
        .execute(tx)
        .await?;
    Ok(())
}
