//! What goes into a module and comes out of it, and how it computes.

use crate::files::FileRef;
use serde::{Deserialize, Serialize};

/// What an input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputName {
    /// Token ids; [`super::TokenizerInfo::pad_id`] behind a text's end.
    InputIds,
    /// 1 for a token, 0 behind a text's end. A row of zeros gives a finite row that means nothing.
    AttentionMask,
    /// Segment of each token: 1 for the second text of a pair. Only where the architecture reads it.
    TokenTypeIds,
}

impl InputName {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::InputIds => "input_ids",
            Self::AttentionMask => "attention_mask",
            Self::TokenTypeIds => "token_type_ids",
        }
    }
}

/// An input, `[batch, seq]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it means.
    pub name: InputName,
    /// Number of the HLO parameter.
    pub param: usize,
    /// Always [`Dtype::S32`].
    pub dtype: Dtype,
}

/// An output, `[batch, width]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// `logits`, or `embedding` for [`super::Task::Embedding`].
    pub name: String,
    /// Place in the result tuple.
    pub index: usize,
    /// Always [`Dtype::F32`].
    pub dtype: Dtype,
    /// Values of a row.
    pub width: usize,
}

/// Type of the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bit integer.
    S32,
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// How the graph computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numerics {
    /// Precision of the operands of matrix products; all else is f32.
    pub compute: Precision,
    /// Form of GELU, or the activation in its place.
    pub gelu: Gelu,
    /// What stands for the score of a token under a mask of 0.
    pub mask_value: f64,
    /// Where the weights are.
    pub weights: Weights,
    /// With [`Weights::Separate`]: names of the weights, in the order of their parameters, which come behind the inputs'.
    pub param_order: Vec<String>,
    /// With [`Weights::Separate`]: the safetensors file in the artifact that holds exactly these tensors, with the types and shapes
    /// that the parameters have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_file: Option<FileRef>,
}

/// Precision of the operands of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    F32,
    /// bf16.
    Bf16,
}

/// Form of the activation between the two products of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gelu {
    /// The exact form, its erf by formula 7.1.26 of Abramowitz and Stegun (error at most 1.5e-7).
    #[serde(rename = "erf-as-7.1.26")]
    Erf,
    /// The tanh form, where config.json names it.
    Tanh,
    /// No GELU: max(x, 0).
    Relu,
}

/// Where the weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// In each HLO module.
    Inline,
    /// In one file; parameters of the modules, so that a device needs one copy for all buckets.
    Separate,
}
