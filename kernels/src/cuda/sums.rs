//! [`Sums`]: what a product leaves to be finished, and [`Residual`]: such sums whose place is among rows of the model.

use super::pool::Buffer;
use super::stream::Plain;

/// `Sums` in `cuda/elementwise.cuh`: rows of `step` values, the scales that they are multiplied with, and a bias; 0 where there is
/// none.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Sums {
    pub(super) values: u64,
    pub(super) of_rows: u64,
    pub(super) of_outputs: u64,
    pub(super) bias: u64,
    pub(super) step: i64,
}
// SAFETY: five numbers of 8 bytes.
unsafe impl Plain for Sums {}

/// Sums that are added to `rows` rows of `width` values at `to`. While nothing else is asked for after, the norm of those rows can add
/// them itself.
#[derive(Debug)]
pub(super) struct Residual {
    pub(super) sums: Sums,
    pub(super) to: u64,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// The memory of the sums, which is nobody else's until they are added.
    pub(super) _memory: Vec<Buffer>,
}

impl Residual {
    /// Whether it is added to these rows.
    pub(super) fn is_to(&self, to: u64, (rows, width): (usize, usize)) -> bool {
        (self.to, self.rows, self.width) == (to, rows, width)
    }
}
