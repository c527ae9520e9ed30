//! [`Groups`]: formats whose codes share a scale, and perhaps a zero point, by the group of columns, as GPTQ, AWQ,
//! compressed-tensors and FP8 checkpoints have them.
//!
//! Owns: what such a format is and how a weight is made of it, row by row. Must not know: how a file keeps its codes.
//!
//! Invariant: packing loses nothing: a value is `scale * (code - zero)` in f32, rounded at most once.

use crate::cpu::grouped::{self, Layout};
use crate::{Error, Format, PackedWeight};

/// What a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// -8 to 7, half a byte. Activations are quantized to int8 in blocks of 32 columns.
    Int4,
    /// -128 to 127, a byte. Activations as for [`Code::Int4`].
    Int8,
    /// A float of 4 bits of exponent and 3 of mantissa, without infinities ("e4m3fn", OCP 8-bit floating point 1.0), a byte.
    /// Activations stay f32. The two codes of NaN (0x7f, 0xff) must not occur.
    Fp8,
}

/// How scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scale {
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
    /// 4 bytes.
    F32,
}

/// A grouped format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Groups {
    /// What a code is.
    pub code: Code,
    /// How the scale of a group is stored.
    pub scale: Scale,
    /// Whether a group of integers has a zero point (a whole number of at most 256 in magnitude).
    pub zeros: bool,
    /// Columns of a group: a multiple of 32, or at least all of a row. A row's last group may have fewer.
    pub cols: usize,
}

impl Groups {
    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self.code {
            Code::Int4 => "INT4",
            Code::Int8 => "INT8",
            Code::Fp8 => "FP8",
        }
    }

    /// Groups of a row of `cols` columns.
    pub const fn count(self, cols: usize) -> usize {
        cols.div_ceil(self.cols)
    }

    /// Bytes of a row of `cols` columns in memory.
    pub const fn packed_bytes(self, cols: usize) -> usize {
        Layout::of(self).row_bytes(cols)
    }
}

/// A row of a grouped weight.
#[derive(Debug)]
pub struct GroupedRow<'a> {
    /// `[cols]`, each an `i8` or an e4m3 as it is.
    pub codes: &'a mut [u8],
    /// `[groups]`, each a value of the format's [`Scale`].
    pub scales: &'a mut [f32],
    /// `[groups]`; zeros if the format has none.
    pub zeros: &'a mut [i16],
}

impl PackedWeight {
    /// A weight in a grouped format; `fetch` writes a row.
    ///
    /// # Errors
    /// [`Error::Group`] if there are no columns or groups cannot be cut into blocks of 32, [`Error::OutOfMemory`].
    pub fn grouped(
        rows: usize,
        cols: usize,
        groups: Groups,
        fetch: impl Fn(usize, &mut GroupedRow<'_>) + Sync,
    ) -> Result<Self, Error> {
        let whole = groups.cols.is_multiple_of(32) || groups.cols >= cols;
        if cols == 0 || groups.cols == 0 || !whole {
            return Err(Error::Group {
                cols,
                group: groups.cols,
            });
        }
        let lines = grouped::pack((rows, cols), groups, fetch)?;
        Ok(Self::from_lines(
            (rows, cols),
            Format::Grouped(groups),
            lines,
        ))
    }
}
