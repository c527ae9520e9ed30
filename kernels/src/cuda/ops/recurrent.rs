//! Updates of states.

use crate::cuda::stream::{Grid, Stream, launch};
use crate::recurrent::StateSlots;
use crate::{Error, Fault, Rows, StateLayer};
use std::sync::Arc;

pub(crate) fn mix_states(
    stream: &Arc<Stream>,
    rows: &mut Rows,
    cu_seqlens: &[u32],
    slots: &[StateSlots],
    states: &StateLayer<'_>,
) {
    stream.attempt(|| {
        let elsewhere =
            || Error::Device(Fault::Other, "states that are not on a device".to_owned());
        let (blocks, start) = states.device().ok_or_else(elsewhere)?;
        let at = blocks.at(stream)? + 4 * start as u64;
        let read = slots.iter().map(|slots| slots.read.unwrap_or(u32::MAX));
        let write = slots.iter().map(|slots| slots.write);
        let requests: Vec<u32> = cu_seqlens
            .iter()
            .copied()
            .chain(read)
            .chain(write)
            .collect();
        let requests = stream.input("states of requests", &requests)?;
        let (grid, count) = (Grid::of(slots.len().div_ceil(32), 32), slots.len() as i32);
        let x = rows.change_on(stream)?;
        launch!(stream, "mix_states", grid; x, requests, count, at)
    });
}
