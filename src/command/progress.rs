//! How far a long command is: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// Plain lines are this far apart.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// A command's progress, on stderr.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    total: u64,
    plain: Option<Instant>,
    started: Instant,
}

impl Progress {
    /// `what` is counted, to `total`; 0 when that is not known.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let (bar, plain) = if stderr().is_terminal() {
            (ProgressBar::new(total), None)
        } else {
            (ProgressBar::hidden(), Some(Instant::now()))
        };
        let template =
            format!("{{bar:40}} {{percent}} % {{human_pos}} {what}, {{per_sec}}, {{eta}} left");
        // The template is ours: it parses, or the default is used.
        bar.set_style(
            ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Progress { bar, what, total, plain, started: Instant::now() }
    }

    /// Now at `done`.
    pub fn at(&mut self, done: u64) {
        self.bar.set_position(done);
        let Some(last) = self.plain else { return };
        if last.elapsed() < LINE_PAUSE {
            return;
        }
        self.plain = Some(Instant::now());
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let left = match self.total.checked_sub(done) {
            Some(left) if rate > 0.0 && self.total > 0 => {
                format!(", {:.0} s left", left as f64 / rate)
            }
            _ => String::new(),
        };
        let (done, rate) = (HumanCount(done), HumanCount(rate as u64));
        eprintln!("{done} {}, {rate} a second{left}", self.what);
    }

    /// Over.
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}
