//! Layers of experts: which experts a step's tokens go to stays on the device, and the products of all experts are one launch.
//!
//! Invariant: nothing here waits for the device, but who asks what was picked.

use super::each;
use super::linear::{Several, TILE_ROWS, Task, finished, own};
use super::rows::gather_those;
use crate::cuda::pool::Buffer;
use crate::cuda::stream::{Grid, Stream, launch};
use crate::cuda::way::{FEW_ROWS, Way};
use crate::cuda::weight::OnDevice;
use crate::experts::Picks;
use crate::{Epilogue, Error, Fault, PackedWeight, Rows, Then};
use std::sync::{Arc, OnceLock};

/// Rows of a part of one expert: what a block of the kernel of few rows takes, and one of tiles.
const PARTS: [usize; 2] = [FEW_ROWS, TILE_ROWS];

/// Where the tokens of a step go: `crate::Routing` on a device.
#[derive(Debug)]
pub(crate) struct DeviceRouting {
    stream: Arc<Stream>,
    /// See `cuda/experts.cu`.
    chosen: Buffer,
    weights: Buffer,
    places: Buffer,
    tokens: Buffer,
    /// The parts of [`PARTS`] rows, each with how many there may be.
    parts: [(Buffer, usize); 2],
    shape: Shape,
    /// What the host has read of it.
    read: OnceLock<Picks>,
}

/// Sizes of a step's routing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tokens: usize,
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
}

impl DeviceRouting {
    /// What the host reads of it; zeros if they are lost with the step. It waits for the device.
    pub(crate) fn picks(&self) -> &Picks {
        self.read.get_or_init(|| {
            let rows = self.shape.tokens * self.shape.top_k;
            let (mut chosen, mut weights) = (vec![0_u32; rows], vec![0.0_f32; rows]);
            self.stream.attempt(|| {
                self.stream.download(self.chosen.at(), &mut chosen)?;
                self.stream.download(self.weights.at(), &mut weights)
            });
            Picks::new(chosen, weights, (self.shape.experts, self.shape.top_k))
        })
    }

    fn of<'a>(routing: Option<&'a Self>, stream: &Arc<Stream>) -> Result<&'a Self, Error> {
        routing
            .filter(|routing| Arc::ptr_eq(&routing.stream, stream))
            .ok_or_else(|| {
                let message = "experts picked by another context".to_owned();
                Error::Device(Fault::Other, message)
            })
    }
}

/// Picks and sorts.
pub(crate) fn route(
    stream: &Arc<Stream>,
    logits: &mut Rows,
    top_k: usize,
    renormalise: bool,
) -> Option<DeviceRouting> {
    let shape = Shape {
        tokens: logits.rows(),
        experts: logits.width(),
        top_k,
    };
    stream.attempt(|| {
        let Shape { tokens, experts, .. } = shape;
        let rows = tokens * top_k;
        let [chosen, weights, places, sorted] = [(); 4].map(|()| stream.take(4 * rows));
        let (chosen, weights, places, sorted) = (chosen?, weights?, places?, sorted?);
        let starts = stream.take(4 * (experts + 1))?;
        let (of_experts, of_top_k) = (experts as i32, top_k as i32);
        let logits = logits.change_on(stream)?;
        let grid = Grid::of(tokens, 32);
        let renormalise = i32::from(renormalise);
        launch!(stream, "route", grid; logits, of_experts, of_top_k, renormalise, chosen.at(), weights.at())?;
        let grid = Grid::of(if rows == 0 { 0 } else { experts }, 32);
        launch!(stream, "sort_by_expert", grid; chosen.at(), rows as i32, of_top_k, places.at(), sorted.at(), starts.at())?;
        let cut = |tile: usize| {
            // Each expert that has rows has one part that is not full at most.
            let count = rows / tile + experts.min(rows);
            let parts = stream.take(12 * count)?;
            let (grid, tile) = (Grid::of(count.div_ceil(128), 128), tile as i32);
            launch!(stream, "cut_by_expert", grid; starts.at(), of_experts, tile, count as i32, parts.at())?;
            Ok::<_, Error>((parts, count))
        };
        Ok(DeviceRouting {
            stream: Arc::clone(stream),
            parts: [cut(PARTS[0])?, cut(PARTS[1])?],
            chosen,
            weights,
            places,
            tokens: sorted,
            shape,
            read: OnceLock::new(),
        })
    })
}

pub(crate) fn spread(
    stream: &Arc<Stream>,
    from: &Rows,
    routing: Option<&DeviceRouting>,
    out: &mut Rows,
) {
    stream.attempt(|| {
        let routing = DeviceRouting::of(routing, stream)?;
        gather_those(stream, from, (out.rows(), routing.tokens.at()), out)
    });
}

/// Experts of a layer that lie in one way, and so are multiplied by one launch.
struct Alike {
    /// The number of the first.
    first: usize,
    way: Way,
    /// `One` in `cuda/weights.cuh` for each expert of the layer.
    all: Vec<u64>,
}

impl Alike {
    /// Sorts the experts by how they lie, for products of `rows` rows.
    fn sort(stream: &Stream, experts: &[&OnDevice], rows: usize) -> Vec<Self> {
        let mut left: Vec<_> = (0..experts.len()).collect();
        let mut sets = Vec::new();
        while let Some(&first) = left.first() {
            let alike = |i: &usize| experts[*i].lies_like(experts[first]);
            let (same, others): (Vec<_>, _) = left.into_iter().partition(alike);
            left = others;
            let mut all = vec![0; 2 * experts.len()];
            for &i in &same {
                all[2 * i..][..2].copy_from_slice(&[experts[i].values(), experts[i].order()]);
            }
            let ordered = same.iter().any(|i| experts[*i].order() != 0);
            let way = Way::of_experts(stream, &experts[first].form, (rows, experts.len()), ordered);
            sets.push(Self { first, way, all });
        }
        sets
    }
}

/// The products of all experts, in one launch for each way in which they lie.
pub(crate) fn by_expert(
    stream: &Arc<Stream>,
    x: &Rows,
    (routing, weights): (Option<&DeviceRouting>, &[PackedWeight]),
    then: Then,
    out: &mut Rows,
) {
    stream.attempt(|| {
        let routing = DeviceRouting::of(routing, stream)?;
        let experts = weights.iter().map(|weight| weight.on(stream));
        let experts: Vec<_> = experts.collect::<Result<_, _>>()?;
        let task = Task {
            x: x.on(stream)?,
            rows: x.rows(),
            cols: x.width(),
            outputs: weights[0].rows(),
            out: if then == Then::Add {
                out.change_on(stream)?
            } else {
                out.write_on(stream)?
            },
            add: then == Then::Add,
        };
        let sets = Alike::sort(stream, &experts, task.rows);
        let adds = sets.iter().all(|set| set.way == Way::Tiled);
        finished(stream, Epilogue::then(then), (task, adds), |task| {
            for set in &sets {
                let first = experts[set.first];
                let (parts, count) = &routing.parts[usize::from(set.way == Way::Tiled)];
                let mut spare = None;
                let several = Several {
                    all: first.beside(stream, &set.all, &mut spare)?,
                    parts: parts.at(),
                    count: *count,
                };
                own(stream, (first, set.way), Some(several), task)?;
            }
            Ok(())
        })
    });
}

pub(crate) fn combine(
    stream: &Arc<Stream>,
    x: &Rows,
    routing: Option<&DeviceRouting>,
    add: bool,
    out: &mut Rows,
) {
    stream.attempt(|| {
        let routing = DeviceRouting::of(routing, stream)?;
        let (width, count) = (out.width(), out.rows() * out.width());
        let x = x.on(stream)?;
        let out = if add {
            out.change_on(stream)?
        } else {
            out.write_on(stream)?
        };
        let (places, weights) = (routing.places.at(), routing.weights.at());
        let (top_k, add) = (routing.shape.top_k as i32, i32::from(add));
        launch!(stream, "combine", each(count); x, places, weights, top_k, width, count, add, out)
    });
}
