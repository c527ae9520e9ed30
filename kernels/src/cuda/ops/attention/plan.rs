//! How a step's attention is cut into what blocks do: tasks, and merges of the splits of long contexts.

use crate::HeadLayout;
use crate::cuda::stream::Plain;
use std::ops::Range;

/// Tokens of a split, as in `cuda/attention.cu`.
const SPLIT: usize = 256;
/// Queries that a block works on at most.
pub(super) const QUERIES: usize = 16;
/// Rows of a request up to which splits have blocks of their own.
pub(super) const FEW_ROWS: usize = 4;

/// `Task` in `cuda/attention.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Task {
    pub(super) row: u32,
    pub(super) out: u32,
    pub(super) rows: u32,
    pub(super) position: u32,
    pub(super) len: u32,
    pub(super) table: u32,
    pub(super) split: u32,
    pub(super) splits: u32,
    pub(super) state: u32,
}
// SAFETY: nine numbers of 4 bytes.
unsafe impl Plain for Task {}

impl Task {
    /// All splits.
    const WHOLE: u32 = u32::MAX;
    /// Of no row.
    const NONE: Self = Self {
        row: 0,
        out: 0,
        rows: 0,
        position: 0,
        len: 0,
        table: 0,
        split: Self::WHOLE,
        splits: 0,
        state: 0,
    };
}

/// The queries of a request, and its context.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) rows: Range<usize>,
    /// Output row of the first query, and its place in the context.
    pub(super) out: usize,
    pub(super) position: usize,
    /// Tokens of the context.
    pub(super) len: usize,
    pub(super) table: usize,
    /// Whether it goes through tiles.
    pub(super) tiled: bool,
}

/// `count` and some more, so that contexts can grow for a while until a step is one of another size.
pub(super) fn room(count: usize) -> usize {
    if count <= 1024 {
        count.next_power_of_two()
    } else {
        count.next_multiple_of(256)
    }
}

/// Work of a step: what blocks do, and what is merged after.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) tasks: Vec<Task>,
    pub(super) merges: Vec<Task>,
    /// What goes through tiles.
    pub(super) tiles: Vec<Task>,
    /// Queries of the largest task that does not.
    pub(super) queries: usize,
    /// Number of states.
    pub(super) states: usize,
}

impl Plan {
    /// `heads`: query heads that a block does. `tile_rows`: rows of a block that works in tiles.
    pub(super) fn new(
        requests: impl Iterator<Item = Request>,
        layout: &HeadLayout,
        heads: usize,
        tile_rows: usize,
    ) -> Self {
        let mut plan = Self::default();
        for request in requests {
            let splits = request.len.div_ceil(SPLIT);
            let apart = splits > 1 && request.rows.len() <= FEW_ROWS;
            let most_rows = if request.tiled {
                tile_rows
            } else {
                (QUERIES / heads).max(1)
            };
            for first in request.rows.clone().step_by(most_rows) {
                let rows = most_rows.min(request.rows.end - first);
                let state = plan.states.div_ceil(splits.max(1));
                let done = first - request.rows.start;
                let task = Task {
                    row: first as u32,
                    out: (request.out + done) as u32,
                    rows: rows as u32,
                    position: (request.position + done) as u32,
                    len: request.len as u32,
                    table: request.table as u32,
                    split: Task::WHOLE,
                    splits: splits as u32,
                    state: state as u32,
                };
                if request.tiled {
                    plan.tiles.push(task);
                    continue;
                }
                plan.queries = plan.queries.max(rows * heads);
                if apart {
                    let split = |split: usize| Task {
                        split: split as u32,
                        ..task
                    };
                    plan.tasks.extend((0..splits).map(split));
                    plan.merges.push(task);
                    plan.states = (state + rows * layout.q_heads) * splits;
                } else {
                    plan.tasks.push(task);
                }
            }
        }
        // Tasks without rows do nothing.
        for tasks in [&mut plan.tasks, &mut plan.merges, &mut plan.tiles] {
            if !tasks.is_empty() {
                tasks.resize(room(tasks.len()), Task::NONE);
            }
        }
        plan
    }
}
