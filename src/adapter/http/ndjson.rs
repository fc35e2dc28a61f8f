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

use std::mem::take;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::auth::Caller;
use super::body::Incoming;
use super::problem::Problem;
use super::readings::{Door, Rejections, answer};
use crate::event::Event;
use crate::intake::{Lines, Rejected, Stored};

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
pub async fn store(door: &Door, caller: &Caller, mut body: Incoming) -> Result<Response, Problem> {
    body.lift_time_limit();
    let mut stream = Stream::new(door, caller);
    match stream.run(&mut body).await {
        Ok(()) if stream.lines.judged() == 0 => {
            Err(Problem::unreadable("empty_batch", "there is no line: send at least one reading"))
        }
        Ok(()) => Ok(answer(stream.stored, stream.rejections)),
        Err(problem) => {
            body.discard().await;
            Err(stream.so_far(problem))
        }
    }
}

struct Stream<'a> {
    door: &'a Door,
    caller: &'a Caller,
    lines: Lines,
    /// Judged, and not handed in yet.
    chunk: Vec<Event>,
    /// The lines of the chunk, those that were rejected too.
    chunk_lines: usize,
    chunk_lines_max: usize,
    /// When the chunk is handed in, full or not.
    due: Instant,
    stored: Stored,
    rejections: Rejections,
}

impl<'a> Stream<'a> {
    fn new(door: &'a Door, caller: &'a Caller) -> Stream<'a> {
        Stream {
            door,
            caller,
            lines: Lines::default(),
            chunk: Vec::new(),
            chunk_lines: 0,
            chunk_lines_max: door.limits.readings_per_part().min(LINES_PER_CHUNK_MAX),
            due: Instant::now(),
            stored: Stored::default(),
            rejections: Rejections::default(),
        }
    }

    /// Reads and stores to the end of the body, or to where it has to be given up.
    async fn run(&mut self, body: &mut Incoming) -> Result<(), Problem> {
        let door = self.door;
        // One, or none.
        let mut storing = FuturesUnordered::new();
        let ended = loop {
            if storing.is_empty() && (self.is_full() || self.is_due()) {
                storing.push(self.hand_in());
            }
            tokio::select! {
                biased;
                Some(stored) = storing.next() => self.stored += stored?,
                () = door.stop.cancelled() => break Err(stopping()),
                () = sleep_until(self.due), if storing.is_empty() && self.chunk_lines > 0 => {}
                part = body.part(), if !self.is_full() => match part {
                    Ok([]) => {
                        self.end_of_body();
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
                            self.chunk.clear();
                            self.chunk_lines = 0;
                        }
                        break Err(problem);
                    }
                },
            }
        };
        while let Some(stored) = storing.next().await {
            self.stored += stored?;
        }
        if self.chunk_lines > 0 {
            let stored = self.hand_in().await?;
            self.stored += stored;
        }
        ended
    }

    fn is_full(&self) -> bool {
        self.chunk_lines >= self.chunk_lines_max
    }

    fn is_due(&self) -> bool {
        self.chunk_lines > 0 && self.due <= Instant::now()
    }

    /// Hands the chunk in and begins another one.
    fn hand_in(&mut self) -> impl Future<Output = Result<Stored, Problem>> + use<'a> {
        let (events, lines) = (take(&mut self.chunk), take(&mut self.chunk_lines));
        self.door.hand_in(self.caller, lines, events)
    }

    /// Judges the lines of a part until the chunk is full; how many bytes that took.
    fn judge(&mut self, part: &[u8]) -> usize {
        let (mut left, sender) = (part, self.door.sender(self.caller));
        while !self.is_full()
            && let Some(judged) = self.lines.next(&mut left, &sender)
        {
            self.keep(judged);
        }
        part.len() - left.len()
    }

    fn end_of_body(&mut self) {
        if let Some(judged) = self.lines.last(&self.door.sender(self.caller)) {
            self.keep(judged);
        }
    }

    fn keep(&mut self, judged: Result<Event, Rejected>) {
        if self.chunk_lines == 0 {
            self.due = Instant::now() + Duration::from_millis(CHUNK_MS_MAX);
        }
        self.chunk_lines += 1;
        match judged {
            Ok(event) => self.chunk.push(event),
            Err(mut rejected) => {
                if let Some((end, _)) = rejected.detail.char_indices().nth(DETAIL_CHARS_MAX) {
                    rejected.detail.truncate(end);
                }
                self.rejections.add(rejected, REJECTED_TOLD_MAX);
            }
        }
    }

    /// What an end before the end leaves to say.
    fn so_far(self, problem: Problem) -> Problem {
        let Stored { stored, duplicates } = self.stored;
        let problem = problem.with("stored", json!(stored)).with("duplicates", json!(duplicates));
        self.rejections.told_in(problem)
    }
}

fn stopping() -> Problem {
    let detail = "the server is stopping: send the stream again, nothing is stored twice";
    Problem::unavailable("stopping", detail)
}
