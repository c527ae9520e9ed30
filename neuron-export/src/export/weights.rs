//! The values of weights as bytes, and the head of a safetensors file of them.

use super::WriteError;
use crate::graph::Elem;
use crate::proto::Values;
use half::bf16;
use koma_models::Tensors;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Writes the values of a weight, as many bytes as [`Values::bytes`] says.
pub(super) fn write(
    tensors: &Tensors,
    values: &Values,
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    let mut bytes = Vec::new();
    for piece in tensors.values(&values.name, &values.ty.fixed())? {
        bytes.clear();
        let piece = piece?;
        match values.ty.elem {
            // To the nearest, ties to even, as a conversion in the graph would do it.
            Elem::Bf16 => bytes.extend(piece.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            _ => bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes())),
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// What stands before the values in a safetensors file that holds these weights, in this order.
pub(super) fn head(weights: &[Values]) -> Vec<u8> {
    let (mut head, mut at) = (Map::new(), 0);
    for weight in weights {
        let end = at + weight.bytes();
        let dtype = if weight.ty.elem == Elem::Bf16 {
            "BF16"
        } else {
            "F32"
        };
        let entry = json!({
            "dtype": dtype,
            "shape": weight.ty.fixed(),
            "data_offsets": [at, end],
        });
        head.insert(weight.name.clone(), entry);
        at = end;
    }
    let mut text = Value::Object(head).to_string();
    // The values begin at a multiple of eight bytes.
    text.extend(std::iter::repeat_n(
        ' ',
        text.len().next_multiple_of(8) - text.len(),
    ));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}
