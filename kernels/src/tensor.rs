//! [`Rows`]: the one activation buffer, a row-major matrix of `f32` that keeps its memory from step to step.

use crate::Cx;
use crate::cpu::shared::Shared;
#[cfg(feature = "cuda")]
use crate::cuda::Mirror;

/// A row-major `[rows, width]` matrix of `f32`, owned, growing only: [`Rows::reset`] reuses what is there, so a buffer
/// that has seen the largest step never allocates again.
#[derive(Debug, Default)]
pub struct Rows {
    data: Vec<f32>,
    height: usize,
    width: usize,
    /// What a device has of it.
    #[cfg(feature = "cuda")]
    mirror: Mirror,
}

impl Clone for Rows {
    fn clone(&self) -> Self {
        let mut rows = Self::new();
        rows.copy_from(self);
        rows
    }
}

impl Rows {
    /// An empty matrix.
    pub fn new() -> Self {
        Self::default()
    }

    /// A matrix with the given values; `data.len()` must be a multiple of `width`.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn from_vec(width: usize, data: Vec<f32>) -> Self {
        assert!(
            width > 0 && data.len().is_multiple_of(width),
            "{} values in rows of {width}",
            data.len()
        );
        Self {
            height: data.len() / width,
            width,
            data,
            #[cfg(feature = "cuda")]
            mirror: Mirror::default(),
        }
    }

    /// Gives the matrix a shape. Values are unspecified afterwards: every operation writes all of its output.
    pub fn reset(&mut self, rows: usize, width: usize) {
        #[cfg(feature = "cuda")]
        self.mirror.forget();
        (self.height, self.width) = (rows, width);
        let len = rows * width;
        if self.data.len() < len {
            self.data.resize(len, 0.0);
        }
    }

    /// Takes shape and values of `from`.
    pub fn copy_from(&mut self, from: &Self) {
        self.reset(from.height, from.width);
        self.as_mut_slice().copy_from_slice(from.as_slice());
    }

    /// Bytes of memory that it keeps.
    pub fn bytes(&self) -> usize {
        self.data.capacity() * size_of::<f32>()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.height
    }

    /// Values per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    #[track_caller]
    pub fn row(&self, i: usize) -> &[f32] {
        assert!(i < self.height, "row {i} of {}", self.height);
        &self.as_slice()[i * self.width..(i + 1) * self.width]
    }

    /// Row `i`, to write.
    ///
    /// # Panics
    /// If there is no such row.
    #[track_caller]
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.height, "row {i} of {}", self.height);
        let width = self.width;
        &mut self.as_mut_slice()[i * width..(i + 1) * width]
    }

    /// All values, row after row.
    pub fn as_slice(&self) -> &[f32] {
        let len = self.height * self.width;
        #[cfg(feature = "cuda")]
        if let Some(values) = self.mirror.values(len) {
            return values;
        }
        &self.data[..len]
    }

    /// All values, to write.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let len = self.height * self.width;
        #[cfg(feature = "cuda")]
        self.mirror.bring_home(&mut self.data, len);
        &mut self.data[..len]
    }
}

#[cfg(feature = "cuda")]
impl Rows {
    /// The host's side, which may be older than the device's.
    pub(crate) fn host(&self) -> &[f32] {
        &self.data[..self.height * self.width]
    }

    /// The device's side.
    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Both sides.
    pub(crate) fn mirror_mut(&mut self) -> (&mut Mirror, &[f32]) {
        (&mut self.mirror, &self.data)
    }
}

/// Takes rows of `from`, in this order: `out` becomes `[rows.len(), from.width()]`.
///
/// # Panics
/// If there is no such row.
#[track_caller]
pub fn gather_rows(cx: &Cx, from: &Rows, rows: &[u32], out: &mut Rows) {
    let good = rows.iter().all(|row| (*row as usize) < from.rows());
    assert!(good, "gather_rows: a row that there is not");
    out.reset(rows.len(), from.width());
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::gather(stream, from, rows, out);
    }
    let width = from.width();
    let to = Shared::new(out.as_mut_slice());
    cx.run_rows(rows.len(), width, &|range| {
        for r in range {
            // SAFETY: a row belongs to one range.
            let to = unsafe { to.part(r * width..(r + 1) * width) };
            to.copy_from_slice(from.row(rows[r] as usize));
        }
    });
}

/// Multiplies all values by `factor`.
pub fn scale_rows(cx: &Cx, x: &mut Rows, factor: f32) {
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::scale(stream, x, factor);
    }
    let (rows, width) = (x.rows(), x.width());
    let values = Shared::new(x.as_mut_slice());
    cx.run_rows(rows, width, &|range| {
        // SAFETY: ranges of rows do not overlap.
        let values = unsafe { values.part(range.start * width..range.end * width) };
        for v in values {
            *v *= factor;
        }
    });
}

/// Adds row `r` of `from` to row `r` of `out`; if `from` has one row, that one to each. `from`: `[rows or 1, out.width()]`.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn add_rows(cx: &Cx, from: &Rows, out: &mut Rows) {
    let each = from.rows() == out.rows();
    assert!(each || from.rows() == 1, "add_rows: rows");
    assert_eq!(from.width(), out.width(), "add_rows: width");
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::add_rows(stream, from, out);
    }
    let (rows, width) = (out.rows(), out.width());
    let to = Shared::new(out.as_mut_slice());
    cx.run_rows(rows, width, &|range| {
        for r in range {
            // SAFETY: a row belongs to one range.
            let to = unsafe { to.part(r * width..(r + 1) * width) };
            let from = from.row(if each { r } else { 0 });
            to.iter_mut().zip(from).for_each(|(o, v)| *o += v);
        }
    });
}
