//! [`PackedWeight`]: a matrix `[rows, cols]` (out, in) in the layout that the product reads, one per format.

use crate::cpu::encode::encode_row;
use crate::cpu::grouped;
use crate::cpu::int8;
use crate::cpu::pack::{self, Line};
use crate::cpu::shared::Shared;
use crate::cpu::table;
#[cfg(feature = "cuda")]
use crate::cuda::OnDevice;
use crate::grouped::{Code, GroupedRow};
use crate::memory::Zeroed;
use crate::stand_in::Values;
use crate::{Cx, Error, Format, Rows};
use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

/// A weight matrix `[rows, cols]`, rows being outputs. The product of a row of activations with a row of the weight is a
/// sum in one fixed order that depends on nothing but `cols` and the format.
#[derive(Debug)]
pub struct PackedWeight {
    rows: usize,
    cols: usize,
    format: Format,
    lines: Values,
    /// Row after row, to be looked up and never multiplied.
    flat: bool,
    /// See [`PackedWeight::with_fp8_activations`].
    fp8: bool,
    /// The column of the activations that each column of the packed weight belongs to, if they are not in order.
    order: Option<Arc<[u32]>>,
    /// Its values on a device, once a product there has asked for them.
    #[cfg(feature = "cuda")]
    device: OnceLock<OnDevice>,
}

impl PackedWeight {
    /// Packs the bytes of a file: `rows * cols` values in `format`, row-major, little-endian, blocks along a row.
    ///
    /// # Errors
    /// [`Error::BlockLength`] or [`Error::WeightBytes`] if length and shape do not agree.
    pub fn from_bytes(
        rows: usize,
        cols: usize,
        format: Format,
        bytes: &[u8],
    ) -> Result<Self, Error> {
        Self::from_parts(cols, format, &[(rows, bytes)])
    }

    /// One weight of the rows of all `parts`, in order, each as [`PackedWeight::from_bytes`] takes it: as [`PackedWeight::stack`]
    /// makes it, without a copy of each before.
    ///
    /// # Errors
    /// As [`PackedWeight::from_bytes`].
    pub fn from_parts(
        cols: usize,
        format: Format,
        parts: &[(usize, &[u8])],
    ) -> Result<Self, Error> {
        if let Format::Int8 | Format::Grouped(_) = format {
            return Err(Error::Stack(format!(
                "{} is not made from the bytes of a file",
                format.name()
            )));
        }
        check_cols(cols, format)?;
        let row = cols / format.block_len() * format.block_bytes();
        for &(rows, bytes) in parts {
            // Saturated, no length of a slice agrees.
            let expected = rows.saturating_mul(row);
            if bytes.len() != expected {
                return Err(Error::WeightBytes {
                    rows,
                    cols,
                    format: format.name(),
                    expected,
                    got: bytes.len(),
                });
            }
        }
        let rows = parts.iter().map(|(rows, _)| rows).sum();
        Self::pack(rows, cols, format, |mut r, out| {
            for &(rows, bytes) in parts {
                if r < rows {
                    return encode_row(format, &bytes[r * row..(r + 1) * row], out);
                }
                r -= rows;
            }
        })
    }

    /// A weight of this shape without its values, to know what it will take ([`PackedWeight::bytes`]) before anything is
    /// read. It can be stacked; a product with it panics.
    ///
    /// # Errors
    /// [`Error::BlockLength`] if the columns are no whole blocks, [`Error::LongRow`] if INT8 has too many.
    pub fn hollow(rows: usize, cols: usize, format: Format) -> Result<Self, Error> {
        check_cols(cols, format)?;
        Ok(Self::from_lines((rows, cols), format, Zeroed::default()))
    }

    pub(crate) fn with_values(self, lines: Values) -> Self {
        Self { lines, ..self }
    }

    fn pack(
        rows: usize,
        cols: usize,
        format: Format,
        fetch: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<Self, Error> {
        let lines = pack::pack(rows, cols, format, fetch)?;
        Ok(Self::from_lines((rows, cols), format, lines))
    }

    pub(crate) fn from_lines(
        (rows, cols): (usize, usize),
        format: Format,
        lines: Zeroed<Line>,
    ) -> Self {
        Self {
            rows,
            cols,
            format,
            lines: Values::Own(lines),
            flat: false,
            fp8: false,
            order: None,
            #[cfg(feature = "cuda")]
            device: OnceLock::new(),
        }
    }

    /// A table, whose rows are looked up ([`embed`]) and never multiplied: `fetch(row, bytes)` writes the values of a row, in
    /// [`Format::F32`], [`Format::F16`] or [`Format::Bf16`], little-endian.
    ///
    /// # Errors
    /// [`Error::Stack`] for another format, [`Error::OutOfMemory`].
    pub fn table(
        rows: usize,
        cols: usize,
        format: Format,
        fetch: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<Self, Error> {
        if !matches!(format, Format::F32 | Format::F16 | Format::Bf16) {
            return Err(Error::Stack(format!("a table of {}", format.name())));
        }
        check_cols(cols, format)?;
        let lines = table::pack(rows, cols * format.block_bytes(), fetch)?;
        let weight = Self::from_lines((rows, cols), format, lines);
        Ok(Self {
            flat: true,
            ..weight
        })
    }

    /// A weight without values, or a stand-in, as a table.
    ///
    /// # Panics
    /// If it has values of its own: they lie in another order.
    #[track_caller]
    #[must_use]
    pub fn into_table(self) -> Self {
        let own = matches!(&self.lines, Values::Own(lines) if !lines.is_empty());
        assert!(!own, "into_table: a weight with values");
        Self { flat: true, ..self }
    }

    /// The same weight with its columns in another order: column `i` belongs to column `order[i]` of the activations, which
    /// are gathered before the product.
    ///
    /// # Panics
    /// If `order` is not a permutation of the columns.
    #[track_caller]
    #[must_use]
    pub fn with_order(mut self, order: Arc<[u32]>) -> Self {
        let mut seen = vec![false; self.cols];
        for &col in &*order {
            let twice = std::mem::replace(&mut seen[col as usize], true);
            assert!(!twice, "with_order: column {col} twice");
        }
        assert_eq!(order.len(), self.cols, "with_order: length");
        self.order = Some(order);
        self
    }

    /// See [`PackedWeight::with_order`].
    pub(crate) fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    /// The same weight for products whose activations are e4m3 as well, each row with a scale of its own (its largest value is the
    /// largest e4m3, 448; the others the nearest, ties to even); sums are f32, scaled once. Only a device multiplies it
    /// (`cuda::Gpu::check_fp8`).
    ///
    /// # Errors
    /// [`Error::Group`] if its columns do not share one scale, [`Error::Stack`] for another format or an order of columns.
    pub fn with_fp8_activations(self) -> Result<Self, Error> {
        let cols = self.cols;
        match self.format {
            Format::Grouped(groups) if groups.code == Code::Fp8 && self.order.is_none() => {
                if groups.cols < cols {
                    let group = groups.cols;
                    return Err(Error::Group { cols, group });
                }
                Ok(Self { fp8: true, ..self })
            }
            format => Err(Error::Stack(format!(
                "{} with activations of FP8",
                format.name()
            ))),
        }
    }

    /// The same weight for products whose activations are as they are elsewhere.
    #[must_use]
    pub fn without_fp8_activations(self) -> Self {
        Self { fp8: false, ..self }
    }

    /// See [`PackedWeight::with_fp8_activations`].
    pub fn has_fp8_activations(&self) -> bool {
        self.fp8
    }

    /// Whether [`PackedWeight::stack`] can put `other` below this one.
    pub fn stacks_with(&self, other: &Self) -> bool {
        (self.cols, self.format, self.fp8) == (other.cols, other.format, other.fp8)
            && self.order == other.order
    }

    /// Packs `f32` values as [`Format::F32`] or rounded to [`Format::Bf16`] or [`Format::F16`] (nearest even), to
    /// [`Format::Int8`], 127 steps to the largest of a row, or to [`Format::FP8`], a row's largest value being the largest e4m3.
    ///
    /// # Errors
    /// As [`PackedWeight::from_bytes`]; a block format is refused, as are rows of INT8 that are too long for exact sums.
    pub fn from_f32(
        rows: usize,
        cols: usize,
        format: Format,
        values: &[f32],
    ) -> Result<Self, Error> {
        let plain = matches!(format, Format::F32 | Format::Bf16 | Format::F16);
        if !plain && ![Format::Int8, Format::FP8].contains(&format) {
            return Err(Error::Stack(format!(
                "{} cannot be made from f32",
                format.name()
            )));
        }
        check_cols(cols, format)?;
        if rows.checked_mul(cols) != Some(values.len()) {
            return Err(Error::WeightBytes {
                rows,
                cols,
                format: format.name(),
                expected: rows
                    .saturating_mul(cols)
                    .saturating_mul(format.block_bytes()),
                got: values.len() * format.block_bytes(),
            });
        }
        if let Format::Grouped(groups) = format {
            return Self::grouped(rows, cols, groups, |r, to| {
                to.scales[0] = grouped::round(&values[r * cols..(r + 1) * cols], to.codes);
            });
        }
        if format == Format::Int8 {
            let each =
                |r: usize, codes: &mut [i8]| int8::round(&values[r * cols..(r + 1) * cols], codes);
            let lines = int8::pack((rows, cols), each)?;
            return Ok(Self::from_lines((rows, cols), format, lines));
        }
        Self::pack(rows, cols, format, |r, out| {
            // Behind the last value the unit may be longer.
            let end = cols * format.block_bytes();
            format.write(&values[r * cols..(r + 1) * cols], &mut out[..end]);
        })
    }

    /// One weight of all rows of `parts`, in order (q, k, v; gate, up).
    ///
    /// # Errors
    /// [`Error::Stack`] if columns, their order or formats differ, or there is no part.
    ///
    /// # Panics
    /// If only a device has one of them.
    pub fn stack(parts: Vec<Self>) -> Result<Self, Error> {
        // One part is not copied.
        let parts = match <[Self; 1]>::try_from(parts) {
            Ok([one]) => return Ok(one),
            Err(parts) => parts,
        };
        let Some(first) = parts.first() else {
            return Err(Error::Stack("no parts".to_owned()));
        };
        let (cols, format, order) = (first.cols, first.format, first.order.clone());
        let fp8 = first.fp8;
        if let Some(part) = parts.iter().find(|p| !p.stacks_with(first)) {
            return Err(Error::Stack(format!(
                "{cols} columns of {} beside {} of {}",
                format.name(),
                part.cols,
                part.format.name()
            )));
        }
        parts.iter().for_each(Self::at_home);
        let whole = || {
            let whole = Self::hollow(parts.iter().map(|p| p.rows).sum(), cols, format);
            whole.map(|whole| Self { fp8, ..whole })
        };
        if parts.iter().any(|p| p.rows > 0 && p.lines.is_empty()) {
            return whole();
        }
        if let Values::Lent(_, from) = &first.lines {
            let (whole, from) = (whole()?, from.clone());
            drop(parts);
            return from.stand_in(whole);
        }
        // Parts of whole pairs are stacked as they are; others shift the rows of all that follow.
        let (last, before) = parts.split_last().unwrap_or((first, &[]));
        if before.iter().all(|p| p.rows.is_multiple_of(pack::PAIR)) {
            let rows = before.iter().map(|p| p.rows).sum::<usize>() + last.rows;
            let mut lines = pack::memory(parts.iter().map(|p| p.lines.len()).sum())?;
            let mut rest = &mut *lines;
            for part in parts {
                let (here, after) = rest.split_at_mut(part.lines.len());
                here.copy_from_slice(&part.lines);
                rest = after;
            }
            return Ok(Self {
                fp8,
                order,
                ..Self::from_lines((rows, cols), format, lines)
            });
        }
        let mut owners = Vec::new();
        for (part, p) in parts.iter().enumerate() {
            owners.extend((0..p.rows).map(|row| (part, row)));
        }
        let rows = owners.len();
        let stacked = if let Format::Grouped(groups) = format {
            let fetch = |r: usize, out: &mut GroupedRow<'_>| {
                let (part, row) = owners[r];
                grouped::unpack(&parts[part].lines, groups, row, out);
            };
            let lines = grouped::pack((rows, cols), groups, fetch)?;
            Self::from_lines((rows, cols), format, lines)
        } else if format == Format::Int8 {
            let fetch = |r: usize, codes: &mut [i8]| {
                let (part, row) = owners[r];
                int8::unpack(&parts[part].lines, row, codes)
            };
            let lines = int8::pack((rows, cols), fetch)?;
            Self::from_lines((rows, cols), format, lines)
        } else {
            Self::pack(rows, cols, format, |r, out| {
                let (part, row) = owners[r];
                pack::unpack_row(&parts[part].lines, (row, cols), format, out);
            })?
        };
        Ok(Self {
            fp8,
            order,
            ..stacked
        })
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes held, but for the order of the columns, which is small beside them.
    pub fn bytes(&self) -> usize {
        let lines = if self.flat {
            table::lines(self.rows, self.cols * self.format.block_bytes())
        } else {
            pack::pairs(self.rows) * pack::pair_lines(self.format, self.cols)
        };
        lines * size_of::<Line>()
    }

    /// The same weight on a device and no longer on the host: only operations on that device can use it. One without values (hollow)
    /// stays as it is.
    ///
    /// # Errors
    /// [`Error::Device`], if the device has no room for it.
    #[cfg(feature = "cuda")]
    pub fn settled(self, upload: &crate::cuda::Upload) -> Result<Self, Error> {
        if self.lines.is_empty() {
            return Ok(self);
        }
        let device = OnceLock::from(upload.bring(&self)?);
        Ok(Self {
            device,
            lines: Values::Own(Zeroed::default()),
            ..self
        })
    }

    /// Asserts that the host has its values.
    #[track_caller]
    fn at_home(&self) {
        #[cfg(feature = "cuda")]
        assert!(
            self.device.get().is_none() || !self.lines.is_empty(),
            "a weight that only a device has"
        );
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn device(&self) -> &OnceLock<OnDevice> {
        &self.device
    }

    /// Whether it is a table, which nothing multiplies.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_table(&self) -> bool {
        self.flat
    }

    /// The values in the order of its layout: packed lines, or rows of a table.
    #[cfg(feature = "cuda")]
    pub(crate) fn values(&self) -> &[Line] {
        &self.lines
    }

    /// The packed lines, as `cpu::pack` describes them.
    ///
    /// # Panics
    /// If it is a table: nothing multiplies one.
    pub(crate) fn lines(&self) -> &[Line] {
        assert!(!self.flat, "a table is not multiplied");
        assert!(!self.fp8, "activations of FP8 are for devices");
        self.at_home();
        &self.lines
    }

    /// Row `row` as f32, bit-equal to the reference dequantization of its format. `out`: `[cols]`.
    ///
    /// # Panics
    /// If the row does not exist or `out` has another length.
    #[track_caller]
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "dequantize_row: length");
        self.at_home();
        match self.format {
            format if self.flat => table::row(&self.lines, row, format, out),
            Format::Grouped(groups) => grouped::dequantize_row(&self.lines, groups, row, out),
            Format::Int8 => int8::dequantize_row(&self.lines, row, out),
            format => pack::dequantize_row(&self.lines, row, format, out),
        }
        if let Some(order) = self.order() {
            let packed = out.to_vec();
            for (value, col) in packed.into_iter().zip(order) {
                out[*col as usize] = value;
            }
        }
    }
}

/// Whether a row of a weight in `format` can have `cols` columns.
fn check_cols(cols: usize, format: Format) -> Result<(), Error> {
    let block = format.block_len();
    if cols == 0 || !cols.is_multiple_of(block) {
        let format = format.name();
        return Err(Error::BlockLength {
            cols,
            block,
            format,
        });
    }
    if format == Format::Int8 && cols > int8::MOST_COLS {
        let most = int8::MOST_COLS;
        return Err(Error::LongRow { cols, most });
    }
    Ok(())
}

/// Looks up rows of a weight: `out` becomes `[ids.len(), weight.cols()]`.
///
/// # Panics
/// If an id is not a row: ids are validated when a request is admitted.
#[track_caller]
pub fn embed(cx: &Cx, ids: &[u32], weight: &PackedWeight, out: &mut Rows) {
    let cols = weight.cols();
    out.reset(ids.len(), cols);
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        let rows = weight.rows();
        assert!(
            ids.iter().all(|id| (*id as usize) < rows),
            "embed: an id beyond {rows} rows"
        );
        return crate::cuda::ops::embed(stream, ids, weight, out);
    }
    let rows = Shared::new(out.as_mut_slice());
    let work = || {
        cx.run_rows(ids.len(), 4 * cols, &|range| {
            for r in range {
                // SAFETY: a row belongs to one range.
                let row = unsafe { rows.part(r * cols..(r + 1) * cols) };
                weight.dequantize_row(ids[r] as usize, row);
            }
        });
    };
    cx.operation(|_| (), work);
}
