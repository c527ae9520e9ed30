//! Products, each the way that its shape asks for, and what follows them.

use super::each;
use crate::cuda::blas::{Kind, Product};
use crate::cuda::pool::Buffer;
use crate::cuda::stream::{Grid, Stream, launch};
use crate::cuda::sums::{Residual, Sums};
use crate::cuda::way::{FEW_ROWS, Way, tiled_rows};
use crate::cuda::weight::{Form, OnDevice, Packed, halves};
use crate::{Epilogue, Error, Fault, PackedWeight, Rows, Then};
use std::sync::Arc;

/// Rows and outputs of a block that multiplies in tiles, and its threads: as in `cuda/gemm.cuh`.
pub(super) const TILE_ROWS: usize = 64;
pub(super) const TILE_OUTPUTS: usize = 64;
pub(super) const TILE_THREADS: u32 = 128;
/// Values that are unpacked at a time.
const UNPACKED: usize = if cfg!(test) { 1 << 12 } else { 1 << 25 };

/// The number by which kernels know what follows a product: `Then` in `cuda/elementwise.cuh`.
pub(super) fn number(then: Then) -> i32 {
    match then {
        Then::Store => 0,
        Then::Add => 1,
        Then::GeluErf => 2,
        Then::GeluTanh => 3,
        Then::Relu => 4,
        Then::Tanh => 5,
        Then::SiluMul => 6,
        Then::GeluErfMul => 7,
        Then::GeluTanhMul => 8,
    }
}

/// Rows of activations on the device, and where their products go: `[rows, outputs]`, added to what is there if `add`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) x: u64,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) outputs: usize,
    pub(super) out: u64,
    pub(super) add: bool,
}

/// Several weights of one shape, and the parts of the rows that go through them, as kernels find them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Several {
    /// `One` in `cuda/weights.cuh` for each.
    pub(super) all: u64,
    pub(super) parts: u64,
    pub(super) count: usize,
}

pub(crate) fn grouped(
    stream: &Arc<Stream>,
    x: &Rows,
    (starts, weights): (&[usize], &[PackedWeight]),
    epilogue: Epilogue<'_>,
    out: &mut Rows,
) {
    let table = weights.iter().any(PackedWeight::is_table);
    assert!(!table, "a table is not multiplied");
    stream.attempt(|| {
        let (cols, width) = (x.width(), out.width());
        let add = epilogue.then == Then::Add;
        let x = x.on(stream)?;
        let to = if add {
            out.change_on(stream)?
        } else {
            out.write_on(stream)?
        };
        for (ends, weight) in starts.windows(2).zip(weights) {
            let (start, rows) = (ends[0], ends[1] - ends[0]);
            if rows > 0 {
                let task = Task {
                    x: x + 4 * (start * cols) as u64,
                    rows,
                    cols,
                    outputs: weight.rows(),
                    out: to + 4 * (start * width) as u64,
                    add,
                };
                product(stream, weight.on(stream)?, epilogue, task)?;
            }
        }
        Ok(())
    });
}

/// A product and what follows it.
fn product(
    stream: &Arc<Stream>,
    weight: &OnDevice,
    epilogue: Epilogue<'_>,
    task: Task,
) -> Result<(), Error> {
    if let Form::E4m3(codes) = &weight.form {
        return super::fp8::product(stream, (weight, codes), epilogue, task);
    }
    let way = Way::of(stream, &weight.form, task.rows)?;
    let adds = match way {
        Way::Few => false,
        Way::Tiled => true,
        // Unpacked weights are multiplied in parts.
        Way::Library => matches!(weight.form, Form::Rows(_)),
    };
    finished(stream, epilogue, (task, adds), |task| {
        multiply(stream, (weight, way), task)
    })
}

/// What `multiply` computes, which can add if `adds`, and what follows it.
pub(super) fn finished(
    stream: &Arc<Stream>,
    epilogue: Epilogue<'_>,
    (task, adds): (Task, bool),
    multiply: impl FnOnce(Task) -> Result<(), Error>,
) -> Result<(), Error> {
    let last = match epilogue.then {
        Then::Store => epilogue.bias.is_some(),
        Then::Add => !adds || epilogue.bias.is_some(),
        _ => true,
    };
    if !last {
        return multiply(task);
    }
    // The product takes the output's own memory where it fits.
    let apart = epilogue.then == Then::Add || epilogue.then.is_gated();
    let bytes = 4 * task.rows * task.outputs;
    let memory = apart.then(|| stream.take(bytes)).transpose()?;
    let product = memory.as_ref().map_or(task.out, Buffer::at);
    multiply(Task {
        out: product,
        add: false,
        ..task
    })?;
    let sums = Sums {
        values: product,
        step: task.outputs as i64,
        ..Sums::default()
    };
    finish(stream, epilogue, (sums, memory.into_iter().collect()), task)
}

/// What follows a product of some rows whose sums are in `memory`, if not where they go.
pub(super) fn finish(
    stream: &Arc<Stream>,
    epilogue: Epilogue<'_>,
    (mut sums, memory): (Sums, Vec<Buffer>),
    task: Task,
) -> Result<(), Error> {
    if let Some(bias) = epilogue.bias {
        sums.bias = stream.constant(bias)?;
    }
    let (then, n) = (number(epilogue.then), task.outputs as i32);
    let width = if epilogue.then.is_gated() {
        task.outputs / 2
    } else {
        task.outputs
    };
    let grid = each(task.rows * width);
    launch!(stream, "finish", grid; sums, then, n, task.rows, task.out)?;
    if epilogue.then == Then::Add {
        stream.last_adds(Residual {
            sums,
            to: task.out,
            rows: task.rows,
            width,
            _memory: memory,
        });
    }
    Ok(())
}

/// The product alone.
fn multiply(
    stream: &Arc<Stream>,
    (weight, way): (&OnDevice, Way),
    task: Task,
) -> Result<(), Error> {
    match (way, &weight.form) {
        (Way::Library, Form::Packed(..)) => unpacked(stream, weight, task),
        (Way::Library, Form::Rows(kind)) => {
            let (x, _memory) = activations(stream, weight, *kind, task)?;
            let whole = Product {
                kind: *kind,
                rows: task.rows,
                outputs: task.outputs,
                cols: task.cols,
                width: task.outputs,
                add: task.add,
                x,
                weight: weight.values(),
                out: task.out,
            };
            stream.multiply(&whole)
        }
        _ => own(stream, (weight, way), None, task),
    }
}

/// The rows in `kind` numbers and in the order of the weight's columns; as they are, if that is what they are.
fn activations(
    stream: &Arc<Stream>,
    weight: &OnDevice,
    kind: Kind,
    task: Task,
) -> Result<(u64, Option<Buffer>), Error> {
    let order = weight.order();
    if kind == Kind::F32 && order == 0 {
        return Ok((task.x, None));
    }
    let count = task.rows * task.cols;
    let memory = stream.take(count * kind.bytes())?;
    let name = match kind {
        Kind::F32 => "take_f32",
        Kind::F16 => "take_f16",
        // Codes have a kernel of their own.
        Kind::Bf16 | Kind::E4m3 => "take_bf16",
    };
    launch!(stream, name, each(count); task.x, order, task.cols as i32, count, memory.at())?;
    Ok((memory.at(), Some(memory)))
}

/// By a kernel of this crate: the product with `weight`, or with `several` that lie as it does.
pub(super) fn own(
    stream: &Arc<Stream>,
    (weight, way): (&OnDevice, Way),
    several: Option<Several>,
    task: Task,
) -> Result<(), Error> {
    let (values, parts) = several.map_or((weight.values(), 0), |s| (s.all, s.parts));
    let (rows, add) = (task.rows as i32, i32::from(task.add));
    let height = |tile: usize| several.map_or(task.rows.div_ceil(tile), |s| s.count);
    if let (Way::Few, Form::Packed(packed, kernels)) = (way, &weight.form) {
        let (x, _memory) = activations(stream, weight, Kind::F32, task)?;
        let grid = Grid::with([task.outputs.div_ceil(32), height(FEW_ROWS), 1], 256);
        let name = &kernels.gemv[usize::from(task.rows > 1)];
        return launch!(stream, name, grid; values, *packed, parts, x, rows, task.out);
    }
    let plain;
    let (name, packed) = match &weight.form {
        Form::Rows(kind) => {
            plain = Packed::plain(task.outputs, task.cols);
            (tiled_rows(*kind, task.cols), &plain)
        }
        Form::Packed(packed, kernels) => (kernels.gemm.as_str(), packed),
        Form::E4m3(_) => return Err(not_here("multiplied in tiles")),
    };
    let tiles = [task.outputs.div_ceil(TILE_OUTPUTS), height(TILE_ROWS), 1];
    let grid = Grid::with(tiles, TILE_THREADS);
    let order = weight.order();
    launch!(stream, name, grid; values, *packed, parts, task.x, order, rows, add, task.out)
}

/// What is not done with rows of e4m3.
fn not_here(done: &str) -> Error {
    Error::Device(
        Fault::Other,
        format!("weights of FP8 with activations of FP8 are not {done}"),
    )
}

/// A product of bf16 whose fragments are not what the tensor cores take, for the tests' control.
#[cfg(all(test, feature = "cuda-emu"))]
pub(crate) fn linear_swapped(
    stream: &Arc<Stream>,
    x: &Rows,
    weight: &PackedWeight,
    out: &mut Rows,
) {
    out.reset(x.rows(), weight.rows());
    stream.attempt(|| {
        let (rows, outputs) = (x.rows() as i32, weight.rows().div_ceil(TILE_OUTPUTS));
        let (values, packed) = (weight.on(stream)?.values(), Packed::plain(weight.rows(), x.width()));
        let (x, out) = (x.on(stream)?, out.write_on(stream)?);
        let grid = Grid::of(outputs, TILE_THREADS);
        launch!(stream, "gemm_rows_bf16_swapped", grid; values, packed, 0_u64, x, 0_u64, rows, 0_i32, out)
    });
}

/// A packed weight and many rows: some of its rows at a time are unpacked and multiplied.
fn unpacked(stream: &Arc<Stream>, weight: &OnDevice, task: Task) -> Result<(), Error> {
    let kind = halves(stream);
    let (x, _memory) = activations(stream, weight, kind, task)?;
    let pairs = (UNPACKED / (32 * task.cols)).max(1);
    let all = task.outputs.div_ceil(32);
    let memory = stream.take(pairs.min(all) * 32 * task.cols * kind.bytes())?;
    for first in (0..all).step_by(pairs) {
        let count = pairs.min(all - first);
        weight.unpack(stream, (first, count), (kind, memory.at()))?;
        let part = Product {
            kind,
            rows: task.rows,
            outputs: (count * 32).min(task.outputs - first * 32),
            cols: task.cols,
            width: task.outputs,
            add: false,
            x,
            weight: memory.at(),
            out: task.out + 4 * (first * 32) as u64,
        };
        stream.multiply(&part)?;
    }
    Ok(())
}

pub(crate) fn embed(stream: &Arc<Stream>, ids: &[u32], weight: &PackedWeight, out: &mut Rows) {
    stream.attempt(|| {
        let on = weight.on(stream)?;
        let grid = Grid::of(ids.len(), 128);
        let ids = stream.input("ids", ids)?;
        let out = out.write_on(stream)?;
        let (values, order) = (on.values(), on.order());
        match &on.form {
            Form::Rows(kind) => {
                let name = match kind {
                    Kind::F32 => "look_up_f32",
                    Kind::F16 => "look_up_f16",
                    Kind::Bf16 | Kind::E4m3 => "look_up_bf16",
                };
                launch!(stream, name, grid; values, weight.cols() as i32, ids, order, out)
            }
            Form::Packed(packed, kernels) => {
                launch!(stream, &kernels.look_up, grid; values, *packed, ids, order, out)
            }
            Form::E4m3(_) => Err(not_here("looked up")),
        }
    });
}
