//! [`Progress`]: how far a long piece of work is, as a bar on a terminal, as a log line now and then elsewhere.
//!
//! Must not know: what is being done. Invariant: on a terminal log lines and bars do not overwrite each other, because
//! nothing is logged here then, and the bar is gone when the work is done.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most so often there is a log line.
const PAUSE: Duration = Duration::from_secs(2);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Shown as MiB.
    Bytes,
    /// Shown as they are.
    Runs,
}

/// One piece of work. Updated from any thread.
#[derive(Debug)]
pub(crate) struct Progress {
    title: String,
    unit: Unit,
    bar: Option<ProgressBar>,
    logged: Mutex<Logged>,
}

/// What the log has heard.
#[derive(Debug)]
struct Logged {
    tenths: u64,
    at: Instant,
}

impl Logged {
    /// The percentage to log now: when another tenth is full and there was a pause, and at the end. Work that ends before
    /// the first pause is not worth a line.
    fn next(&mut self, done: u64, total: u64, now: Instant) -> Option<u64> {
        let tenths = done.saturating_mul(10).checked_div(total)?.min(10);
        let paused = now.saturating_duration_since(self.at) >= PAUSE;
        let last = tenths == 10 && self.tenths > 0;
        if tenths <= self.tenths || !(paused || last) {
            return None;
        }
        *self = Self { tenths, at: now };
        Some(tenths * 10)
    }
}

impl Progress {
    /// Starts to show `title`: as a bar where standard error is a terminal and the log is text.
    pub(crate) fn start(title: impl Into<String>, unit: Unit, may_draw: bool) -> Self {
        let title = title.into();
        let bar = (may_draw && std::io::stderr().is_terminal()).then(|| bar(&title, unit));
        Self {
            title,
            unit,
            bar,
            logged: Mutex::new(Logged {
                tenths: 0,
                at: Instant::now(),
            }),
        }
    }

    /// Is at `done` of `total`.
    pub(crate) fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(percent) = logged.next(done, total, Instant::now()) {
            let of = match self.unit {
                Unit::Bytes => format!("{} MiB", total >> 20),
                Unit::Runs => total.to_string(),
            };
            tracing::info!("{}: {percent} % of {of}", self.title);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(title: &str, unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Bytes => "{msg} [{bar:30}] {percent:>3} % of {total_bytes}, {elapsed}",
        Unit::Runs => "{msg} [{bar:30}] {pos} of {len}, {elapsed}",
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).expect("a constant template");
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(title.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_needs_another_tenth_and_a_pause_or_the_end() {
        let start = Instant::now();
        let lines = |steps: &[(u64, u64)]| -> Vec<u64> {
            let mut logged = Logged {
                tenths: 0,
                at: start,
            };
            let at = |seconds| start + Duration::from_secs(seconds);
            let next = |(seconds, done): &(u64, u64)| logged.next(*done, 100, at(*seconds));
            steps.iter().filter_map(next).collect()
        };
        assert_eq!(
            lines(&[(1, 30), (2, 35), (3, 50), (4, 59), (5, 61)]),
            [30, 50]
        );
        assert_eq!(lines(&[(2, 30), (2, 40), (2, 100), (3, 100)]), [30, 100]);
        assert!(lines(&[(0, 50), (1, 100)]).is_empty());
        assert!(lines(&[(9, 9)]).is_empty());
        let mut logged = Logged {
            tenths: 0,
            at: start,
        };
        assert_eq!(logged.next(5, 0, start + PAUSE), None);
    }
}
