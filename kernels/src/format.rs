//! [`Format`]: the ways in which a weight's values are stored.
//!
//! Adding one: a variant here with its row of [`Format::facts`], what it is made of in `cpu/codes.rs`, how a file's block is
//! read in `cpu/encode.rs`, its values one by one in `reference.rs`. Kernels follow from the table in `cpu/codes.rs`.

use crate::cpu::codes::Unit;
use crate::cpu::int8;
use crate::grouped::{Code, Groups, Scale};
use half::{bf16, f16};

/// How the values of a weight are stored. Block formats are GGML's: integer codes of some bits; 16 or 32 of them share a
/// scale and perhaps a minimum; in K formats those are small integers, times what 256 values share. All of them are
/// multiplied with activations that are quantized to int8 in blocks of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 bytes a value; activations stay f32: the exact mode.
    F32,
    /// 2 bytes a value; activations are rounded to bf16 before the product, sums are f32.
    Bf16,
    /// 2 bytes a value; activations stay f32.
    F16,
    /// 32 int8 and an f16 scale.
    Q8_0,
    /// 32 codes of 4 bits, minus 8, and an f16 scale.
    Q4_0,
    /// 32 codes of 4 bits, an f16 scale and an f16 minimum.
    Q4_1,
    /// 32 codes of 5 bits, minus 16, and an f16 scale.
    Q5_0,
    /// 32 codes of 5 bits, an f16 scale and an f16 minimum.
    Q5_1,
    /// 256 codes of 2 bits; each 16 have a scale and a minimum of 4 bits.
    Q2K,
    /// 256 codes of 3 bits, minus 4; each 16 have a signed scale of 6 bits.
    Q3K,
    /// 256 codes of 4 bits; each 32 have a scale and a minimum of 6 bits.
    Q4K,
    /// 256 codes of 5 bits; each 32 have a scale and a minimum of 6 bits.
    Q5K,
    /// 256 codes of 6 bits, minus 32; each 16 have an int8 scale.
    Q6K,
    /// 256 int8 and an f32 scale.
    Q8K,
    /// 32 codes of 4 bits into a table of 16 values, and an f16 scale.
    Iq4Nl,
    /// 32 values of 4 bits (e2m1) and a power of two (e8m0): OCP's MX format.
    Mxfp4,
    /// An int8 for each value and an f32 scale for each row; made of f32, not by files. Each row of activations is rounded to 254
    /// steps between its least and its largest value (or 0), and sums are exact until they are scaled.
    Int8,
    /// Codes that share a scale by the group of columns; files keep codes and scales apart.
    Grouped(Groups),
}

impl Format {
    /// All that files hold row by row, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
        Self::Iq4Nl,
        Self::Mxfp4,
    ];

    /// e4m3 with one f32 scale for each row, made of f32.
    pub const FP8: Self = Self::Grouped(Groups {
        code: Code::Fp8,
        scale: Scale::F32,
        zeros: false,
        cols: 1 << 24,
    });

    /// Its place in [`Format::ALL`].
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 1,
            Self::F16 => 2,
            Self::Q8_0 => 3,
            Self::Q4_0 => 4,
            Self::Q4_1 => 5,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q2K => 8,
            Self::Q3K => 9,
            Self::Q4K => 10,
            Self::Q5K => 11,
            Self::Q6K => 12,
            Self::Q8K => 13,
            Self::Iq4Nl => 14,
            Self::Mxfp4 => 15,
            // In none of the places of the table.
            Self::Int8 | Self::Grouped(_) => u8::MAX,
        }
    }

    /// Name, values in one block, bytes of one block as files store it.
    const fn facts(self) -> (&'static str, usize, usize) {
        match self {
            Self::F32 => ("F32", 1, 4),
            Self::Bf16 => ("BF16", 1, 2),
            Self::F16 => ("F16", 1, 2),
            Self::Q8_0 => ("Q8_0", 32, 34),
            Self::Q4_0 => ("Q4_0", 32, 18),
            Self::Q4_1 => ("Q4_1", 32, 20),
            Self::Q5_0 => ("Q5_0", 32, 22),
            Self::Q5_1 => ("Q5_1", 32, 24),
            Self::Q2K => ("Q2_K", 256, 84),
            Self::Q3K => ("Q3_K", 256, 110),
            Self::Q4K => ("Q4_K", 256, 144),
            Self::Q5K => ("Q5_K", 256, 176),
            Self::Q6K => ("Q6_K", 256, 210),
            Self::Q8K => ("Q8_K", 256, 292),
            Self::Iq4Nl => ("IQ4_NL", 32, 18),
            Self::Mxfp4 => ("MXFP4", 32, 17),
            Self::Int8 => ("INT8", 1, 0),
            Self::Grouped(groups) => (groups.name(), 1, 0),
        }
    }

    /// Its name in messages (GGML's for block formats).
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// Values in one block (1 for plain formats, INT8 and grouped formats).
    pub const fn block_len(self) -> usize {
        self.facts().1
    }

    /// Bytes of one block as files store it (0 for INT8 and grouped formats, whose rows no file holds).
    pub const fn block_bytes(self) -> usize {
        self.facts().2
    }

    /// Writes values as files store them, little-endian: as they are, or the nearest (ties to even).
    ///
    /// # Panics
    /// If the format is not F32, F16 or BF16, or `to` has another length.
    #[track_caller]
    pub fn write(self, values: &[f32], to: &mut [u8]) {
        fn each<const N: usize>(values: &[f32], to: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
            let (places, _) = to.as_chunks_mut();
            for (to, v) in places.iter_mut().zip(values) {
                *to = bytes(*v);
            }
        }
        assert_eq!(to.len(), values.len() * self.block_bytes(), "write: length");
        match self {
            Self::F32 => each(values, to, f32::to_le_bytes),
            Self::F16 => each(values, to, |v| f16::from_f32(v).to_le_bytes()),
            Self::Bf16 => each(values, to, |v| bf16::from_f32(v).to_le_bytes()),
            other => panic!("write: {} is not plain", other.name()),
        }
    }

    /// Bytes of one row of `cols` values in memory, packed.
    pub const fn packed_bytes(self, cols: usize) -> usize {
        if let Self::Grouped(groups) = self {
            return groups.packed_bytes(cols);
        }
        if let Self::Int8 = self {
            return int8::packed_bytes(cols);
        }
        let unit = Unit::of(self);
        cols.div_ceil(unit.cols).saturating_mul(unit.bytes())
    }
}
