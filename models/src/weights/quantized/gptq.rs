//! GPTQ (Frantar et al., arXiv:2210.17323) and AWQ (Lin et al., arXiv:2306.00978) as `AutoGPTQ`, `GPTQModel` and `AutoAWQ`
//! save them: `qweight`, `qzeros` and `scales`, inputs along the rows, several integers in each int32.
//!
//! GPTQ puts 32 / bits successive inputs into a word of `qweight` and successive outputs into a word of `qzeros`; the first
//! version of the format stores zero points minus 1. `g_idx` names the group of each input. AWQ ("gemm") puts 8 successive
//! outputs into a word, those at the even places first.

use super::{
    Fetch, Matrix, Parts, SCALES, Shape, code_of, expect_empty, expect_fields, field, scale_of,
};
use crate::LoadError;
use crate::config::Json;
use crate::weights::Weights;
use koma_kernels::{GroupedRow, Groups};
use serde_json::{Value, json};

/// The place in a word that AWQ gives to each of 8 outputs.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Fields that say how a checkpoint came to be, or how some library should run it.
const NOTES: [&str; 44] = [
    "quant_method",
    "act_group_aware",
    "amp",
    "autoround_version",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "do_fuse",
    "enable_minmax_tuning",
    "enable_norm_bias_tuning",
    "enable_quanted_input",
    "exllama_config",
    "fuse_max_seq_len",
    "gradient_accumulate_steps",
    "iters",
    "low_gpu_mem_usage",
    "lr",
    "max_input_length",
    "meta",
    "minmax_lr",
    "mse",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "modules_to_not_convert",
    "nsamples",
    "offload_to_disk",
    "pad_token_id",
    "quantizer",
    "seqlen",
    "static_groups",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
    "disable_exllama",
    "lm_head",
];

/// Which of the two, and what they differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Whether zero points are stored minus 1, and whether all are half of the range.
    Gptq {
        minus_one: bool,
        symmetric: bool,
    },
    Awq,
}

/// Integers packed into words.
#[derive(Debug)]
pub(crate) struct Packed {
    kind: Kind,
    /// Of an integer: 4 or 8.
    bits: usize,
    /// Inputs of a group; none: all of them.
    group: Option<usize>,
    /// Whether `g_idx` must be there.
    reordered: bool,
}

impl Packed {
    /// Reads the fields of GPTQ.
    pub(super) fn gptq(json: &Json) -> Result<Self, LoadError> {
        const OWN: [&str; 13] = [
            "bits",
            "group_size",
            "desc_act",
            "sym",
            "checkpoint_format",
            "format",
            "is_marlin_format",
            "dynamic",
            "adapter",
            "pack_dtype",
            "data_type",
            "scale_dtype",
            "rotation",
        ];
        expect_fields(json, &[&OWN, &NOTES])?;
        expect_empty(json, "dynamic")?;
        for (field, only) in [
            ("is_marlin_format", json!(false)),
            ("pack_dtype", json!("int32")),
            ("data_type", json!("int")),
            ("adapter", Value::Null),
            ("rotation", Value::Null),
        ] {
            json.expect_only(field, &only)?;
        }
        let name = if json.value("checkpoint_format").is_some() {
            "checkpoint_format"
        } else {
            "format"
        };
        let minus_one = match json.find_str(name)?.unwrap_or("gptq") {
            "gptq" => true,
            "gptq_v2" => false,
            other => {
                let reason = format!("`{other}` is not supported, only gptq and gptq_v2");
                return Err(json.error(name, reason));
            }
        };
        let bits = json.size("bits", 1..=32)?;
        if bits != 4 && bits != 8 {
            let reason = format!("{bits} is not supported, only 4 and 8");
            return Err(json.error("bits", reason));
        }
        Ok(Self {
            kind: Kind::Gptq {
                minus_one,
                symmetric: json.bool_or("sym", true)?,
            },
            bits,
            group: group_size(json)?,
            reordered: json.bool_or("desc_act", false)?,
        })
    }

    /// Reads the fields of AWQ.
    pub(super) fn awq(json: &Json) -> Result<Self, LoadError> {
        const OWN: [&str; 10] = [
            "bits",
            "group_size",
            "zero_point",
            "version",
            "format",
            "w_bit",
            "q_group_size",
            "desc_act",
            "sym",
            "checkpoint_format",
        ];
        expect_fields(json, &[&OWN, &NOTES])?;
        for (field, only) in [
            ("bits", json!(4)),
            ("w_bit", json!(4)),
            ("zero_point", json!(true)),
            ("desc_act", json!(false)),
        ] {
            json.expect_only(field, &only)?;
        }
        let field = if json.value("version").is_some() {
            "version"
        } else {
            "format"
        };
        let version = json.find_str(field)?.unwrap_or("gemm");
        if !version.eq_ignore_ascii_case("gemm") {
            let reason = format!("`{version}` is not supported, only gemm");
            return Err(json.error(field, reason));
        }
        Ok(Self {
            kind: Kind::Awq,
            bits: 4,
            group: group_size(json)?,
            reordered: false,
        })
    }

    /// Integers of a word.
    fn per_word(&self) -> usize {
        32 / self.bits
    }

    pub(super) fn parts<'a>(
        &self,
        weights: &'a Weights,
        stem: &str,
        (rows, cols): Shape,
    ) -> Result<Option<Parts<'a>>, LoadError> {
        let name = |part: &str| format!("{stem}.{part}");
        if weights.part(&name("qweight")).is_none() {
            return Ok(None);
        }
        let per = self.per_word();
        let group = self.group.unwrap_or(cols).min(cols);
        let count = cols.div_ceil(group);
        let shape = match self.kind {
            Kind::Gptq { .. } => [cols.div_ceil(per), rows],
            Kind::Awq => [cols, rows.div_ceil(per)],
        };
        let codes = weights.expect_part(&name("qweight"), &["I32"], &shape)?;
        let scales = weights.expect_part(&name("scales"), &SCALES, &[count, rows])?;
        let zeros = [count, rows.div_ceil(per)];
        let zeros = weights.expect_part(&name("qzeros"), &["I32"], &zeros)?;
        let mut rest = vec![scales, zeros];
        let order = name("g_idx");
        if self.reordered || weights.part(&order).is_some() {
            rest.push(weights.expect_part(&order, &["I32"], &[cols])?);
        }
        let symmetric = matches!(self.kind, Kind::Gptq { symmetric, .. } if symmetric);
        let groups = Groups {
            code: code_of(self.bits),
            scale: scale_of(scales.1),
            zeros: !symmetric,
            cols: group,
        };
        Ok(Some(Parts {
            groups,
            codes,
            rest,
        }))
    }

    pub(super) fn matrix<'a>(
        &'a self,
        weights: &'a Weights,
        parts: &Parts<'a>,
        (rows, cols): Shape,
    ) -> Result<Matrix<'a>, LoadError> {
        let scales = weights.scales(parts.rest[0])?;
        let zeros = self.zeros(weights, parts, (rows, cols))?;
        let order = match parts.rest.get(2) {
            Some(groups) => weights.column_order(*groups, parts.groups.cols)?,
            None => None,
        };
        let bytes = weights.part_bytes(parts.codes.1)?;
        let word = move |i: usize| {
            let b = &bytes[4 * i..4 * i + 4];
            u32::from_le_bytes([b[0], b[1], b[2], b[3]])
        };
        let (bits, per) = (self.bits, self.per_word());
        let half = 1u32 << (bits - 1);
        let columns = order.clone();
        let awq = self.kind == Kind::Awq;
        let fetch: Fetch<'a> = Box::new(move |row: usize, to: &mut GroupedRow<'_>| {
            for (i, code) in to.codes.iter_mut().enumerate() {
                let col = columns.as_ref().map_or(i, |c| c[i] as usize);
                let value = if awq {
                    let word = word(col * rows.div_ceil(per) + row / per);
                    field(word, bits, AWQ_PLACES[row % per])
                } else {
                    field(word(col / per * rows + row), bits, col % per)
                };
                *code = value.wrapping_sub(half) as u8;
            }
            for g in 0..to.scales.len() {
                to.scales[g] = scales[g * rows + row];
                to.zeros[g] = zeros[g * rows + row];
            }
        });
        Ok(Matrix { fetch, order })
    }

    /// Zero points beside the middle of the range, `[groups, rows]`.
    fn zeros(
        &self,
        weights: &Weights,
        parts: &Parts<'_>,
        (rows, cols): Shape,
    ) -> Result<Vec<i16>, LoadError> {
        let (name, entry) = parts.rest[1];
        let words = weights.words(entry)?;
        let per = self.per_word();
        let half = 1i16 << (self.bits - 1);
        let mut zeros = Vec::with_capacity(parts.groups.count(cols) * rows);
        for (group, words) in words.chunks_exact(rows.div_ceil(per).max(1)).enumerate() {
            for row in 0..rows {
                let place = match self.kind {
                    Kind::Gptq { .. } => row % per,
                    Kind::Awq => AWQ_PLACES[row % per],
                };
                let stored = field(words[row / per], self.bits, place) as i16;
                let wrong = |why: &str| {
                    let reason = format!(
                        "the zero point of output {row}, group {group} is stored as {stored}, {why}"
                    );
                    Err(weights.tensor_error(name, reason))
                };
                let zero = match self.kind {
                    Kind::Gptq {
                        minus_one: true, ..
                    } if stored == 2 * half - 1 => {
                        return wrong(
                            "one less than what the range ends with: readers of GPTQ do not agree on what that means",
                        );
                    }
                    Kind::Gptq {
                        minus_one: true, ..
                    } => stored + 1,
                    _ => stored,
                };
                if !parts.groups.zeros && zero != half {
                    return wrong("but `sym` of quantization_config is true");
                }
                zeros.push(zero - half);
            }
        }
        Ok(zeros)
    }
}

/// Inputs of a group; none for -1: all of them.
fn group_size(json: &Json) -> Result<Option<usize>, LoadError> {
    let field = if json.value("group_size").is_some() {
        "group_size"
    } else {
        "q_group_size"
    };
    match json.value(field).and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        None if json.value(field).is_none() => Ok(Some(128)),
        Some(size) if size > 0 && size % 32 == 0 => Ok(Some(size as usize)),
        _ => Err(json.error(field, "is not supported: expected -1 or a multiple of 32")),
    }
}
