//! States of requests that are updated token by token, and one such update.
//!
//! [`mix_states`] is a model's recurrence without a model: a state is a digest of all that it took in, in whole numbers that f32
//! holds exactly. So whoever reads a stale state, or none, or another request's, gets other numbers from there on: with it an engine's
//! book-keeping of states is proven.

use crate::cache::StateLayer;
use crate::{Cx, Rows};

/// A request's state: read from one slot, written to another or the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSlots {
    /// The state before the request's first token of the step; none: all zero.
    pub read: Option<u32>,
    /// The state after its last token.
    pub write: u32,
}

/// Values of a state that [`mix_states`] updates: the digest, and the number of tokens.
pub const MIXED: usize = 2;

/// Takes what `rows` (`[tokens, 1]`, whole numbers from 0 to below 65,536) has of each token into its request's state, and puts the
/// state's digest there instead. Request `i` has the rows `cu_seqlens[i]..cu_seqlens[i + 1]`; a digest is below 65,536.
///
/// # Panics
/// If the shapes do not agree, there is no such slot, or the states are on a device and `cx` is not.
#[track_caller]
pub fn mix_states(
    cx: &Cx,
    rows: &mut Rows,
    cu_seqlens: &[u32],
    slots: &[StateSlots],
    states: &mut StateLayer<'_>,
) {
    assert_eq!(states.values(), MIXED, "mix_states: values");
    assert!(
        rows.width() == 1 && cu_seqlens.len() == slots.len() + 1,
        "mix_states: rows"
    );
    let last = cu_seqlens.last().map_or(0, |end| *end as usize);
    assert!(
        cu_seqlens.is_sorted() && last <= rows.rows(),
        "mix_states: requests"
    );
    let good = |s: &StateSlots| s.read.unwrap_or(0).max(s.write) < states.slots() as u32;
    assert!(
        slots.iter().all(good),
        "mix_states: a slot that there is not"
    );
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::mix_states(stream, rows, cu_seqlens, slots, states);
    }
    let _ = cx;
    for (ends, slots) in cu_seqlens.windows(2).zip(slots) {
        let mut state = [0.0; MIXED];
        if let Some(read) = slots.read {
            states.read(read as usize, &mut state);
        }
        for r in ends[0] as usize..ends[1] as usize {
            let value = &mut rows.row_mut(r)[0];
            let mixture = mix(mix(state[0] as u64, state[1] as u64), *value as u64);
            state = [(mixture % 65_536) as f32, state[1] + 1.0];
            *value = state[0];
        }
        states.write(slots.write as usize, &state);
    }
}

/// A hash of both: the finaliser of `SplitMix64` (Steele, Lea, Flood 2014). `cuda/recurrent.cu` has the same.
pub fn mix(state: u64, value: u64) -> u64 {
    let z = (state ^ (value + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(0x632b_e59b_d9b4_e019);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
