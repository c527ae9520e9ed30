//! The text model of Gemma 3 (arXiv:2503.19786): Gemma 2 with norms on query and key heads instead of the cap on attention,
//! five layers with a window to each without, and another rotation for each of the two; from a Hugging Face folder or a GGUF
//! file.

use super::decoder::folder::{Defaults, Rotation, layer_types, positive_or_null};
use super::decoder::keys::Keys;
use super::decoder::{self, Spec};
use super::gemma2::{GEMMA, LOGIT_CAP, WINDOW, gemma, largest_scale, shared_fields, window};
use crate::LoadError;
use crate::config::Json;
use crate::config::rope::{Rope, Scaling};
use crate::registry::{Built, Checkpoint, MAX};
use koma_kernels::{HeadLayout, Then};
use serde_json::Value;

/// Those of `Gemma3TextConfig`.
const GEMMA3: Defaults = Defaults {
    positions: 131_072,
    rope: global_rope,
    ..GEMMA
};
/// More of these, which the released files with pictures leave out.
const TEXT: [(&str, usize); 3] = [
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("vocab_size", 262_208),
];
/// What only pictures need, and a head that a tied checkpoint repeats.
const PICTURES: &[&str] = &[
    "*vision_tower.*",
    "*multi_modal_projector.*",
    "*lm_head.weight",
];
/// Keys of GGUF files.
const LOCAL_BASE: &str = "rope.freq_base_swa";
const PATTERN: &str = "attention.sliding_window_pattern";

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let spec = match &checkpoint.gguf {
        Some(meta) => gguf(&Keys::new(meta, &[WINDOW, LOGIT_CAP, LOCAL_BASE, PATTERN])?)?,
        None => folder(&checkpoint.folder()?.1)?,
    };
    let spec = Spec {
        head_norms: true,
        ..spec
    };
    decoder::build(checkpoint, &spec)
}

/// Builds the text model of a Gemma 3 that sees pictures, too; without pictures it is that alone.
pub(crate) fn build_inside(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    let outer = checkpoint.folder()?.1;
    let text = outer.find_inner("text_config")?;
    let text = text.ok_or_else(|| outer.error("text_config", "is missing"))?;
    let mut spec = folder(&text.with_defaults(&TEXT))?;
    spec.head_norms = true;
    let mut built = decoder::build(checkpoint, &spec)?;
    built.ignorable = PICTURES;
    Ok(built)
}

fn folder(json: &Json) -> Result<Spec, LoadError> {
    json.expect_only("attn_logit_softcapping", &Value::Null)?;
    let mut spec = gemma(Spec::folder(json, &GEMMA3)?);
    shared_fields(json, &mut spec)?;
    let types = layer_types(json, spec.layers.len())?;
    let pattern = json.find_size("sliding_window_pattern", 1..=MAX.layers)?;
    let local = local_rope(json)?.table(spec.layout.k_dim, false);
    spec.slide(window(json)?, Some(local), |i| match &types {
        Some(slides) => slides[i],
        None => slides(i, pattern.unwrap_or(6)),
    });
    spec.logit_cap = positive_or_null(json, "final_logit_softcapping", None)?;
    Ok(spec)
}

/// Of every `pattern` layers the last one sees all.
fn slides(layer: usize, pattern: usize) -> bool {
    !(layer + 1).is_multiple_of(pattern)
}

/// The rotation of layers without a window: of `rope_parameters.full_attention`, or in older files beside the other fields.
fn global_rope(json: &Json, layout: &HeadLayout) -> Result<Rotation, LoadError> {
    const BASE: f64 = 1e6;
    let theta = json.positive_or("rope_theta", BASE)?;
    let inner = match rope_of(json, "full_attention")? {
        Some(inner) => Some(inner),
        None => json.find_inner("rope_scaling")?,
    };
    let rope = match inner {
        Some(inner) => Rope::within(&inner, json, theta)?,
        None => Rope {
            theta,
            scaling: Scaling::None,
        },
    };
    Ok((rope.table(layout.k_dim, false), rope.window()))
}

/// The rotation of layers with a window: of `rope_parameters.sliding_attention`, or `rope_local_base_freq`.
fn local_rope(json: &Json) -> Result<Rope, LoadError> {
    const BASE: f64 = 1e4;
    match rope_of(json, "sliding_attention")? {
        Some(inner) => Rope::within(&inner, json, BASE),
        None => Ok(Rope {
            theta: json.positive_or("rope_local_base_freq", BASE)?,
            scaling: Scaling::None,
        }),
    }
}

/// The object of one kind of layers in `rope_parameters`, which must hold nothing else than such.
fn rope_of(json: &Json, kind: &str) -> Result<Option<Json>, LoadError> {
    let Some(all) = json.find_inner("rope_parameters")? else {
        return Ok(None);
    };
    all.only_fields(&["full_attention", "sliding_attention"])?;
    let inner = all.find_inner(kind)?;
    if let Some(inner) = &inner {
        inner.expect_only("partial_rotary_factor", &Value::from(1.0))?;
    }
    Ok(inner)
}

fn gguf(keys: &Keys<'_>) -> Result<Spec, LoadError> {
    let mut spec = gemma(Spec::gguf(keys, false)?);
    spec.activation = Then::GeluTanhMul;
    spec.scale = largest_scale(&spec, 62);
    let window = keys.size(WINDOW, MAX.positions)?;
    let pattern = keys.find_size(PATTERN, MAX.layers)?.unwrap_or(6);
    let local = Rope {
        theta: keys.find_positive(LOCAL_BASE)?.unwrap_or(1e4).into(),
        scaling: Scaling::None,
    };
    let local = local.table(spec.layout.k_dim, false);
    spec.slide(window, Some(local), |i| slides(i, pattern));
    spec.logit_cap = keys.find_positive(LOGIT_CAP)?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::gemma2;
    use super::*;
    use crate::gguf::{GgufMeta, Value as Meta};
    use std::path::Path;

    /// Metadata of a Gemma of `layers` layers: hidden size 64, 4 heads of 32.
    fn meta(arch: &str, layers: i128, more: &[(&str, Meta)]) -> GgufMeta {
        let text = |text: &str| Meta::Str(text.to_owned());
        let sizes = [
            ("embedding_length", 64),
            ("feed_forward_length", 96),
            ("block_count", layers),
            ("context_length", 512),
            ("vocab_size", 100),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 32),
            (WINDOW, 20),
        ];
        let sizes = sizes.into_iter().map(|(key, n)| (key, Meta::Int(n)));
        let eps = ("attention.layer_norm_rms_epsilon", Meta::Float(1e-6));
        let all = sizes.chain([eps]).chain(more.iter().cloned());
        let all = all.map(|(key, value)| (format!("{arch}.{key}"), value));
        let all = all.chain([("general.architecture".to_owned(), text(arch))]);
        GgufMeta::new(Path::new("x.gguf"), all.collect())
    }

    /// The largest models scale queries by hidden size over heads, all others by the size of a head.
    #[test]
    fn the_largest_are_known_by_their_layers() {
        let scale =
            |arch: &str, layers, own: &[&str], read: fn(&Keys<'_>) -> Result<Spec, LoadError>| {
                let meta = meta(arch, layers, &[]);
                read(&Keys::new(&meta, own).unwrap()).unwrap().scale
            };
        let (of_head, of_heads) = (1.0 / 32f32.sqrt(), 1.0 / 16f32.sqrt());
        for (layers, two, three) in [
            (26, of_head, of_head),
            (46, of_heads, of_head),
            (62, of_head, of_heads),
        ] {
            let got = scale("gemma2", layers, &[WINDOW], gemma2::gguf);
            assert!((got - two).abs() < 1e-7, "gemma2 of {layers} layers: {got}");
            let got = scale("gemma3", layers, &[WINDOW], gguf);
            assert!(
                (got - three).abs() < 1e-7,
                "gemma3 of {layers} layers: {got}"
            );
        }
    }

    /// Keys that newer files have say otherwise than what the format means without them.
    #[test]
    fn pattern_and_local_base_are_read_where_they_are() {
        let kinds = |more: &[(&str, Meta)]| {
            let meta = meta("gemma3", 4, more);
            let keys = Keys::new(&meta, &[WINDOW, LOGIT_CAP, LOCAL_BASE, PATTERN]).unwrap();
            let spec = gguf(&keys).unwrap();
            let second = spec.kinds.last().unwrap().rope.inv_freq[1];
            (spec.layers, second)
        };
        let (layers, base) = kinds(&[]);
        // Fewer layers than the pattern: all have a window.
        assert_eq!(layers, [0; 4]);
        let (layers, other) = kinds(&[(PATTERN, Meta::Int(2)), (LOCAL_BASE, Meta::Float(5e4))]);
        assert_eq!(layers, [1, 0, 1, 0]);
        assert!(other < base, "a larger base turns slower");
        let meta = meta("gemma3", 4, &[(PATTERN, Meta::Bools(vec![true; 4]))]);
        let keys = Keys::new(&meta, &[WINDOW, PATTERN]).unwrap();
        let error = gguf(&keys).err().expect("a list is not read").to_string();
        assert!(error.contains(PATTERN), "{error}");
    }
}
