//! The one family that all block formats belong to, and what a packed row is made of.
//!
//! A block is 32 codes of some bits. Blocks make up a *unit*, whose values share a head: one scale, or a scale and a
//! minimum. A block may have sub-scales of its own, small integers that the head is multiplied with. A value is
//! `code * scale + minimum`, where [`Value`] says what a code means and whether there is a minimum. File types map onto
//! this exactly: `cpu::encode` only puts their bits in another order.
//!
//! A row of a unit, before rows are interleaved (see `cpu::pack`):
//! ```text
//! heads               scale, perhaps minimum       `Head::bytes` each
//! then for each block:
//!   subs              0 or 2 bytes                 `Subs`
//!   codes             4 bytes for each bit         planes, below
//! ```
//! Planes: of the 32 codes of `n` bits, the lower 4 bits (2 for `n < 4`) come first, then the others. A plane of `b` bits
//! is `4 * b` bytes; byte `i` holds those bits of the codes `i`, `i + 4 b`, `i + 8 b`, ..., from its lowest bits up. Int8
//! codes are bytes with the top bit inverted (value + 128), which is what the AVX-512 dot product wants.

use crate::Format;

/// Columns of a block.
pub(crate) const BLOCK: usize = 32;
/// Blocks in the largest unit.
pub(crate) const MAX_BLOCKS: usize = 8;

/// How a head is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    F16,
    Bf16,
    F32,
}

impl Head {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// What a block has of its own beside its codes: two bytes, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subs {
    /// Scale and minimum are the heads.
    None,
    /// An int8 for each half, times the scale.
    Scales,
    /// A uint8 times the scale, a uint8 times the (negative) minimum.
    ScaleMin,
    /// A byte for each half: the lower 4 bits times the scale, the upper 4 times the (negative) minimum.
    Nibbles,
}

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Itself minus this.
    Minus(u8),
    /// Itself; there is a minimum: the second head.
    Min,
    /// An int8.
    Signed,
    /// The int8 at this place of the table (top bits inverted).
    Table(&'static [u8; 16]),
}

/// What a block format is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Codes {
    /// Blocks of a unit.
    pub(crate) blocks: usize,
    pub(crate) head: Head,
    pub(crate) subs: Subs,
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub(crate) bits: usize,
    pub(crate) value: Value,
}

/// The table of `IQ4_NL`, from ggml's `kvalues_iq4nl`.
const IQ4_NL: [u8; 16] = biased([
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
]);
/// The values of e2m1, doubled (OCP Microscaling Formats 1.0, 5.3.3); the scale is halved for it.
const E2M1: [u8; 16] = biased([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]);

const fn biased(values: [i8; 16]) -> [u8; 16] {
    let (mut out, mut i) = ([0; 16], 0);
    while i < 16 {
        out[i] = values[i] as u8 ^ 0x80;
        i += 1;
    }
    out
}

impl Codes {
    /// Of a block format; none for formats of plain values.
    pub(crate) const fn of(format: Format) -> Option<Self> {
        use Head::{Bf16, F16, F32};
        use Value::{Min, Minus, Signed, Table};
        let (blocks, head, subs, bits, value) = match format {
            Format::F32 | Format::Bf16 | Format::F16 | Format::Int8 | Format::Grouped(_) => {
                return None;
            }
            Format::Q8_0 => (1, F16, Subs::None, 8, Signed),
            Format::Q4_0 => (1, F16, Subs::None, 4, Minus(8)),
            Format::Q4_1 => (1, F16, Subs::None, 4, Min),
            Format::Q5_0 => (1, F16, Subs::None, 5, Minus(16)),
            Format::Q5_1 => (1, F16, Subs::None, 5, Min),
            Format::Q2K => (8, F16, Subs::Nibbles, 2, Min),
            Format::Q3K => (8, F16, Subs::Scales, 3, Minus(4)),
            Format::Q4K => (8, F16, Subs::ScaleMin, 4, Min),
            Format::Q5K => (8, F16, Subs::ScaleMin, 5, Min),
            Format::Q6K => (8, F16, Subs::Scales, 6, Minus(32)),
            Format::Q8K => (8, F32, Subs::None, 8, Signed),
            Format::Iq4Nl => (1, F16, Subs::None, 4, Table(&IQ4_NL)),
            Format::Mxfp4 => (1, Bf16, Subs::None, 4, Table(&E2M1)),
        };
        Some(Self {
            blocks,
            head,
            subs,
            bits,
            value,
        })
    }

    /// Heads of a unit.
    pub(crate) const fn heads(self) -> usize {
        if matches!(self.value, Value::Min) {
            2
        } else {
            1
        }
    }

    /// Bytes of a block's subs.
    pub(crate) const fn sub_bytes(self) -> usize {
        if matches!(self.subs, Subs::None) {
            0
        } else {
            2
        }
    }

    /// Scales of a block: 1, or 2 if its halves have their own.
    pub(crate) const fn groups(self) -> usize {
        if matches!(self.subs, Subs::Scales | Subs::Nibbles) {
            2
        } else {
            1
        }
    }

    /// The largest code where codes are not negative.
    pub(crate) const fn most(self) -> Option<usize> {
        match self.value {
            Value::Minus(_) | Value::Min => Some((1 << self.bits) - 1),
            Value::Signed | Value::Table(_) => None,
        }
    }

    /// Bits of the first plane.
    pub(crate) const fn low_bits(self) -> usize {
        match self.bits {
            8 => 8,
            2 | 3 => 2,
            _ => 4,
        }
    }
}

/// The packed form of some columns of one row: values, or a unit of blocks. Lengths in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    pub(crate) cols: usize,
    /// Of one head.
    pub(crate) head: usize,
    /// Of all heads.
    pub(crate) heads: usize,
    pub(crate) blocks: usize,
    /// Of a block's subs.
    pub(crate) subs: usize,
    /// Of a block's codes; whole dwords.
    pub(crate) codes: usize,
}

impl Unit {
    /// Of all but INT8 and grouped formats, which have layouts of their own (`cpu::int8`, `cpu::grouped`). F32 is one code of 4 bytes a column, BF16 one of two columns (the last padded with 0), F16 a head without a code.
    pub(crate) const fn of(format: Format) -> Self {
        if let Some(codes) = Codes::of(format) {
            return Self {
                cols: BLOCK * codes.blocks,
                head: codes.head.bytes(),
                heads: codes.head.bytes() * codes.heads(),
                blocks: codes.blocks,
                subs: codes.sub_bytes(),
                codes: 4 * codes.bits,
            };
        }
        let (cols, heads, codes) = match format {
            Format::F16 => (1, 2, 0),
            Format::Bf16 => (2, 0, 4),
            _ => (1, 0, 4),
        };
        Self {
            cols,
            head: 2,
            heads,
            blocks: 1,
            subs: 0,
            codes,
        }
    }

    /// Of a block.
    pub(crate) const fn block(self) -> usize {
        self.subs + self.codes
    }

    /// Of all.
    pub(crate) const fn bytes(self) -> usize {
        self.heads + self.blocks * self.block()
    }
}
