//! [`Scheme`]: how a folder keeps its quantized matrices, as `quantization_config` of config.json says.
//!
//! Owns: the fields of that object, which tensors make up a matrix, and unpacking them into the kernels' grouped formats.
//! Must not know: architectures, or how kernels lay codes out.
//!
//! Invariant: a matrix is unpacked exactly: every value is `scale * (code - zero)` of what the files hold, in the order of
//! their columns. Which matrices are quantized is told by the tensors that are there; what those mean, by the configuration.
//! A field that is not known here is an error, since it could change what is computed.

mod compressed;
mod fp8;
mod gptq;

use super::{Entry, Stored, Use, Weights};
use crate::config::Json;
use crate::{Dtype, LoadError};
use koma_kernels::{Code, Format, GroupedRow, Groups, PackedWeight, Scale};
use memmap2::Mmap;
use std::sync::Arc;

/// What quantized the checkpoint.
pub(crate) enum Scheme {
    Gptq(gptq::Packed),
    Fp8(fp8::Fp8),
    Compressed(compressed::Compressed),
}

/// Rows and columns (outputs and inputs).
type Shape = (usize, usize);

/// Writes a row of a quantized matrix.
type Fetch<'a> = Box<dyn Fn(usize, &mut GroupedRow<'_>) + Sync + 'a>;

/// The tensors that make up a matrix, checked as far as their heads tell.
struct Parts<'a> {
    groups: Groups,
    /// The tensor of the codes.
    codes: (&'a str, &'a Entry),
    /// The others.
    rest: Vec<(&'a str, &'a Entry)>,
}

/// A matrix whose tensors are read.
struct Matrix<'a> {
    fetch: Fetch<'a>,
    /// See [`PackedWeight::with_order`].
    order: Option<Arc<[u32]>>,
}

impl Scheme {
    /// Reads `quantization_config` (or `compression_config`, its older name in compressed-tensors), if there is one.
    ///
    /// # Errors
    /// [`LoadError::Config`] for a method, a field or a value that is not supported.
    pub(crate) fn read(config: &Json) -> Result<Option<Self>, LoadError> {
        let older = config.find_inner("compression_config")?;
        let Some(json) = config.find_inner("quantization_config")?.or(older) else {
            return Ok(None);
        };
        let method = json.find_str("quant_method")?;
        let scheme = match method.unwrap_or("compressed-tensors") {
            "gptq" => Self::Gptq(gptq::Packed::gptq(&json)?),
            "awq" => Self::Gptq(gptq::Packed::awq(&json)?),
            "fp8" => Self::Fp8(fp8::Fp8::read(&json)?),
            "compressed-tensors" => Self::Compressed(compressed::Compressed::read(&json)?),
            other => {
                let reason = format!(
                    "`{other}` is not supported; supported are fp8, gptq, awq, compressed-tensors"
                );
                return Err(json.error("quant_method", reason));
            }
        };
        Ok(Some(scheme))
    }

    /// The tensors of the matrix `stem`; none if the files hold it as it is.
    fn parts<'a>(
        &self,
        weights: &'a Weights,
        stem: &str,
        shape: Shape,
    ) -> Result<Option<Parts<'a>>, LoadError> {
        match self {
            Self::Gptq(scheme) => scheme.parts(weights, stem, shape),
            Self::Fp8(scheme) => scheme.parts(weights, stem, shape),
            Self::Compressed(scheme) => scheme.parts(weights, stem, shape),
        }
    }

    fn read_matrix<'a>(
        &'a self,
        weights: &'a Weights,
        parts: &Parts<'a>,
        shape: Shape,
    ) -> Result<Matrix<'a>, LoadError> {
        match self {
            Self::Gptq(scheme) => scheme.matrix(weights, parts, shape),
            Self::Fp8(scheme) => scheme.matrix(weights, parts, shape),
            Self::Compressed(scheme) => scheme.matrix(weights, parts, shape),
        }
    }
}

impl Weights {
    /// The matrix `name` if the files hold it quantized, in the precision that was asked for: its own, or dequantized.
    pub(super) fn quantized(
        &self,
        name: &str,
        (rows, cols): Shape,
    ) -> Result<Option<PackedWeight>, LoadError> {
        let Some(scheme) = &self.scheme else {
            return Ok(None);
        };
        for spelled in (self.spellings)(name) {
            let Some(stem) = spelled.strip_suffix(".weight") else {
                continue;
            };
            if let Some(parts) = scheme.parts(self, stem, (rows, cols))? {
                return self.unpacked(scheme, &parts, (rows, cols)).map(Some);
            }
        }
        Ok(None)
    }

    fn unpacked(
        &self,
        scheme: &Scheme,
        parts: &Parts<'_>,
        (rows, cols): Shape,
    ) -> Result<PackedWeight, LoadError> {
        let (name, entry) = parts.codes;
        let own = Format::Grouped(parts.groups);
        let wanted = match self.options.dtype {
            Dtype::Auto | Dtype::Int8 | Dtype::Fp8 => own,
            Dtype::F32 => Format::F32,
            Dtype::Bf16 => Format::Bf16,
        };
        let kernel = |e: koma_kernels::Error| self.tensor_error(name, e.to_string());
        let fp8 = self.options.dtype == Dtype::Fp8 && parts.groups.code == Code::Fp8;
        if fp8 && parts.groups.cols < cols {
            let reason = format!(
                "has a scale for each {} columns, and dtype fp8 needs one for a whole row; use dtype auto",
                parts.groups.cols
            );
            return Err(self.tensor_error(name, reason));
        }
        let packed = if let Some(other) = self.contents.instead((rows, cols), wanted) {
            other.map_err(kernel)?
        } else {
            let matrix = scheme.read_matrix(self, parts, (rows, cols))?;
            let packed = PackedWeight::grouped(rows, cols, parts.groups, matrix.fetch);
            let packed = match (packed.map_err(kernel)?, matrix.order) {
                (packed, Some(order)) => packed.with_order(order),
                (packed, None) => packed,
            };
            if wanted == own {
                packed
            } else {
                let mut values = vec![0.0; rows * cols];
                for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                    packed.dequantize_row(row, out);
                }
                PackedWeight::from_f32(rows, cols, wanted, &values).map_err(kernel)?
            }
        };
        let packed = if fp8 {
            packed.with_fp8_activations().map_err(kernel)?
        } else {
            packed
        };
        let used = Use {
            values: rows * cols,
            format: Some(wanted.name()),
        };
        self.account(entry, packed.bytes(), used);
        for (_, entry) in &parts.rest {
            self.account(entry, 0, Use::default());
        }
        Ok(packed)
    }

    /// Whether this is the bias of a quantized layer and all 0: old GPTQ checkpoints have them beside layers without a bias.
    pub(super) fn is_empty_bias(&self, name: &str) -> bool {
        let Some(stem) = name.strip_suffix(".bias") else {
            return false;
        };
        let quantized = self.part(&format!("{stem}.qweight")).is_some();
        let bytes = self.part(name).map(|(_, entry)| self.part_bytes(entry));
        quantized && bytes.is_some_and(|b| b.is_ok_and(|b| b.iter().all(|b| *b == 0)))
    }

    /// The tensor of exactly this name, if it is there.
    fn part(&self, name: &str) -> Option<(&str, &Entry)> {
        let (name, entry) = self.entries.get_key_value(name)?;
        Some((name, entry))
    }

    /// The scales and zero points that a calibration found for the inputs of the layer `stem`: nothing is computed with them, see
    /// [`unquantized_activations`].
    fn of_activations(&self, stem: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let names = ["input_scale", "activation_scale", "input_zero_point"];
        let part = move |name| self.part(&format!("{stem}.{name}"));
        names.into_iter().filter_map(part)
    }

    /// The tensor of exactly this name, which must have one of these types and this shape.
    fn expect_part(
        &self,
        name: &str,
        types: &[&str],
        shape: &[usize],
    ) -> Result<(&str, &Entry), LoadError> {
        let Some((name, entry)) = self.part(name) else {
            return Err(LoadError::MissingTensor {
                name: name.to_owned(),
                path: self.path.clone(),
            });
        };
        if !types.contains(&entry.stored.name()) {
            let reason = format!(
                "has type {}, expected {}",
                entry.stored.name(),
                types.join(" or ")
            );
            return Err(self.tensor_error(name, reason));
        }
        if entry.shape != shape {
            let reason = format!("has shape {:?}, expected {shape:?}", entry.shape);
            return Err(self.tensor_error(name, reason));
        }
        Ok((name, entry))
    }

    fn part_bytes(&self, entry: &Entry) -> Result<Mmap, LoadError> {
        self.files.map(entry.file, entry.range.clone())
    }

    /// The values of a tensor of scales; each must be finite.
    fn scales(&self, (name, entry): (&str, &Entry)) -> Result<Vec<f32>, LoadError> {
        let bytes = self.part_bytes(entry)?;
        let values = self.values(name, &entry.stored, &bytes, &entry.shape)?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let reason = format!("scale number {at} is {}", values[at]);
                Err(self.tensor_error(name, reason))
            }
            None => Ok(values),
        }
    }

    /// The values of a tensor of type I32.
    fn words(&self, entry: &Entry) -> Result<Vec<u32>, LoadError> {
        let bytes = self.part_bytes(entry)?;
        let four = bytes.chunks_exact(4);
        Ok(four
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    /// The order that brings columns together whose group is the same, from a tensor that tells the group of each column;
    /// none if they are together already. Groups have `size` columns, the last one perhaps fewer.
    fn column_order(
        &self,
        (name, entry): (&str, &Entry),
        size: usize,
    ) -> Result<Option<Arc<[u32]>>, LoadError> {
        let groups = self.words(entry)?;
        let cols = groups.len();
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.sort_by_key(|col| groups[*col as usize]);
        for (i, col) in order.iter().enumerate() {
            let (group, expected) = (groups[*col as usize] as i32, i / size);
            if usize::try_from(group) != Ok(expected) {
                let reason = format!(
                    "column {col} is of group {group}, but groups of {size} columns leave it in group {expected}"
                );
                return Err(self.tensor_error(name, reason));
            }
        }
        Ok((!order.is_sorted()).then(|| order.into()))
    }
}

/// Says that activations stay as they are, where a checkpoint (`part` of its configuration) wants them rounded.
fn unquantized_activations(part: &str) {
    tracing::info!(
        part,
        "activations are not quantized as this checkpoint asks: they are computed with as they are, or in int8 by 32 columns"
    );
}

/// Whether this is how one value for a whole matrix is written: a scalar, a vector or a matrix.
fn is_single(shape: &[usize]) -> bool {
    shape.len() <= 2 && shape.iter().product::<usize>() == 1
}

/// Types of scales.
const SCALES: [&str; 3] = ["F16", "BF16", "F32"];

/// How kernels store scales of a tensor of one of [`SCALES`].
fn scale_of(entry: &Entry) -> Scale {
    match entry.stored {
        Stored::As(Format::F16) => Scale::F16,
        Stored::As(Format::Bf16) => Scale::Bf16,
        _ => Scale::F32,
    }
}

/// Fails if `json` has a field that is none of `known` (lists of names).
fn expect_fields(json: &Json, known: &[&[&str]]) -> Result<(), LoadError> {
    let unknown = |field: &&str| {
        json.value(field).is_some() && !known.iter().any(|names| names.contains(field))
    };
    match json.fields().find(unknown) {
        Some(field) => Err(json.error(
            field,
            "is not known here, and could change what is computed",
        )),
        None => Ok(()),
    }
}

/// Fails if a list or an object is there and not empty.
fn expect_empty(json: &Json, field: &str) -> Result<(), LoadError> {
    let empty = json.value(field).is_none_or(|v| {
        v.as_array().is_some_and(Vec::is_empty)
            || v.as_object().is_some_and(serde_json::Map::is_empty)
    });
    if empty {
        Ok(())
    } else {
        Err(json.error(field, "is not supported"))
    }
}

/// Fails if FP8 codes of rows of `cols` columns hold a NaN.
fn expect_numbers(
    weights: &Weights,
    name: &str,
    codes: &[u8],
    cols: usize,
) -> Result<(), LoadError> {
    match codes.iter().position(|code| code & 0x7f == 0x7f) {
        Some(at) => {
            let reason = format!("row {}, column {} is NaN", at / cols, at % cols);
            Err(weights.tensor_error(name, reason))
        }
        None => Ok(()),
    }
}

/// The lower `bits` of `word` from bit `bits * i` on.
fn field(word: u32, bits: usize, i: usize) -> u32 {
    word >> (bits * i) & ((1 << bits) - 1)
}

/// The code of integers of 4 or 8 bits.
fn code_of(bits: usize) -> Code {
    if bits == 4 { Code::Int4 } else { Code::Int8 }
}

#[cfg(test)]
mod tests;
