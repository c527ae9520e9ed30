//! What the benches share: seeded inputs, a decoder made of kernels alone, and how a time is taken and written.

mod llama;
mod meter;

pub use llama::{Llama, PagedBatch, paged_batch};
pub use meter::{Meter, Work, median};

use koma_kernels::{Class, Cx, Format, Isa, PackedWeight, Rows, Team, reference};
use std::sync::Arc;

/// A context on all cores.
pub fn cx(isa: Isa) -> Cx {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Cx::new(Arc::new(Team::new(threads)), Class::Throughput, isa)
}

/// A seeded generator: the same inputs in every run.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A value within -1..1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `[rows, width]` of them.
    pub fn rows(&mut self, rows: usize, width: usize) -> Rows {
        Rows::from_vec(width, (0..rows * width).map(|_| self.value()).collect())
    }

    /// A matrix as a file stores it, of values within -1..1.
    pub fn bytes(&mut self, rows: usize, cols: usize, format: Format) -> Vec<u8> {
        let mut bytes = vec![0; rows * cols / format.block_len() * format.block_bytes()];
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            block.fill_with(|| self.next() as u8);
            reference::tame(format, block, self.value().abs());
        }
        bytes
    }

    /// That matrix, packed.
    ///
    /// # Panics
    /// If `cols` does not suit the format.
    pub fn weight(&mut self, rows: usize, cols: usize, format: Format) -> PackedWeight {
        if format == Format::Int8 {
            // No file has it: it is made of values.
            let values: Vec<f32> = (0..rows * cols).map(|_| self.value()).collect();
            return PackedWeight::from_f32(rows, cols, format, &values).expect("rows that fit");
        }
        let bytes = self.bytes(rows, cols, format);
        PackedWeight::from_bytes(rows, cols, format, &bytes).expect("a shape of the format")
    }
}
