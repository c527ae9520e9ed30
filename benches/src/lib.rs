//! What the benches share: seeded inputs and a decoder made of kernels alone.

mod llama;

pub use llama::{Llama, PagedBatch, paged_batch};

use koma_kernels::{Class, Cx, Format, Isa, PackedWeight, Rows, Team};
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

    /// A matrix as a file stores it. Scales are 1/64 (and minimums 0): bytes 0x00 0x24 are that f16.
    pub fn bytes(&mut self, rows: usize, cols: usize, format: Format) -> Vec<u8> {
        let blocks = rows * cols / format.block_len();
        let mut bytes = Vec::with_capacity(blocks * format.block_bytes());
        for _ in 0..blocks {
            match format {
                Format::F32 => bytes.extend(self.value().to_le_bytes()),
                // The upper half of an f32; for F16, sign, exponent of 1/64, random fraction.
                Format::Bf16 => bytes.extend(&self.value().to_le_bytes()[2..]),
                Format::F16 => bytes.extend([self.next() as u8, 0x24]),
                _ => {
                    bytes.extend([0x00, 0x24]);
                    bytes.extend((2..format.block_bytes()).map(|i| match (format, i) {
                        (Format::Q4_1, 2 | 3) => 0,
                        _ => self.next() as u8,
                    }));
                }
            }
        }
        bytes
    }

    /// That matrix, packed.
    ///
    /// # Panics
    /// If `cols` does not suit the format.
    pub fn weight(&mut self, rows: usize, cols: usize, format: Format) -> PackedWeight {
        let bytes = self.bytes(rows, cols, format);
        PackedWeight::from_bytes(rows, cols, format, &bytes).expect("a shape of the format")
    }
}
