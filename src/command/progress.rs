//! How far a long command is: a bar on a terminal, plain lines elsewhere.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

/// Plain lines are this far apart.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// What is counted is not told a second before a second has passed: the first step of what
/// was there already would be a rate that is never reached.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// How much of it a second, as people read it.
fn rate(done: u64, elapsed: Duration) -> String {
    if elapsed < RATE_AFTER {
        return String::new();
    }
    format!(", {} a second", HumanCount((done as f64 / elapsed.as_secs_f64()).round() as u64))
}

/// A command's progress, on stderr.
pub struct TerminalProgress {
    bar: ProgressBar,
    what: &'static str,
    total: u64,
    plain: Option<Instant>,
    started: Instant,
}

impl TerminalProgress {
    /// `what` is counted, to `total`; 0 when that is not known.
    pub fn new(what: &'static str, total: u64) -> TerminalProgress {
        let (bar, plain) = if stderr().is_terminal() {
            (ProgressBar::new(total), None)
        } else {
            (ProgressBar::hidden(), Some(Instant::now()))
        };
        let template = match total {
            0 => format!("{{spinner}} {{human_pos}} {what}{{rate}}"),
            _ => format!("{{bar:40}} {{percent}} % {{human_pos}} {what}{{rate}}, {{eta}} left"),
        };
        let rated = |state: &ProgressState, to: &mut dyn fmt::Write| {
            // A bar that cannot be written needs no rate.
            let _unwritten = to.write_str(&rate(state.pos(), state.elapsed()));
        };
        // The template is ours: it parses, or the default is used.
        bar.set_style(
            ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .with_key("rate", rated),
        );
        TerminalProgress { bar, what, total, plain, started: Instant::now() }
    }

    /// Now at `done`.
    pub fn at(&mut self, done: u64) {
        self.bar.set_position(done);
        let Some(last) = self.plain else { return };
        if last.elapsed() < LINE_PAUSE {
            return;
        }
        self.plain = Some(Instant::now());
        let left = match self.total.checked_sub(done) {
            Some(left) if done > 0 && self.total > 0 => {
                let seconds = self.started.elapsed().as_secs_f64() * left as f64 / done as f64;
                format!(", {seconds:.0} s left")
            }
            _ => String::new(),
        };
        let rate = rate(done, self.started.elapsed());
        eprintln!("{} {}{rate}{left}", HumanCount(done), self.what);
    }

    /// Over.
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_whole_number_and_not_told_of_the_first_moment() {
        for (done, millis, told) in [
            (18_676_731, 1, ""),
            (0, 999, ""),
            (0, 1_000, ", 0 a second"),
            (1_234_567, 2_000, ", 617,284 a second"),
            (10, 3_000, ", 3 a second"),
        ] {
            assert_eq!(rate(done, Duration::from_millis(millis)), told, "{done} {millis}");
        }
    }
}
