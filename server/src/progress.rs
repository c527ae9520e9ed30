//! [`Progress`]: how far a long piece of work is, as a bar on a terminal, as a log line every tenth elsewhere.
//!
//! Must not know: what is being done. Invariant: on a terminal log lines and bars do not overwrite each other, because
//! nothing is logged here then, and the bar is gone when the work is done.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Tenths that have been logged.
    tenths: AtomicU64,
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
            tenths: AtomicU64::new(0),
        }
    }

    /// Is at `done` of `total`.
    pub(crate) fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if let Some(percent) = self.next_tenth(done, total) {
            let of = match self.unit {
                Unit::Bytes => format!("{} MiB", total >> 20),
                Unit::Runs => total.to_string(),
            };
            tracing::info!(percent, %of, "{}", self.title);
        }
    }

    /// The percentage to log, if another tenth is full.
    fn next_tenth(&self, done: u64, total: u64) -> Option<u64> {
        let tenth = done.saturating_mul(10).checked_div(total)?.min(10);
        let before = self.tenths.fetch_max(tenth, Ordering::Relaxed);
        (tenth > before).then_some(tenth * 10)
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
    fn each_tenth_is_logged_once_and_none_without_a_total() {
        let progress = Progress::start("loading", Unit::Bytes, false);
        let logged: Vec<u64> = [0, 5, 10, 11, 19, 20, 55, 50, 99, 100, 100]
            .iter()
            .filter_map(|done| progress.next_tenth(*done, 100))
            .collect();
        assert_eq!(logged, [10, 20, 50, 90, 100]);
        assert_eq!(progress.next_tenth(5, 0), None);
    }
}
