//! Parts of an encoder's batch, each computed by one thread from the embedding to the head.
//!
//! A thread that waits for nobody keeps its activations in its own cache, from layer to layer. Threads whose parts are not about
//! equally long would wait at the end instead: such a batch is computed by all threads together, operation by operation.

use crate::{Batch, Workspace};
use koma_kernels::{Cx, Rows};
use std::ops::Range;

/// Tokens of a part, about: fewer read the weights more often, more leave the second-level cache.
const TOKENS: usize = 96;
/// Fewer tokens than this for each thread are not worth reading the weights once for each.
const LEAST: usize = 48;

/// Memory for it.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    /// The requests of each part.
    parts: Vec<Range<usize>>,
    /// Each part's result.
    outputs: Vec<Rows>,
    /// For each thread, the part that it computes.
    states: Vec<(Batch, Workspace)>,
    /// Tokens that each thread would have.
    loads: Vec<usize>,
}

impl Apart {
    /// Bytes of memory that its buffers keep.
    pub(crate) fn bytes(&self) -> usize {
        let outputs = self.outputs.iter().map(Rows::bytes);
        let states = self.states.iter().map(|(_, work)| work.bytes());
        outputs.chain(states).sum()
    }

    /// Cuts the requests into parts for `threads`; says whether they are to be computed apart.
    fn cut(&mut self, cu_seqlens: &[u32], threads: usize) -> bool {
        let requests = cu_seqlens.len().saturating_sub(1);
        let tokens = cu_seqlens.last().map_or(0, |end| *end as usize);
        self.parts.clear();
        if requests < threads || tokens < LEAST * threads {
            return false;
        }
        let count = tokens.div_ceil(TOKENS).next_multiple_of(threads);
        let mut start = 0;
        for part in 1..=count {
            // As many requests as bring the end nearest to this part's share of all tokens.
            let share = (tokens * part / count) as u32;
            let over = cu_seqlens.partition_point(|end| *end < share);
            let under = over.saturating_sub(1);
            let nearer = cu_seqlens[over] - share <= share - cu_seqlens[under];
            let end = if nearer { over } else { under };
            if end > start {
                self.parts.push(start..end);
                start = end;
            }
        }
        self.loads.clear();
        self.loads.resize(threads, 0);
        for part in &self.parts {
            // Who is free takes the next one.
            if let Some(least) = self.loads.iter_mut().min() {
                *least += (cu_seqlens[part.end] - cu_seqlens[part.start]) as usize;
            }
        }
        let longest = self.loads.iter().max().unwrap_or(&0);
        longest * threads * 5 <= tokens * 6
    }
}

/// Runs `each` on parts of `batch` or on all of it, so that `work.output` has all rows in the end. `each` computes a batch, its result
/// in `output`: a row for each request or for each token.
pub(crate) fn forward(
    cx: &Cx,
    batch: &Batch,
    work: &mut Workspace,
    each: &(dyn Fn(&Cx, &Batch, &mut Workspace) + Sync),
) {
    // What is traced or recorded is the batch's; a device has no threads of ours. And others who want the team get it between two operations, not after a part of
    // milliseconds.
    let whole =
        work.trace.is_some() || cx.is_traced() || cx.is_on_device() || cx.team().is_shared();
    if whole || !work.apart.cut(&batch.cu_seqlens, cx.threads()) {
        return each(cx, batch, work);
    }
    let Apart {
        parts,
        outputs,
        states,
        ..
    } = &mut work.apart;
    states.resize_with(cx.threads(), Default::default);
    outputs.resize_with(parts.len(), Default::default);
    cx.apart(states, outputs, &|part, cx, (some, work), output| {
        some.copy_requests(batch, parts[part].clone());
        each(cx, some, work);
        std::mem::swap(output, &mut work.output);
    });
    let rows = outputs.iter().map(Rows::rows).sum();
    work.output.reset(rows, outputs[0].width());
    let mut rest = work.output.as_mut_slice();
    for part in outputs {
        let (to, behind) = rest.split_at_mut(part.as_slice().len());
        to.copy_from_slice(part.as_slice());
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lens: &[u32], threads: usize) -> Option<Vec<Range<usize>>> {
        let ends = lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        let cu_seqlens: Vec<u32> = [0].into_iter().chain(ends).collect();
        let mut apart = Apart::default();
        apart.cut(&cu_seqlens, threads).then_some(apart.parts)
    }

    #[test]
    fn parts_are_about_equal_and_of_whole_requests() {
        let all: Vec<_> = (0..32).map(|i| i..i + 1).collect();
        assert_eq!(cut(&[96; 32], 2), Some(all), "a part each");
        assert_eq!(cut(&[100; 2], 2), Some(vec![0..1, 1..2]));
        assert_eq!(cut(&[30; 8], 2), Some(vec![0..2, 2..4, 4..6, 6..8]));
        // Together in one batch, in any number of parts, each request is in one.
        for threads in [1, 2, 3, 8] {
            let lens: Vec<u32> = (0..50).map(|i| 20 + i * 37 % 150).collect();
            let parts = cut(&lens, threads).expect("equal enough");
            assert_eq!(parts[0].start, 0);
            assert_eq!(parts[parts.len() - 1].end, lens.len());
            assert!(parts.windows(2).all(|two| two[0].end == two[1].start));
        }
    }

    #[test]
    fn what_would_leave_a_thread_waiting_is_not_cut() {
        assert_eq!(cut(&[], 2), None);
        assert_eq!(cut(&[500], 2), None, "one request");
        assert_eq!(cut(&[20, 20], 2), None, "too little");
        assert_eq!(cut(&[300, 30], 2), None, "one is much longer");
        assert_eq!(cut(&[100, 100, 100], 2), None, "three for two");
        assert_eq!(cut(&[128; 4], 8), None, "more threads than requests");
    }
}
