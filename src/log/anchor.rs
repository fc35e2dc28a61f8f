//! Anchors: heads of the log, to be kept where whoever owns the database cannot reach.
//!
//! Guarantees that a log which still has an anchor's heads has everything that it had then,
//! unchanged: a head's hash covers all commits before it, and `chain` recomputes it. A tail
//! that was cut off, which leaves a chain that is whole in itself, is proved by an anchor that
//! is not there. Says nothing about what came after the last one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use uuid::Uuid;

use super::Log;

/// The heads of all shards at a moment. One line of JSON where it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anchor {
    /// When.
    pub anchored_at: DateTime<Utc>,
    /// Of which installation.
    pub installation: Uuid,
    /// Of which history.
    pub incarnation: i64,
    /// Of the shards that have anything.
    pub heads: Vec<Head>,
}

/// The last commit of a shard.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Which shard.
    pub shard: i16,
    /// Its last position.
    pub position: i64,
    /// The chain's hash after it, in hex.
    pub hash: String,
    /// When the log learned it.
    pub recorded_at: DateTime<Utc>,
}

/// What a line begins with, wherever in it an anchor stands.
const BEGINS: &str = "{\"anchoredAt\":";

impl Anchor {
    /// As a line.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The anchor of a line, also of a line of a program's log; `None` if it has none.
    pub fn of_line(line: &str) -> Option<Anchor> {
        let text = line.get(line.find(BEGINS)?..)?;
        serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
    }
}

impl Log {
    /// The heads as they are now.
    pub async fn anchor(&self, at: DateTime<Utc>) -> Result<Anchor, sqlx::Error> {
        let heads = sqlx::query_as(
            "select h.shard, h.position, encode(c.hash, 'hex') as hash, c.recorded_at \
             from shard_head h join log_commit c on c.shard = h.shard and c.position_to = h.position \
             order by h.shard",
        )
        .fetch_all(self.pool())
        .await?;
        let (installation, incarnation) = (self.installation(), self.incarnations().number());
        Ok(Anchor { anchored_at: at, installation, incarnation, heads })
    }

    /// The heads that this log does not have.
    pub async fn missing(&self, heads: &[Head]) -> Result<Vec<Head>, sqlx::Error> {
        sqlx::query_as(
            "select a.* from unnest($1::smallint[], $2::bigint[], $3::text[], $4::timestamptz[]) \
                 as a (shard, position, hash, recorded_at) \
             where not exists (select from log_commit c where c.shard = a.shard \
                   and c.position_to = a.position and encode(c.hash, 'hex') = a.hash)",
        )
        .bind(heads.iter().map(|head| head.shard).collect::<Vec<_>>())
        .bind(heads.iter().map(|head| head.position).collect::<Vec<_>>())
        .bind(heads.iter().map(|head| &*head.hash).collect::<Vec<_>>())
        .bind(heads.iter().map(|head| head.recorded_at).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await
    }

    /// Looks whether what was published last is still there; where it is not, a new incarnation
    /// begins. An anchor of another history says nothing about this one.
    pub async fn recall(&self, anchor: &Anchor) -> Result<(), sqlx::Error> {
        let here = (self.installation(), self.incarnations().number());
        if (anchor.installation, anchor.incarnation) != here {
            return Ok(());
        }
        for Head { shard, position, recorded_at, .. } in &anchor.heads {
            self.incarnations().acknowledged(*shard, *position, *recorded_at);
        }
        self.check_incarnation().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_found_in_a_file_and_in_a_programs_log() {
        let head = Head {
            shard: 1,
            position: 7,
            hash: "ab".to_owned(),
            recorded_at: DateTime::UNIX_EPOCH,
        };
        let anchor = Anchor {
            anchored_at: DateTime::UNIX_EPOCH,
            installation: Uuid::nil(),
            incarnation: 3,
            heads: vec![head],
        };
        let line = anchor.line();
        assert_eq!(Anchor::of_line(&line).as_ref(), Some(&anchor));
        assert_eq!(Anchor::of_line(&format!("10:20 INFO heads {line} more")), Some(anchor));
        assert_eq!(Anchor::of_line("{}"), None);
        assert_eq!(Anchor::of_line(&line[..20]), None);
    }
}
