//! [`Steps`]: the newest step records, the numbers that go with them, and their dump when something goes wrong.
//!
//! Owns: a ring of fixed length; what statistics, metrics and dumps show. Must not know: requests, tokens.
//!
//! Invariant: the lock is held for copying a few numbers, never during a step; so whoever reads does not wait for a model.

use crate::{Stats, StepRecord};
use serde_json::json;
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Records kept.
const KEPT: usize = 1024;

/// Step records and statistics of one engine, shared between its thread and its clients.
#[derive(Debug)]
pub(crate) struct Steps {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    ring: VecDeque<StepRecord>,
    /// The step that has begun and not ended.
    current: Option<StepRecord>,
    stats: Stats,
}

impl Steps {
    /// No steps yet.
    pub(crate) fn new(stats: Stats) -> Self {
        Self {
            inner: Mutex::new(Inner {
                ring: VecDeque::with_capacity(KEPT),
                current: None,
                stats,
            }),
        }
    }

    /// A step begins; `record` has what its plan tells.
    pub(crate) fn begin(&self, record: StepRecord) {
        self.lock().current = Some(record);
    }

    /// It has ended.
    pub(crate) fn end(&self, record: StepRecord, stats: Stats) {
        let mut inner = self.lock();
        inner.current = None;
        inner.stats = stats;
        if inner.ring.len() == KEPT {
            inner.ring.pop_front();
        }
        inner.ring.push_back(record);
    }

    /// The numbers have changed between steps.
    pub(crate) fn set_stats(&self, stats: Stats) {
        self.lock().stats = stats;
    }

    /// The numbers.
    pub(crate) fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// The newest `last` records, oldest first.
    pub(crate) fn last(&self, last: usize) -> Vec<StepRecord> {
        let inner = self.lock();
        let skip = inner.ring.len().saturating_sub(last);
        inner.ring.iter().skip(skip).copied().collect()
    }

    /// Writes all records into a new file of `dir`, one JSON object per line, the unfinished step last. Gives its path.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn dump(&self, dir: &Path, model: &str, why: &str) -> std::io::Result<PathBuf> {
        let (records, current) = {
            let inner = self.lock();
            (
                inner.ring.iter().copied().collect::<Vec<_>>(),
                inner.current,
            )
        };
        let newest = current.or(records.last().copied()).map_or(0, |r| r.step);
        let name: String = model
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let path = dir.join(format!("koma-{name}-{why}-step-{newest}.jsonl"));
        std::fs::create_dir_all(dir)?;
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        for record in &records {
            writeln!(file, "{}", to_json(record, false))?;
        }
        if let Some(record) = &current {
            writeln!(file, "{}", to_json(record, true))?;
        }
        file.flush()?;
        Ok(path)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_json(record: &StepRecord, unfinished: bool) -> serde_json::Value {
    let micros = |d: Duration| d.as_micros() as u64;
    json!({
        "step": record.step,
        "at_us": micros(record.at),
        "requests": record.requests,
        "tokens": record.tokens,
        "rows": record.rows,
        "waiting": record.waiting,
        "blocks_used": record.blocks_used,
        "preempted": record.preempted,
        "finished": record.finished,
        "schedule_us": micros(record.schedule),
        "forward_us": micros(record.forward),
        "update_us": micros(record.update),
        "failed": record.failed,
        "unfinished": unfinished,
    })
}
