//! compressed-tensors (the format of llm-compressor and vLLM): groups of modules, each with a strategy that says what shares a
//! scale, and a format that says how codes are stored.
//!
//! `pack-quantized`: integers plus half of their range, 32 / bits in each int32 of `weight_packed`, inputs in order; zero
//! points the same along outputs. `int-quantized`, `float-quantized`, `naive-quantized`: a byte each in `weight`.
//! Activations that the checkpoint wants quantized, on the fly or with scales of its own, are not: they stay as exact as the
//! kernels have them.

use super::fp8::{E4M3, block_size, blocks, groups_of};
use super::{
    Fetch, Matrix, Parts, SCALES, Shape, code_of, expect_empty, expect_fields, field, is_single,
    scale_of, unquantized_activations,
};
use crate::LoadError;
use crate::config::Json;
use crate::weights::{Entry, Weights};
use fancy_regex::Regex;
use koma_kernels::{GroupedRow, Groups};
use serde_json::{Value, json};

/// What has one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    Tensor,
    /// A row.
    Channel,
    /// So many columns of a row.
    Group(usize),
    /// So many rows and columns.
    Block(Shape),
}

/// How codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    /// So many bits each, in int32.
    Packed(usize),
    /// Integers of so many bits, a byte each.
    Bytes(usize),
    Float,
}

/// Which modules are meant.
#[derive(Debug)]
enum Target {
    /// All linear layers.
    Linear,
    Name(String),
    Pattern(Box<Regex>),
}

/// Modules that are quantized alike.
#[derive(Debug)]
struct Group {
    /// Where it stands, for messages.
    field: String,
    targets: Vec<Target>,
    strategy: Strategy,
    storage: Storage,
    symmetric: bool,
    /// Whether columns were put into groups in another order.
    reordered: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Compressed {
    groups: Vec<Group>,
    ignore: Vec<Target>,
}

impl Compressed {
    pub(super) fn read(json: &Json) -> Result<Self, LoadError> {
        const FIELDS: [&str; 12] = [
            "quant_method",
            "config_groups",
            "format",
            "global_compression_ratio",
            "ignore",
            "kv_cache_scheme",
            "moe_sparsity_config",
            "quantization_status",
            "run_compressed",
            "sparsity_config",
            "transform_config",
            "version",
        ];
        expect_fields(json, &[&FIELDS])?;
        json.expect_only("kv_cache_scheme", &Value::Null)?;
        for field in ["transform_config", "moe_sparsity_config"] {
            expect_empty(json, field)?;
        }
        if let Some(sparsity) = json.find_inner("sparsity_config")? {
            sparsity.expect_only("format", &json!("dense"))?;
        }
        let format = json.find_str("format")?;
        let mut groups = Vec::new();
        if let Some(inner) = json.find_inner("config_groups")? {
            for name in inner.fields() {
                let Some(group) = inner.find_inner(name)? else {
                    continue;
                };
                groups.extend(read_group(&group, name, format)?);
            }
        }
        if groups.is_empty() {
            return Err(json.error("config_groups", "has no group of weights"));
        }
        Ok(Self {
            groups,
            ignore: read_targets(json, "ignore")?,
        })
    }

    /// The group of a module: one that names it before one that describes it, before one of all linear layers.
    fn group(&self, weights: &Weights, stem: &str) -> Result<&Group, LoadError> {
        let wrong = |reason: &str| weights.tensor_error(stem, reason.to_owned());
        if self.ignore.iter().any(|t| t.rank(stem).is_some()) {
            return Err(wrong(
                "is quantized, but `ignore` of quantization_config has it",
            ));
        }
        let rank = |group: &&Group| group.targets.iter().filter_map(|t| t.rank(stem)).min();
        let found = self
            .groups
            .iter()
            .filter(|g| rank(g).is_some())
            .min_by_key(rank);
        found.ok_or_else(|| {
            wrong("is quantized, but no group of `config_groups` of quantization_config targets it")
        })
    }

    pub(super) fn parts<'a>(
        &self,
        weights: &'a Weights,
        stem: &str,
        shape: Shape,
    ) -> Result<Option<Parts<'a>>, LoadError> {
        let packed = weights.part(&format!("{stem}.weight_packed")).is_some();
        let plain = weights.part(&format!("{stem}.weight"));
        let bytes = plain.is_some_and(|(_, e)| ["I8", E4M3].contains(&e.stored.name()));
        if !packed && !bytes {
            return Ok(None);
        }
        self.group(weights, stem)?
            .parts(weights, stem, shape)
            .map(Some)
    }

    pub(super) fn matrix<'a>(
        &'a self,
        weights: &'a Weights,
        parts: &Parts<'a>,
        shape: Shape,
    ) -> Result<Matrix<'a>, LoadError> {
        let stem = parts.codes.0.rsplit_once('.').map_or("", |(stem, _)| stem);
        self.group(weights, stem)?.matrix(weights, parts, shape)
    }
}

impl Target {
    /// How closely it means the module `stem`, the closest first; none if it does not.
    fn rank(&self, stem: &str) -> Option<usize> {
        match self {
            Self::Name(name) => (name == stem).then_some(0),
            // A pattern that gives up (it was tried too often) matches nothing; an unmatched module is an error.
            Self::Pattern(regex) => regex.is_match(stem).unwrap_or(false).then_some(1),
            Self::Linear => Some(2),
        }
    }
}

impl Group {
    /// Rows and columns that share a scale.
    fn block(&self, (rows, cols): Shape) -> Shape {
        match self.strategy {
            Strategy::Tensor => (rows.max(1), cols),
            Strategy::Channel => (1, cols),
            Strategy::Group(size) => (1, size.min(cols)),
            Strategy::Block((height, width)) => (height, width.min(cols)),
        }
    }

    fn parts<'a>(
        &self,
        weights: &'a Weights,
        stem: &str,
        (rows, cols): Shape,
    ) -> Result<Parts<'a>, LoadError> {
        let name = |part: &str| format!("{stem}.{part}");
        let (height, width) = self.block((rows, cols));
        let grid = [rows.div_ceil(height), cols.div_ceil(width)];
        // A single scale is written as a vector, as may be one for each row.
        let scale = name("weight_scale");
        let given = weights.part(&scale).map(|(_, e)| e.shape.as_slice());
        let flat = match self.strategy {
            Strategy::Tensor => given.filter(|s| is_single(s)),
            _ => given.filter(|s| *s == [rows] && grid == [rows, 1]),
        };
        let expected = flat.unwrap_or(&grid);
        let scales = weights.expect_part(&scale, &SCALES, expected)?;
        let mut rest = vec![scales];
        let codes = match self.storage {
            Storage::Packed(bits) => {
                rest.push(weights.expect_part(&name("weight_shape"), &["I64"], &[2])?);
                let shape = [rows, (cols * bits).div_ceil(32)];
                weights.expect_part(&name("weight_packed"), &["I32"], &shape)?
            }
            Storage::Bytes(_) => weights.expect_part(&name("weight"), &["I8"], &[rows, cols])?,
            Storage::Float => weights.expect_part(&name("weight"), &[E4M3], &[rows, cols])?,
        };
        let zeros = name("weight_zero_point");
        if !self.symmetric {
            rest.push(match self.storage {
                Storage::Packed(bits) if self.strategy != Strategy::Tensor => {
                    let shape = [(rows * bits).div_ceil(32), grid[1]];
                    weights.expect_part(&zeros, &["I32"], &shape)?
                }
                _ => weights.expect_part(&zeros, &["I8"], expected)?,
            });
        } else if let Some((_, entry)) = weights.part(&zeros) {
            // Older versions keep the zeros of symmetric weights.
            rest.push(weights.expect_part(&zeros, &["I8", "I32", E4M3], &entry.shape.clone())?);
        }
        rest.extend(weights.of_activations(stem));
        let order = name("weight_g_idx");
        if self.reordered || weights.part(&order).is_some() {
            rest.push(weights.expect_part(&order, &["I32"], &[cols])?);
        }
        let groups = match self.storage {
            Storage::Float => groups_of(scales.1, width),
            Storage::Packed(bits) | Storage::Bytes(bits) => Groups {
                code: code_of(bits),
                scale: scale_of(scales.1),
                zeros: !self.symmetric,
                cols: width,
            },
        };
        Ok(Parts {
            groups,
            codes,
            rest,
        })
    }

    fn matrix<'a>(
        &self,
        weights: &'a Weights,
        parts: &Parts<'a>,
        (rows, cols): Shape,
    ) -> Result<Matrix<'a>, LoadError> {
        let named = |end: &str| parts.rest.iter().find(|(n, _)| n.ends_with(end)).copied();
        let scales = weights.scales(parts.rest[0])?;
        let height = self.block((rows, cols)).0;
        let zeros = match named("weight_zero_point") {
            Some(part) => self.zeros(weights, part, (rows, parts.groups.count(cols)))?,
            None => Vec::new(),
        };
        let order = match named("weight_g_idx") {
            Some(part) => weights.column_order(part, parts.groups.cols)?,
            None => None,
        };
        if let Some(part) = named("weight_shape") {
            check_shape(weights, part, (rows, cols))?;
        }
        let (name, entry) = parts.codes;
        let bits = match self.storage {
            // FP8 codes have no zero points, and nobody reorders their columns.
            Storage::Float => return blocks(weights, parts, scales, (height, cols)),
            Storage::Packed(bits) | Storage::Bytes(bits) => bits,
        };
        let bytes = weights.part_bytes(entry)?;
        let packed = matches!(self.storage, Storage::Packed(_));
        if !packed && bits == 4 {
            let small = |b: &u8| (-8..8).contains(&(*b as i8));
            if let Some(at) = bytes.iter().position(|b| !small(b)) {
                let reason = format!(
                    "row {}, column {} is {}, which are no 4 bits",
                    at / cols,
                    at % cols,
                    bytes[at] as i8
                );
                return Err(weights.tensor_error(name, reason));
            }
        }
        let (per, count) = (32 / bits, parts.groups.count(cols));
        let (stride, half) = (cols.div_ceil(per), 1u32 << (bits - 1));
        let columns = order.clone();
        let fetch: Fetch<'a> = Box::new(move |row: usize, to: &mut GroupedRow<'_>| {
            for (i, code) in to.codes.iter_mut().enumerate() {
                let col = columns.as_ref().map_or(i, |c| c[i] as usize);
                *code = if packed {
                    let b = &bytes[4 * (row * stride + col / per)..];
                    let word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    field(word, bits, col % per).wrapping_sub(half) as u8
                } else {
                    bytes[row * cols + col]
                };
            }
            let first = row / height * count;
            to.scales.copy_from_slice(&scales[first..first + count]);
            if !zeros.is_empty() {
                to.zeros.copy_from_slice(&zeros[first..first + count]);
            }
        });
        Ok(Matrix { fetch, order })
    }

    /// Zero points, as many and in the order of the scales; none if the weights are symmetric, whose zero points must be 0.
    fn zeros(
        &self,
        weights: &Weights,
        (name, entry): (&str, &Entry),
        (rows, count): (usize, usize),
    ) -> Result<Vec<i16>, LoadError> {
        let bits = match self.storage {
            Storage::Packed(bits) | Storage::Bytes(bits) => bits,
            Storage::Float => 8,
        };
        let zeros: Vec<i16> = if entry.stored.name() == "I32" {
            let (words, per, half) = (weights.words(entry)?, 32 / bits, 1i16 << (bits - 1));
            if words.len() < rows.div_ceil(per) * count {
                let reason = format!("has too few zero points for {rows} x {count} groups");
                return Err(weights.tensor_error(name, reason));
            }
            let all = (0..rows).flat_map(|row| (0..count).map(move |g| (row, g)));
            all.map(|(row, g)| field(words[row / per * count + g], bits, row % per) as i16 - half)
                .collect()
        } else {
            let bytes = weights.part_bytes(entry)?;
            bytes.iter().map(|b| i16::from(*b as i8)).collect()
        };
        let limit = 1i16 << (bits - 1);
        if let Some(zero) = zeros.iter().find(|z| !(-limit..limit).contains(*z)) {
            let reason = format!("has the zero point {zero}, which has more than {bits} bits");
            return Err(weights.tensor_error(name, reason));
        }
        if !self.symmetric {
            return Ok(zeros);
        }
        match zeros.iter().find(|z| **z != 0) {
            Some(zero) => {
                let reason = format!(
                    "has the zero point {zero}, but `{}weights.symmetric` is true",
                    self.field
                );
                Err(weights.tensor_error(name, reason))
            }
            None => Ok(Vec::new()),
        }
    }
}

/// Checks the shape that a packed matrix says it has.
fn check_shape(
    weights: &Weights,
    (name, entry): (&str, &Entry),
    (rows, cols): Shape,
) -> Result<(), LoadError> {
    let bytes = weights.part_bytes(entry)?;
    let numbers = bytes
        .chunks_exact(8)
        .map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
    let said: Vec<u64> = numbers.collect();
    if said == [rows as u64, cols as u64] {
        return Ok(());
    }
    let reason = format!("says that the weight is {said:?}, expected [{rows}, {cols}]");
    Err(weights.tensor_error(name, reason))
}

/// One of `config_groups`; none if it does not quantize weights.
fn read_group(json: &Json, name: &str, format: Option<&str>) -> Result<Option<Group>, LoadError> {
    const FIELDS: [&str; 5] = [
        "targets",
        "weights",
        "input_activations",
        "output_activations",
        "format",
    ];
    expect_fields(json, &[&FIELDS])?;
    json.expect_only("output_activations", &Value::Null)?;
    if json.find_inner("input_activations")?.is_some() {
        unquantized_activations(name);
    }
    let Some(weights) = json.find_inner("weights")? else {
        return Ok(None);
    };
    let own = json.find_str("format")?;
    let storage = read_storage(json, &weights, own.or(format))?;
    let reordered = match weights.value("actorder") {
        None => false,
        Some(Value::Bool(reordered)) => *reordered,
        Some(Value::String(name)) => match name.as_str() {
            "group" | "dynamic" => true,
            "weight" | "static" => false,
            _ => return Err(weights.error("actorder", format!("`{name}` is not supported"))),
        },
        Some(_) => return Err(weights.error("actorder", "expected a string")),
    };
    Ok(Some(Group {
        field: format!("config_groups.{name}."),
        targets: read_targets(json, "targets")?,
        strategy: read_strategy(&weights, storage)?,
        storage,
        symmetric: weights.bool_or("symmetric", true)?,
        reordered,
    }))
}

fn read_storage(group: &Json, weights: &Json, format: Option<&str>) -> Result<Storage, LoadError> {
    const FIELDS: [&str; 12] = [
        "num_bits",
        "type",
        "strategy",
        "group_size",
        "block_structure",
        "symmetric",
        "dynamic",
        "actorder",
        "observer",
        "observer_kwargs",
        "scale_dtype",
        "zp_dtype",
    ];
    expect_fields(weights, &[&FIELDS])?;
    weights.expect_only("dynamic", &json!(false))?;
    let bits = weights.find_size("num_bits", 1..=16)?.unwrap_or(8);
    let float = match weights.find_str("type")?.unwrap_or("int") {
        "int" => false,
        "float" => true,
        other => return Err(weights.error("type", format!("`{other}` is not supported"))),
    };
    if !(bits == 8 || bits == 4 && !float) {
        let reason = format!("{bits} is not supported, only 8, and 4 for integers");
        return Err(weights.error("num_bits", reason));
    }
    match (format.unwrap_or("dense"), float) {
        ("pack-quantized", false) => Ok(Storage::Packed(bits)),
        ("int-quantized" | "naive-quantized", false) => Ok(Storage::Bytes(bits)),
        ("float-quantized" | "naive-quantized", true) => {
            weights.expect_only("symmetric", &json!(true))?;
            weights.expect_only("actorder", &Value::Null)?;
            Ok(Storage::Float)
        }
        (other, _) => {
            let reason = format!(
                "`{other}` is not supported here, only pack-quantized and int-quantized for integers, float-quantized for floats"
            );
            Err(group.error("format", reason))
        }
    }
}

fn read_strategy(weights: &Json, storage: Storage) -> Result<Strategy, LoadError> {
    let group = match weights.value("group_size") {
        None => None,
        Some(v) if v.as_i64() == Some(-1) => Some(None),
        Some(_) => Some(weights.find_size("group_size", 1..=1 << 20)?),
    };
    let by_default = match group {
        None => "tensor",
        Some(None) => "channel",
        Some(Some(_)) => "group",
    };
    match (weights.find_str("strategy")?.unwrap_or(by_default), group) {
        ("tensor", None) => Ok(Strategy::Tensor),
        ("channel", None | Some(None)) => Ok(Strategy::Channel),
        ("group", Some(Some(size))) if size % 32 == 0 => Ok(Strategy::Group(size)),
        ("group" | "tensor" | "channel", _) => Err(weights.error(
            "group_size",
            "does not fit `strategy`, or is no multiple of 32",
        )),
        ("block", _) if storage == Storage::Float => {
            let block = block_size(weights, "block_structure")?;
            let missing = || weights.error("block_structure", "is missing");
            block.map(Strategy::Block).ok_or_else(missing)
        }
        (other, _) => {
            let reason = format!(
                "`{other}` is not supported; supported are tensor, channel, group, and block for floats"
            );
            Err(weights.error("strategy", reason))
        }
    }
}

/// Names of modules; after `re:`, patterns (from the start of a name) in Python's syntax.
fn read_targets(json: &Json, field: &str) -> Result<Vec<Target>, LoadError> {
    let names = json.find_array(field)?.unwrap_or_default();
    let target = |value: &Value| {
        let name = value
            .as_str()
            .ok_or_else(|| json.error(field, "expected a list of names"))?;
        let Some(pattern) = name.strip_prefix("re:") else {
            return Ok(match name {
                "Linear" => Target::Linear,
                _ => Target::Name(name.to_owned()),
            });
        };
        match Regex::new(&format!("^(?:{pattern})")) {
            Ok(regex) => Ok(Target::Pattern(Box::new(regex))),
            Err(error) => Err(json.error(field, format!("`{name}`: {error}"))),
        }
    };
    names.iter().map(target).collect()
}
