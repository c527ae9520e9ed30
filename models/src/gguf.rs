//! GGUF files (versions 2 and 3, little-endian): metadata and the table of tensors, read from bytes in memory.
//!
//! Owns: the container's syntax. Must not know: what a key or a tensor means to an architecture or a tokenizer.
//!
//! Invariant: nothing read from the file is trusted. Every count, length and offset is checked against the bytes that
//! are left, and memory grows only with what was really read, so a hostile head costs no more than a few times its own
//! size, which is limited, and ends in an error that names the file and the key or tensor. Format: the `ggml` project's
//! `docs/gguf.md`.

mod meta;
mod reader;
mod split;

pub use meta::{FromValue, GgufMeta, Value};
pub(crate) use split::Split;

use crate::LoadError;
use koma_kernels::Format;
use reader::Reader;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Tensors of a file at most: what their names and places take in memory stays below a hundred megabytes.
const MAX_TENSORS: u64 = 1 << 18;
/// Bytes of a tensor's name at most (ggml's own limit).
const MAX_NAME: usize = 63;
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
        reader.fits(tensor_count, MIN_TENSOR_BYTES, "number of tensors")?;
        if tensor_count > MAX_TENSORS {
            return Err(reader.error(format!(
                "the number of tensors is {tensor_count}, more than {MAX_TENSORS}"
            )));
        }

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
    let name = reader.string(&format!("name of tensor {i}"))?;
    if name.len() > MAX_NAME {
        return Err(reader.error(format!(
            "the name of tensor {i} is {} bytes long, more than {MAX_NAME}",
            name.len()
        )));
    }
    let name = name.to_owned();
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
    let format = match format_of(kind) {
        Ok(format) => format,
        Err(reason) => return Err(bad(reader, reason)),
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

/// The number of a ggml type, its name, and the format that reads it.
const TYPES: [(u32, &str, Option<Format>); 32] = [
    (0, "F32", Some(Format::F32)),
    (1, "F16", Some(Format::F16)),
    (2, "Q4_0", Some(Format::Q4_0)),
    (3, "Q4_1", Some(Format::Q4_1)),
    (6, "Q5_0", Some(Format::Q5_0)),
    (7, "Q5_1", Some(Format::Q5_1)),
    (8, "Q8_0", Some(Format::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Format::Q2K)),
    (11, "Q3_K", Some(Format::Q3K)),
    (12, "Q4_K", Some(Format::Q4K)),
    (13, "Q5_K", Some(Format::Q5K)),
    (14, "Q6_K", Some(Format::Q6K)),
    (15, "Q8_K", Some(Format::Q8K)),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", Some(Format::Iq4Nl)),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Format::Bf16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", Some(Format::Mxfp4)),
];

/// Names of the types that tensors may have, in the order of their numbers.
pub fn types() -> Vec<&'static str> {
    let read = |(_, name, format): &(u32, &'static str, Option<Format>)| format.and(Some(*name));
    TYPES.iter().filter_map(read).collect()
}

/// The format of a ggml type, or why there is none.
fn format_of(kind: u32) -> Result<Format, String> {
    let found = TYPES.iter().find(|(id, ..)| *id == kind);
    let name = match found {
        Some((_, _, Some(format))) => return Ok(*format),
        Some((_, name, None)) => (*name).to_owned(),
        None => format!("number {kind}"),
    };
    Err(format!(
        "type {name} is not supported; supported are {}",
        types().join(", ")
    ))
}

#[cfg(test)]
mod tests;
