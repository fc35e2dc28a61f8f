//! `POST /readings` as NDJSON: readings without an end, in constant memory.
//!
//! Guarantees that lines are stored in their order, a chunk after the other, so that
//! whatever ends a stream leaves its beginning stored: every line up to some line and
//! none after it (a chunk that the log refuses may be stored in part); that a line
//! that did not end is not stored unless the body did end there; and that every
//! answer says what was stored so far. Sent again from the beginning nothing is stored
//! twice. While a chunk commits the next one is read, and no more than that: a log
//! that is slow slows its sender down.
//!
//! Does not wait for the end of an encoding whose checksum would cover it all.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::body::Incoming;
use super::problem::Problem;
use super::reply::Reply;
use super::stored::{Rejections, answer};
use crate::auth::Caller;
use crate::intake::{Batch, Intake, NdjsonLines, NotTaken, Outcome, Rejected, Waiting};
use crate::wire::Stored;

/// Lines handed in at once, unless the caller's limit makes it fewer.
const LINES_PER_CHUNK_MAX: usize = 2_000;
/// How long a reading waits for its chunk to fill up: who sends slowly pages as soon
/// as others.
const CHUNK_MS_MAX: u64 = 100;
/// Rejected lines that are told one by one.
const REJECTED_TOLD_MAX: usize = 1_000;
/// How much is said about each of them.
const DETAIL_CHARS_MAX: usize = 300;

/// Stores the lines of a body.
pub async fn store(
    intake: &Intake,
    stop: &CancellationToken,
    caller: &Caller,
    mut body: Incoming,
) -> Result<Reply<Stored>, Problem> {
    body.lift_time_limit();
    let mut stream = Stream::new(intake, stop, caller);
    match stream.run(&mut body).await {
        Ok(()) if stream.lines.added() == 0 => {
            Err(Problem::unreadable("empty_batch", "there is no line: send at least one reading"))
        }
        Ok(()) => answer(stream.stored, stream.duplicates, stream.rejections),
        Err(problem) => {
            body.discard().await;
            Err(stream.so_far(problem))
        }
    }
}

struct Stream<'a> {
    intake: &'a Intake,
    stop: &'a CancellationToken,
    caller: &'a Caller,
    lines: NdjsonLines,
    /// Judged, and not handed in yet.
    chunk: Batch<'a>,
    chunk_lines_max: usize,
    /// When the chunk is handed in, full or not.
    due: Instant,
    stored: usize,
    duplicates: usize,
    rejections: Rejections,
}

impl<'a> Stream<'a> {
    fn new(intake: &'a Intake, stop: &'a CancellationToken, caller: &'a Caller) -> Stream<'a> {
        Stream {
            intake,
            stop,
            caller,
            lines: NdjsonLines::default(),
            chunk: intake.batch(caller),
            chunk_lines_max: intake.items_per_part().min(LINES_PER_CHUNK_MAX),
            due: Instant::now(),
            stored: 0,
            duplicates: 0,
            rejections: Rejections::default(),
        }
    }

    /// Reads and stores to the end of the body, or to where it has to be given up.
    async fn run(&mut self, body: &mut Incoming) -> Result<(), Problem> {
        let stop = self.stop;
        // One, or none.
        let mut storing = FuturesUnordered::new();
        let ended = loop {
            if storing.is_empty() && (self.is_full() || self.is_due()) {
                storing.push(self.hand_in());
            }
            let waits = self.chunk.items() > 0;
            tokio::select! {
                biased;
                Some(outcome) = storing.next() => self.count(outcome)?,
                () = stop.cancelled() => break Err(stopping()),
                () = sleep_until(self.due), if storing.is_empty() && waits => {}
                part = body.part(), if !self.is_full() => match part {
                    Ok([]) => {
                        self.lines.last(&mut self.chunk);
                        break Ok(());
                    }
                    Ok(part) => {
                        let taken = self.judge(part);
                        body.consume(taken);
                        // A body that decodes to much must not hold up others.
                        tokio::task::consume_budget().await;
                    }
                    Err(problem) => {
                        if problem.status() != StatusCode::REQUEST_TIMEOUT {
                            // What cannot be read to the end is not trusted any further.
                            let dropped = self.begin_chunk();
                            self.reject(dropped.rejected().to_vec());
                        }
                        break Err(problem);
                    }
                },
            }
        };
        while let Some(outcome) = storing.next().await {
            self.count(outcome)?;
        }
        if self.chunk.items() > 0 {
            let outcome = self.hand_in().await;
            self.count(outcome)?;
        }
        ended
    }

    fn is_full(&self) -> bool {
        self.chunk.items() >= self.chunk_lines_max
    }

    fn is_due(&self) -> bool {
        self.chunk.items() > 0 && self.due <= Instant::now()
    }

    /// Begins another chunk; the one before.
    fn begin_chunk(&mut self) -> Batch<'a> {
        let next = self.intake.batch(self.caller).from(self.lines.added());
        std::mem::replace(&mut self.chunk, next)
    }

    /// Hands the chunk in and begins another one.
    fn hand_in(&mut self) -> impl Future<Output = Result<Outcome, NotTaken>> + use<'a> {
        let (chunk, intake, stop) = (self.begin_chunk(), self.intake, self.stop);
        intake.submit(chunk, Waiting::Until(stop))
    }

    /// Judges the lines of a part until the chunk is full; how many bytes that took.
    fn judge(&mut self, part: &[u8]) -> usize {
        let mut left = part;
        self.intake.renew(&mut self.chunk);
        while !self.is_full() {
            let is_first = self.chunk.items() == 0;
            if !self.lines.next(&mut left, &mut self.chunk) {
                break;
            }
            if is_first {
                self.due = Instant::now() + Duration::from_millis(CHUNK_MS_MAX);
            }
        }
        part.len() - left.len()
    }

    /// Counts what became of a chunk.
    fn count(&mut self, outcome: Result<Outcome, NotTaken>) -> Result<(), Problem> {
        match outcome {
            Ok(Outcome { stored, duplicates, rejected }) => {
                self.stored += stored;
                self.duplicates += duplicates.len();
                self.reject(rejected);
                Ok(())
            }
            Err(NotTaken { why, rejected }) => {
                self.reject(rejected);
                Err(why.into())
            }
        }
    }

    fn reject(&mut self, rejected: Vec<Rejected>) {
        for mut rejected in rejected {
            if let Some((end, _)) = rejected.detail.char_indices().nth(DETAIL_CHARS_MAX) {
                rejected.detail.truncate(end);
            }
            self.rejections.add(rejected, REJECTED_TOLD_MAX);
        }
    }

    /// What an end before the end leaves to say.
    fn so_far(self, problem: Problem) -> Problem {
        let problem = problem.with(|document| {
            document.stored = Some(self.stored);
            document.duplicates = Some(self.duplicates);
        });
        self.rejections.told_in(problem)
    }
}

fn stopping() -> Problem {
    let detail = "the server is stopping: send the stream again, nothing is stored twice";
    Problem::unavailable("stopping", detail)
}
