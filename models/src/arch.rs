//! The architectures, one file each: configuration, names of tensors, the order of the layers. What decoders share is in
//! [`decoder`], what encoders have on top in [`tops`].
//!
//! Each file has a `build` that [`crate::registry`] names in one line.

pub(crate) mod bert;
mod decoder;
pub(crate) mod distilbert;
pub(crate) mod gemma2;
pub(crate) mod gemma3;
pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod mixtral;
pub(crate) mod modernbert;
pub(crate) mod phi3;
pub(crate) mod qwen2;
pub(crate) mod qwen3;
pub(crate) mod qwen3_moe;
pub(crate) mod roberta;
mod tops;

#[cfg(test)]
mod bert_oracle;
