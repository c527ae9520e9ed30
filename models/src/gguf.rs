//! GGUF files (versions 2 and 3, little-endian): metadata and the table of tensors, read from bytes in memory.
//!
//! Owns: the container's syntax. Must not know: what a key or a tensor means to an architecture or a tokenizer.
//!
//! Invariant: nothing read from the file is trusted. Every count, length and offset is checked against the bytes that
//! are left before memory is asked for, so a damaged file costs no more than a few times its own size and ends in an
//! error that names the file and the key or tensor. Format: the `ggml` project's `docs/gguf.md`.

mod meta;
mod reader;

pub use meta::{FromValue, GgufMeta, Value};

use crate::LoadError;
use koma_kernels::Format;
use reader::Reader;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Dimensions of a tensor at most (ggml's own limit).
const MAX_DIMS: u32 = 4;
/// The least bytes of one entry of the tensor table: name length, dimensions, one size, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Sizes, outermost first (the reverse of the file's order): a matrix is `[rows, cols]`.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub format: Format,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// The head of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    /// Keys and values.
    pub meta: GgufMeta,
    /// Tensors by name.
    pub tensors: HashMap<String, GgufTensor>,
}

impl Gguf {
    /// Reads the head of the file `bytes`; `path` is for messages.
    ///
    /// # Errors
    /// [`LoadError::File`] for damage (with the place), [`LoadError::Config`] for a key, [`LoadError::Tensor`] for a
    /// tensor of a type that is not supported or with bytes outside of the file.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, LoadError> {
        let mut reader = Reader::new(path, bytes);
        reader.magic()?;
        let tensor_count = reader.u64("number of tensors")?;
        let meta = GgufMeta::read(&mut reader)?;
        refuse_split(&meta)?;
        reader.fits(tensor_count, MIN_TENSOR_BYTES, "number of tensors")?;

        let mut tensors = HashMap::new();
        for i in 0..tensor_count {
            let (name, tensor) = read_tensor(&mut reader, i)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(reader.error(format!("tensor `{name}` is there twice")));
            }
        }
        let data = data_start(&meta, &reader)?;
        place(&mut tensors, path, data, bytes.len(), alignment(&meta)?)?;
        Ok(Self { meta, tensors })
    }
}

/// Reads one entry of the tensor table; its range is still relative to the data section.
fn read_tensor(reader: &mut Reader<'_>, i: u64) -> Result<(String, GgufTensor), LoadError> {
    let name = reader.string(&format!("name of tensor {i}"))?.to_owned();
    let bad = |reader: &Reader<'_>, reason: String| LoadError::Tensor {
        name: name.clone(),
        path: reader.path().to_owned(),
        reason,
    };
    let dims = reader.u32(&name)?;
    if !(1..=MAX_DIMS).contains(&dims) {
        return Err(bad(
            reader,
            format!("{dims} dimensions, not 1 to {MAX_DIMS}"),
        ));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let size = reader.u64(&name)?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(bad(reader, format!("a dimension of {size}"))),
        }
    }
    shape.reverse();
    let kind = reader.u32(&name)?;
    let Some(format) = format_of(kind) else {
        let reason = format!(
            "type {} is not supported; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1",
            type_name(kind)
        );
        return Err(bad(reader, reason));
    };
    let cols = shape[shape.len() - 1];
    if !cols.is_multiple_of(format.block_len()) {
        let reason = format!(
            "rows of {cols} values cannot be cut into blocks of {} ({})",
            format.block_len(),
            format.name()
        );
        return Err(bad(reader, reason));
    }
    let values = shape
        .iter()
        .try_fold(1usize, |product, size| product.checked_mul(*size));
    let bytes = values.and_then(|v| (v / format.block_len()).checked_mul(format.block_bytes()));
    let start = usize::try_from(reader.u64(&name)?).ok();
    let range = start.and_then(|start| Some(start..start.checked_add(bytes?)?));
    match range {
        Some(range) => Ok((
            name,
            GgufTensor {
                shape,
                format,
                range,
            },
        )),
        None => Err(bad(
            reader,
            format!("shape {shape:?} is larger than memory"),
        )),
    }
}

/// Turns relative ranges into places in the file and checks that they lie in it, aligned and apart.
fn place(
    tensors: &mut HashMap<String, GgufTensor>,
    path: &Path,
    data: usize,
    len: usize,
    alignment: usize,
) -> Result<(), LoadError> {
    let bad = |name: &str, reason: String| LoadError::Tensor {
        name: name.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let mut order: Vec<_> = tensors.iter_mut().collect();
    order.sort_by_key(|(_, tensor)| tensor.range.start);
    let mut end = 0;
    for (name, tensor) in order {
        let range = tensor.range.clone();
        if !range.start.is_multiple_of(alignment) {
            let reason = format!("offset {} is not a multiple of {alignment}", range.start);
            return Err(bad(name, reason));
        }
        if range.start < end {
            return Err(bad(name, "overlaps the tensor before it".to_owned()));
        }
        end = range.end;
        match data.checked_add(range.end) {
            Some(last) if last <= len => tensor.range = data + range.start..last,
            _ => {
                let reason = format!(
                    "ends {} bytes into the data, but the file has {} bytes of data: it is cut off or damaged",
                    range.end,
                    len.saturating_sub(data)
                );
                return Err(bad(name, reason));
            }
        }
    }
    Ok(())
}

fn alignment(meta: &GgufMeta) -> Result<usize, LoadError> {
    let key = "general.alignment";
    let alignment: u32 = meta.find(key)?.unwrap_or(32);
    if alignment.is_power_of_two() && alignment <= 1 << 20 {
        Ok(alignment as usize)
    } else {
        Err(meta.error(key, format!("{alignment} is not a power of two up to 2^20")))
    }
}

fn data_start(meta: &GgufMeta, reader: &Reader<'_>) -> Result<usize, LoadError> {
    Ok(reader.at().next_multiple_of(alignment(meta)?))
}

fn refuse_split(meta: &GgufMeta) -> Result<(), LoadError> {
    let key = "split.count";
    match meta.find::<u32>(key)? {
        Some(count) if count > 1 => Err(meta.error(
            key,
            format!("the model is split into {count} files; join them into one"),
        )),
        _ => Ok(()),
    }
}

fn format_of(kind: u32) -> Option<Format> {
    Some(match kind {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::Q4_0,
        3 => Format::Q4_1,
        8 => Format::Q8_0,
        30 => Format::Bf16,
        _ => return None,
    })
}

/// Names of the types that tensors may have, in the order of their numbers.
pub fn types() -> Vec<&'static str> {
    (0..=u8::MAX.into())
        .filter_map(format_of)
        .map(Format::name)
        .collect()
}

/// The name of a ggml type, for messages.
fn type_name(kind: u32) -> String {
    const NAMES: [(u32, &str); 26] = [
        (6, "Q5_0"),
        (7, "Q5_1"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    match NAMES.iter().find(|(id, _)| *id == kind) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("number {kind}"),
    }
}

#[cfg(test)]
mod tests;
