//! Publishing the heads of the log elsewhere, and proving by them that nothing was cut off.
//!
//! Guarantees an anchor within [`ANCHOR_SECONDS`] of a commit, for as long as the place takes
//! it; what was not taken is said, counted, and tried again with the heads of that time. Does
//! not keep what a file or a receiver loses.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use super::error::Error;
use crate::clock::{Clock, rfc3339};
use crate::config::AnchorPlace;
use crate::log::Log;
use crate::log::anchor::{Anchor, Head};

/// How often the heads are published, if they have moved.
const ANCHOR_SECONDS: u64 = 10;
/// How long a receiver may take.
const POST_MS_MAX: u64 = 5_000;
/// Heads that are looked up at once.
const HEADS_MAX: usize = 1_000;

/// What was published last, and whether the log still has it: a new incarnation if not.
pub async fn recall(log: &Log, place: &AnchorPlace) -> Result<(), Error> {
    let AnchorPlace::File(path) = place else { return Ok(()) };
    if !path.exists() {
        return Ok(());
    }
    let mut last = None;
    for line in lines(path)? {
        last = Anchor::of_line(&line?).or(last);
    }
    match last {
        Some(last) => Ok(log.recall(&last).await?),
        None => Ok(()),
    }
}

/// Publishes for ever.
pub async fn publish(log: Log, place: AnchorPlace, clock: Clock) {
    let client = reqwest::Client::builder().timeout(Duration::from_millis(POST_MS_MAX)).build();
    let mut published: Vec<Head> = Vec::new();
    loop {
        let anchored = async {
            let anchor = log.anchor(clock.now()).await?;
            if anchor.heads != published {
                put(&place, client.as_ref().ok(), &anchor).await?;
                published.clone_from(&anchor.heads);
                let at = anchor.anchored_at.timestamp() as f64;
                metrics::gauge!("vitals_anchor_timestamp_seconds").set(at);
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = anchored.await {
            metrics::counter!("vitals_anchor_errors_total").increment(1);
            tracing::error!(%error, "the heads of the log were not published; trying again");
        }
        tokio::time::sleep(Duration::from_secs(ANCHOR_SECONDS)).await;
    }
}

async fn put(
    place: &AnchorPlace,
    client: Option<&reqwest::Client>,
    anchor: &Anchor,
) -> Result<(), Error> {
    let line = anchor.line();
    match place {
        AnchorPlace::Log => tracing::info!("heads {line}"),
        AnchorPlace::File(path) => {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(format!("{line}\n").as_bytes())?;
            file.sync_data()?;
        }
        AnchorPlace::Url(url) => {
            let client = client.ok_or("no client for HTTP")?;
            let json = ("content-type", "application/json");
            let request = client.post(url.clone()).header(json.0, json.1).body(line);
            request.send().await?.error_for_status()?;
        }
    }
    Ok(())
}

/// Whether the log has all that a file of anchors says it had; tells what it has not.
pub async fn check(log: &Log, path: &Path) -> Result<bool, Error> {
    let mut checked = Checked::default();
    let mut heads: Vec<Head> = Vec::new();
    for line in lines(path)? {
        let line = line?;
        match Anchor::of_line(&line) {
            Some(anchor) if anchor.installation == log.installation() => {
                heads.extend(anchor.heads);
            }
            Some(_) => checked.foreign += 1,
            None => checked.unread += usize::from(!line.trim().is_empty()),
        }
        if heads.len() >= HEADS_MAX {
            checked.take(log, std::mem::take(&mut heads)).await?;
        }
    }
    checked.take(log, heads).await?;
    Ok(checked.told(path))
}

/// What was found of the anchors.
#[derive(Default)]
struct Checked {
    /// Of other installations.
    foreign: usize,
    /// Lines without one.
    unread: usize,
    heads: usize,
    /// The last position of each shard that is proved.
    proved: HashMap<i16, i64>,
    /// The first head of each shard that is not there, and the farthest.
    gone: HashMap<i16, (Head, i64)>,
}

impl Checked {
    async fn take(&mut self, log: &Log, heads: Vec<Head>) -> Result<(), Error> {
        let missing = log.missing(&heads).await?;
        self.heads += heads.len();
        for head in heads {
            if missing.contains(&head) {
                let position = head.position;
                let gone = self.gone.entry(head.shard).or_insert((head, position));
                gone.1 = gone.1.max(position);
            } else {
                let proved = self.proved.entry(head.shard).or_default();
                *proved = head.position.max(*proved);
            }
        }
        Ok(())
    }

    fn told(&self, path: &Path) -> bool {
        if self.foreign > 0 || self.unread > 0 {
            let (foreign, unread) = (self.foreign, self.unread);
            println!(
                "anchors: {foreign} of other installations and {unread} unreadable lines passed over"
            );
        }
        let mut gone: Vec<_> = self.gone.iter().collect();
        gone.sort_by_key(|(shard, _)| **shard);
        for (shard, (head, last)) in gone {
            println!(
                "anchors: shard {shard} had a commit up to position {} with hash {} (recorded {}), up to \
                 position {last} in all, and the log has not: its tail was cut off or changed",
                head.position,
                head.hash,
                rfc3339(head.recorded_at),
            );
        }
        if self.gone.is_empty() {
            let proved = self.proved.len();
            println!(
                "anchors: {} heads of {proved} shards in {}, all there",
                self.heads,
                path.display()
            );
        }
        // An empty file proves nothing.
        self.gone.is_empty() && self.heads > 0
    }
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>, Error> {
    let file = File::open(path)
        .map_err(|error| format!("the anchors in {} cannot be read: {error}", path.display()))?;
    Ok(BufReader::new(file).lines())
}
