//! [`Graphs`]: lists of commands that come again are captured once and then asked for as one.
//!
//! Must not know: what a step is. A list is known by its words, which hold every address and number that kernels are given: what
//! is replayed is what would have been asked for one by one. Only what lies behind the addresses differs.

use super::commands::Commands;
use super::driver::check;
use crate::Error;
use cudarc::driver::sys;
use std::collections::{HashMap, VecDeque};
use std::ptr;

/// Commands of a list that is worth a graph.
const LEAST: usize = 8;
/// Graphs that are kept at most: the longest unused one goes.
const MOST: usize = 64;
/// Lists that are remembered of those that came once.
const REMEMBERED: usize = 256;

/// How lists of commands were given to the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Submitted {
    /// Command by command.
    pub one_by_one: u64,
    /// Captured, and then asked for as a graph.
    pub captured: u64,
    /// As a graph that was there.
    pub replayed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Graphs {
    ready: HashMap<u64, Graph>,
    seen: VecDeque<u64>,
    submitted: Submitted,
    /// None are made: it was asked for, or capturing has failed.
    off: bool,
}

#[derive(Debug)]
struct Graph {
    words: Box<[u64]>,
    raw: sys::CUgraphExec,
    /// The number of the submission that used it last.
    used: u64,
}
// SAFETY: a handle of the driver, which may be used from any thread, by one at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `instantiate`; the driver keeps what it still runs.
        let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
    }
}

impl Graphs {
    /// From now on no graphs.
    pub(super) fn turn_off(&mut self) {
        self.off = true;
        self.ready.clear();
    }

    pub(super) fn submitted(&self) -> Submitted {
        self.submitted
    }

    /// Has the commands done on `stream`, each by `issue` or all as a graph.
    pub(super) fn run(
        &mut self,
        commands: &Commands,
        stream: sys::CUstream,
        issue: impl Fn() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let one_by_one = |graphs: &mut Self| {
            graphs.submitted.one_by_one += 1;
            issue()
        };
        if self.off || commands.len() < LEAST {
            return one_by_one(self);
        }
        let words = commands.words();
        let digest = digest(words);
        if let Some(graph) = self.ready.get_mut(&digest)
            && *graph.words == *words
        {
            self.submitted.replayed += 1;
            graph.used = self.submitted.replayed + self.submitted.captured;
            return launch(graph.raw, stream);
        }
        if !self.seen.contains(&digest) {
            if self.seen.len() == REMEMBERED {
                self.seen.pop_front();
            }
            self.seen.push_back(digest);
            return one_by_one(self);
        }
        let Ok(raw) = capture(stream, &issue) else {
            // Whatever it was, asking one by one tells more of it, or goes well.
            self.turn_off();
            return one_by_one(self);
        };
        self.submitted.captured += 1;
        let graph = Graph {
            words: words.into(),
            raw,
            used: self.submitted.replayed + self.submitted.captured,
        };
        self.make_room();
        self.ready.insert(digest, graph);
        launch(raw, stream)
    }

    fn make_room(&mut self) {
        if self.ready.len() < MOST {
            return;
        }
        let oldest = self.ready.iter().min_by_key(|(_, graph)| graph.used);
        if let Some(digest) = oldest.map(|(digest, _)| *digest) {
            self.ready.remove(&digest);
        }
    }
}

/// What `issue` asks of `stream`, as a graph; none of it is done.
fn capture(
    stream: sys::CUstream,
    issue: &impl Fn() -> Result<(), Error>,
) -> Result<sys::CUgraphExec, Error> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: a stream of this context that captures nothing.
    let begun = unsafe { sys::cuStreamBeginCapture_v2(stream, mode) };
    check(begun, "capturing a step")?;
    let issued = issue();
    let mut graph = ptr::null_mut();
    // SAFETY: the capture begun above ends here whatever was issued; the second argument is written.
    let ended = unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) };
    let mut raw = ptr::null_mut();
    let ready = issued
        .and_then(|()| check(ended, "capturing a step"))
        .and_then(|()| {
            // SAFETY: the first argument is written; the graph was made above.
            let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut raw, graph, 0) };
            check(made, "a graph of a step")
        });
    if !graph.is_null() {
        // SAFETY: made above; what was instantiated does not need it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
    }
    ready.map(|()| raw)
}

fn launch(graph: sys::CUgraphExec, stream: sys::CUstream) -> Result<(), Error> {
    // SAFETY: both are of this context; what the graph's kernels use is what this step would have given them.
    check(unsafe { sys::cuGraphLaunch(graph, stream) }, "a graph")
}

/// A number that differs for lists that differ, nearly always (the multiplications of `FxHash`, as in the Rust compiler).
fn digest(words: &[u64]) -> u64 {
    let mix =
        |sum: u64, word: &u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    words.iter().fold(words.len() as u64, mix)
}
