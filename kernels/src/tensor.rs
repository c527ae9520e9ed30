//! [`Rows`]: the one activation buffer, a row-major matrix of `f32` that keeps its memory from step to step.

/// A row-major `[rows, width]` matrix of `f32`, owned, growing only: [`Rows::reset`] reuses what is there, so a buffer
/// that has seen the largest step never allocates again.
#[derive(Debug, Default, Clone)]
pub struct Rows {
    data: Vec<f32>,
    height: usize,
    width: usize,
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
        }
    }

    /// Gives the matrix a shape. Values are unspecified afterwards: every operation writes all of its output.
    pub fn reset(&mut self, rows: usize, width: usize) {
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
        &self.data[i * self.width..(i + 1) * self.width]
    }

    /// Row `i`, to write.
    ///
    /// # Panics
    /// If there is no such row.
    #[track_caller]
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.height, "row {i} of {}", self.height);
        &mut self.data[i * self.width..(i + 1) * self.width]
    }

    /// All values, row after row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data[..self.height * self.width]
    }

    /// All values, to write.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.height * self.width]
    }
}
