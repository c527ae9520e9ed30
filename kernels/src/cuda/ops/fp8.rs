//! Products of FP8: activations rounded to e4m3 with a scale for each row, multiplied with codes of a weight by cuBLASLt, in f32, and
//! scaled by what follows.

use super::linear::{Task, finish};
use crate::cuda::blas::{Kind, Product};
use crate::cuda::stream::{Grid, Stream, launch};
use crate::cuda::sums::Sums;
use crate::cuda::weight::{Codes, OnDevice};
use crate::{Epilogue, Error};
use std::sync::Arc;

/// A product and what follows it.
pub(super) fn product(
    stream: &Arc<Stream>,
    (weight, codes): (&OnDevice, &Codes),
    epilogue: Epilogue<'_>,
    task: Task,
) -> Result<(), Error> {
    let Codes { outputs, cols, .. } = *codes;
    let x = stream.take(task.rows * cols)?;
    let scales = stream.take(4 * task.rows)?;
    let grid = Grid::of(task.rows, 256);
    launch!(stream, "take_e4m3", grid; task.x, task.cols as i32, cols as i32, x.at(), scales.at())?;
    let memory = stream.take(4 * task.rows * outputs)?;
    let whole = Product {
        kind: Kind::E4m3,
        rows: task.rows,
        outputs,
        cols,
        width: outputs,
        add: false,
        x: x.at(),
        weight: weight.values(),
        out: memory.at(),
    };
    stream.multiply(&whole)?;
    let sums = Sums {
        values: memory.at(),
        of_rows: scales.at(),
        of_outputs: codes.scales.at(),
        step: outputs as i64,
        bias: 0,
    };
    finish(stream, epilogue, (sums, vec![memory, scales]), task)
}
