//! Every operation on every CPU path against its naive body, and bit for bit against itself in other company.

mod apart;
mod attention;
mod cache;
#[cfg(feature = "cuda-emu")]
mod cuda;
mod experts;
mod grouped;
mod int8;
mod linear;
mod pooling;
mod recurrent;
mod rows;
mod stand_in;

use crate::{Class, Cx, Format, Isa, PackedWeight, Rows, Team, reference};
use half::f16;
use std::sync::Arc;

/// The paths that this processor has.
fn isas() -> impl Iterator<Item = Isa> {
    Isa::here()
}

fn cx(isa: Isa, threads: usize) -> Cx {
    Cx::new(Arc::new(Team::new(threads)), Class::Throughput, isa)
}

/// A seeded generator of the values that tests need.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// Within -1..1, now and then ten times that.
    fn value(&mut self) -> f32 {
        let v = (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if self.below(50) == 0 { 10.0 * v } else { v }
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    fn rows(&mut self, rows: usize, width: usize) -> Rows {
        Rows::from_vec(width, self.values(rows * width))
    }

    /// A row-major matrix as files store it.
    fn bytes(&mut self, rows: usize, cols: usize, format: Format) -> Vec<u8> {
        let mut bytes = vec![0; rows * cols / format.block_len() * format.block_bytes()];
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            match format {
                Format::F32 => block.copy_from_slice(&self.value().to_le_bytes()),
                Format::F16 => block.copy_from_slice(&f16::from_f32(self.value()).to_le_bytes()),
                Format::Bf16 => {
                    block.copy_from_slice(&half::bf16::from_f32(self.value()).to_le_bytes());
                }
                _ => {
                    block.fill_with(|| self.next() as u8);
                    reference::tame(format, block, self.value().abs().min(1.0));
                }
            }
        }
        bytes
    }

    fn weight(&mut self, rows: usize, cols: usize, format: Format) -> PackedWeight {
        if let Format::Grouped(groups) = format {
            return self.codes(rows, cols, groups).pack();
        }
        if format == Format::Int8 {
            let values = self.values(rows * cols);
            return PackedWeight::from_f32(rows, cols, format, &values).expect("a weight");
        }
        let bytes = self.bytes(rows, cols, format);
        PackedWeight::from_bytes(rows, cols, format, &bytes).expect("a weight")
    }
}

/// Asserts that each value is within `bound * (1 + |expected|)`.
#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let off = (g - e).abs() / (1.0 + e.abs());
        assert!(
            off <= bound,
            "{what}: value {i} is {g}, not {e} ({off:e} off)"
        );
    }
}

/// Asserts that all values are the same bits.
#[track_caller]
fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits(),
            "{what}: value {i} is {g:e}, not {e:e}"
        );
    }
}
