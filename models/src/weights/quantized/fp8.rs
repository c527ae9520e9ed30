//! FP8 as transformers and vLLM save it (`quant_method` "fp8"): e4m3 codes in `weight`, and what they are multiplied with in
//! `weight_scale_inv` (one for each block of the matrix) or `weight_scale` (one for all of it).
//!
//! Activations are not quantized, whether their scales would be made on the fly or are in the files (`input_scale`,
//! `activation_scale`): they stay as exact as the kernels have them.

use super::{
    Fetch, Matrix, Parts, SCALES, Shape, expect_fields, expect_numbers, is_single, scale_of,
    unquantized_activations,
};
use crate::LoadError;
use crate::config::Json;
use crate::weights::{Entry, Weights};
use koma_kernels::{Code, GroupedRow, Groups};
use serde_json::{Value, json};

/// The name of the type in safetensors.
pub(super) const E4M3: &str = "F8_E4M3";

/// See the module.
#[derive(Debug)]
pub(crate) struct Fp8 {
    /// Rows and columns of a block, if the configuration says so.
    block: Option<Shape>,
}

impl Fp8 {
    pub(super) fn read(json: &Json) -> Result<Self, LoadError> {
        const FIELDS: [&str; 11] = [
            "quant_method",
            "activation_scheme",
            "fmt",
            "scale_fmt",
            "weight_block_size",
            "modules_to_not_convert",
            "modules_to_convert",
            "ignored_layers",
            "dequantize",
            "kv_cache_scheme",
            "expert_dtype",
        ];
        expect_fields(json, &[&FIELDS])?;
        for (field, only) in [
            ("fmt", json!("e4m3")),
            ("kv_cache_scheme", Value::Null),
            ("expert_dtype", json!("fp8")),
        ] {
            json.expect_only(field, &only)?;
        }
        match json.find_str("activation_scheme")? {
            None | Some("dynamic") => {}
            Some("static") => unquantized_activations("quantization_config"),
            Some(other) => {
                let reason = format!("`{other}` is not supported, only dynamic and static");
                return Err(json.error("activation_scheme", reason));
            }
        }
        // A power of two in a tensor of floats is a float.
        if let Some(format) = json.find_str("scale_fmt")?
            && !["float", "ue8m0"].contains(&format)
        {
            return Err(json.error("scale_fmt", format!("`{format}` is not supported")));
        }
        Ok(Self {
            block: block_size(json, "weight_block_size")?,
        })
    }

    pub(super) fn parts<'a>(
        &self,
        weights: &'a Weights,
        stem: &str,
        (rows, cols): Shape,
    ) -> Result<Option<Parts<'a>>, LoadError> {
        let name = format!("{stem}.weight");
        let quantized = weights.part(&name).filter(|(_, e)| e.stored.name() == E4M3);
        if quantized.is_none() {
            return Ok(None);
        }
        let codes = weights.expect_part(&name, &[E4M3], &[rows, cols])?;
        let older = format!("{stem}.weight_scale");
        let scales = match weights.part(&older) {
            Some(_) => older,
            None => format!("{stem}.weight_scale_inv"),
        };
        let shape = weights.part(&scales).map(|(_, e)| e.shape.clone());
        let single = shape.clone().filter(|s| is_single(s));
        let (height, width) = match (self.block, single) {
            (Some(block), _) => block,
            (None, Some(_)) => (rows, cols),
            (None, None) => (128, 128),
        };
        let grid = vec![rows.div_ceil(height), cols.div_ceil(width)];
        // A single scale is written as a scalar, a vector or a matrix.
        let expected = match shape {
            Some(shape) if grid == [1, 1] && is_single(&shape) => shape,
            _ => grid,
        };
        let scales = weights.expect_part(&scales, &SCALES, &expected)?;
        let mut rest = vec![scales];
        rest.extend(weights.of_activations(stem));
        Ok(Some(Parts {
            groups: groups_of(scales.1, width.min(cols)),
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
        let count = parts.groups.count(cols);
        let scales = weights.scales(parts.rest[0])?;
        let single = scales.len() == count;
        let height = match self.block {
            _ if single => rows.max(1),
            Some((height, _)) => height,
            None => 128,
        };
        blocks(weights, parts, scales, (height, cols))
    }
}

/// Codes whose scales are `[rows / height, groups]`.
pub(super) fn blocks<'a>(
    weights: &'a Weights,
    parts: &Parts<'a>,
    scales: Vec<f32>,
    (height, cols): (usize, usize),
) -> Result<Matrix<'a>, LoadError> {
    let (name, entry) = parts.codes;
    let codes = weights.part_bytes(entry)?;
    expect_numbers(weights, name, &codes, cols)?;
    let count = parts.groups.count(cols);
    let fetch: Fetch<'a> = Box::new(move |row: usize, to: &mut GroupedRow<'_>| {
        to.codes
            .copy_from_slice(&codes[row * cols..(row + 1) * cols]);
        let first = row / height * count;
        to.scales.copy_from_slice(&scales[first..first + count]);
    });
    Ok(Matrix { fetch, order: None })
}

/// Groups of `cols` columns of e4m3.
pub(super) fn groups_of(scales: &Entry, cols: usize) -> Groups {
    Groups {
        code: Code::Fp8,
        scale: scale_of(scales),
        zeros: false,
        cols,
    }
}

/// Rows and columns of a block, if there.
pub(super) fn block_size(json: &Json, field: &str) -> Result<Option<Shape>, LoadError> {
    let Some(sizes) = json.find_array(field)? else {
        return Ok(None);
    };
    let size = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| *n > 0);
    match (
        sizes.len(),
        sizes.first().and_then(size),
        sizes.get(1).and_then(size),
    ) {
        (2, Some(rows), Some(cols)) if cols % 32 == 0 => Ok(Some((rows, cols))),
        _ => Err(json.error(
            field,
            "is not supported: expected two whole numbers, the second a multiple of 32",
        )),
    }
}
