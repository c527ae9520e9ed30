//! The keys of GGUF metadata that decoders share, each with the architecture's name before it.

use super::{Biases, Heads, Kind, Spec};
use crate::LoadError;
use crate::config::rope::{Rope, Scaling, Yarn, yarn};
use crate::gguf::{FromValue, GgufMeta};
use crate::registry::MAX;
use koma_kernels::Then;

/// The names of [`Heads`]' fields.
const HEADS: [&str; 3] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
];

/// Keys of `YaRN`: the turns above and below which frequencies stay or are divided, and two factors.
const YARN: [&str; 4] = [
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
];

/// Keys that every decoder reads, or that say how a model came to be and not how it is computed.
const KNOWN: [&str; 22] = [
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "context_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    YARN[0],
    YARN[1],
    YARN[2],
    YARN[3],
    "tensor_data_layout",
];

/// The keys of one architecture.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Keys<'a> {
    meta: &'a GgufMeta,
    /// `general.architecture`.
    arch: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys under the file's own `general.architecture`. One that is neither shared nor among `own` could change what
    /// is computed, so it is refused.
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the key.
    pub(in crate::arch) fn new(meta: &'a GgufMeta, own: &[&str]) -> Result<Self, LoadError> {
        let arch: &str = meta.get("general.architecture")?;
        let mut keys: Vec<&str> = meta.keys().collect();
        keys.sort_unstable();
        let unknown = keys.into_iter().find(|key| {
            let name = key.strip_prefix(arch).and_then(|k| k.strip_prefix('.'));
            name.is_some_and(|name| !KNOWN.contains(&name) && !own.contains(&name))
        });
        match unknown {
            Some(key) => Err(meta.error(
                key,
                "this key is not known, so what it asks for cannot be done",
            )),
            None => Ok(Self { meta, arch }),
        }
    }

    /// The value of the key `name`, if there.
    pub(in crate::arch) fn find<T: FromValue<'a>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, LoadError> {
        self.meta.find(&self.key(name))
    }

    /// A count in `1..=max`, if there.
    pub(in crate::arch) fn find_size(
        &self,
        name: &str,
        max: usize,
    ) -> Result<Option<usize>, LoadError> {
        match self.find::<usize>(name)? {
            Some(n) if n == 0 || n > max => {
                Err(self.error(name, format!("{n} is not in 1 to {max}")))
            }
            found => Ok(found),
        }
    }

    /// A count in `1..=max`.
    pub(in crate::arch) fn size(&self, name: &str, max: usize) -> Result<usize, LoadError> {
        self.find_size(name, max)?
            .ok_or_else(|| self.error(name, "is missing"))
    }

    /// A positive number, if there.
    pub(in crate::arch) fn find_positive(&self, name: &str) -> Result<Option<f32>, LoadError> {
        match self.find::<f32>(name)? {
            Some(number) if number <= 0.0 => {
                Err(self.error(name, format!("{number} is not positive")))
            }
            found => Ok(found),
        }
    }

    /// An error about the key `name`.
    pub(in crate::arch) fn error(&self, name: &str, reason: impl Into<String>) -> LoadError {
        self.meta.error(&self.key(name), reason)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    /// The rotation of all layers. `positions`: see [`Keys::scaling`].
    fn rope(&self, positions: usize) -> Result<Rope, LoadError> {
        const BASE: &str = "rope.freq_base";
        let rope = Rope {
            theta: f64::from(self.find_positive(BASE)?.unwrap_or(10_000.0)),
            scaling: self.scaling(positions)?,
        };
        if matches!(rope.scaling, Scaling::Yarn(_)) && rope.theta <= 1.0 {
            return Err(self.error(BASE, format!("{} is not above 1", rope.theta)));
        }
        Ok(rope)
    }

    /// The turns of [`Yarn`], if the file has those; its other two keys must have their usual values.
    fn yarn_turns(&self) -> Result<[f64; 2], LoadError> {
        let [fast, slow, extrapolation, attention] = YARN;
        for key in [extrapolation, attention] {
            // Below 0: not set.
            if let Some(factor) = self.find::<f32>(key)?.filter(|f| *f >= 0.0 && *f != 1.0) {
                return Err(self.error(key, format!("{factor} is not supported, only 1")));
            }
        }
        let mut turns = yarn::TURNS;
        for (key, to) in [fast, slow].into_iter().zip(&mut turns) {
            if let Some(number) = self.find_positive(key)? {
                *to = number.into();
            }
        }
        if turns[0] <= turns[1] {
            let reason = format!("{} must be above `{slow}`, which is {}", turns[0], turns[1]);
            return Err(self.error(fast, reason));
        }
        Ok(turns)
    }

    /// `positions`: the window, if no other is named as the one before scaling.
    fn scaling(&self, positions: usize) -> Result<Scaling, LoadError> {
        const KIND: &str = "rope.scaling.type";
        match self.find::<&str>(KIND)? {
            Some("none") => Ok(Scaling::None),
            // As llama.cpp: linear where no type is named. `scale_linear` is the one key of older files.
            None | Some("linear") => {
                let old = self.find_positive("rope.scale_linear")?;
                let factor = self.find_positive("rope.scaling.factor")?.or(old);
                Ok(match factor {
                    None | Some(1.0) => Scaling::None,
                    Some(factor) => Scaling::Linear(factor.into()),
                })
            }
            // As llama.cpp's defaults, which are transformers'.
            Some("yarn") => {
                const FACTOR: &str = "rope.scaling.factor";
                let factor = self.find_positive(FACTOR)?;
                let factor = factor.ok_or_else(|| self.error(FACTOR, "is missing"))?;
                let original = "rope.scaling.original_context_length";
                let original = self.find_size(original, MAX.positions)?;
                let original = original.unwrap_or(positions);
                let turns = self.yarn_turns()?;
                Ok(Scaling::Yarn(Yarn::new(
                    factor.into(),
                    original as f64,
                    turns,
                )))
            }
            Some(other) => {
                let reason =
                    format!("`{other}` is not supported; supported are none, linear and yarn");
                Err(self.error(KIND, reason))
            }
        }
    }
}

impl Spec {
    /// From metadata: full attention in all layers, no biases, one rotation for all. `interleaved`: see
    /// [`koma_kernels::RopeTable`].
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the key.
    pub(in crate::arch) fn gguf(keys: &Keys<'_>, interleaved: bool) -> Result<Self, LoadError> {
        let hidden = keys.size("embedding_length", MAX.width)?;
        let q = keys.size(HEADS[0], MAX.heads)?;
        let heads = Heads {
            q,
            kv: keys.find_size(HEADS[1], MAX.heads)?.unwrap_or(q),
            dim: keys.find_size(HEADS[2], MAX.head_dim)?,
        };
        let layout = heads.layout(hidden);
        let layout = layout.map_err(|(key, reason)| keys.error(HEADS[key], reason))?;
        let whole = |n: &usize| *n == layout.k_dim;
        // Neighbours are pairs only where the converter has permuted whole heads.
        let pairs = |n: &usize| {
            whole(n) || !interleaved && *n < layout.k_dim && n.is_multiple_of(2) && *n > 0
        };
        let value = keys.find::<usize>("attention.value_length")?;
        let rotary = keys.find::<usize>("rope.dimension_count")?;
        for (key, n) in [
            ("attention.value_length", value.filter(|n| !whole(n))),
            ("rope.dimension_count", rotary.filter(|n| !pairs(n))),
        ] {
            if let Some(n) = n {
                let reason = format!("{n} is not supported, only the head size {}", layout.k_dim);
                return Err(keys.error(key, reason));
            }
        }
        let vocab = match keys.find_size("vocab_size", MAX.vocab)? {
            Some(vocab) => vocab,
            None => keys.meta.get::<&[String]>("tokenizer.ggml.tokens")?.len(),
        };
        let positions = keys.size("context_length", MAX.positions)?;
        let rope = keys.rope(positions)?;
        let positions = positions.max(rope.window().unwrap_or(0));
        let rope = rope.table(rotary.unwrap_or(layout.k_dim), interleaved);
        let eps = "attention.layer_norm_rms_epsilon";
        Ok(Self {
            hidden,
            inner: keys.size("feed_forward_length", MAX.width)?,
            vocab,
            positions: positions.min(MAX.positions),
            layout,
            scale: 1.0 / (layout.k_dim as f32).sqrt(),
            kinds: vec![Kind { window: None, rope }],
            layers: vec![0; keys.size("block_count", MAX.layers)?],
            eps: keys
                .find_positive(eps)?
                .ok_or_else(|| keys.error(eps, "is missing"))?,
            attn_cap: None,
            logit_cap: None,
            norm_offset: 0.0,
            head_norms: false,
            post_norms: false,
            fused: false,
            biases: Biases::default(),
            activation: Then::SiluMul,
            embedding_scale: 1.0,
            tied: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value as Meta;
    use std::path::Path;

    fn meta(pairs: &[(&str, Meta)]) -> GgufMeta {
        let arch = ("general.architecture", Meta::Str("llama".to_owned()));
        let pairs = pairs.iter().cloned().chain([arch]);
        let values = pairs.map(|(k, v)| (k.to_owned(), v)).collect();
        GgufMeta::new(Path::new("x.gguf"), values)
    }

    #[test]
    fn a_factor_without_a_type_is_linear() {
        let (kind, factor, old) = (
            "llama.rope.scaling.type",
            "llama.rope.scaling.factor",
            "llama.rope.scale_linear",
        );
        let text = |text: &str| Meta::Str(text.to_owned());
        for (pairs, expected) in [
            (vec![], Scaling::None),
            (vec![(factor, Meta::Float(4.0))], Scaling::Linear(4.0)),
            (vec![(old, Meta::Float(2.0))], Scaling::Linear(2.0)),
            (
                vec![(factor, Meta::Float(4.0)), (old, Meta::Float(2.0))],
                Scaling::Linear(4.0),
            ),
            (
                vec![(factor, Meta::Float(4.0)), (kind, text("none"))],
                Scaling::None,
            ),
            (
                vec![(factor, Meta::Float(4.0)), (kind, text("linear"))],
                Scaling::Linear(4.0),
            ),
            (
                vec![(factor, Meta::Float(4.0)), (kind, text("yarn"))],
                Scaling::Yarn(Yarn::new(4.0, 100.0, yarn::TURNS)),
            ),
            (
                vec![
                    (factor, Meta::Float(4.0)),
                    (kind, text("yarn")),
                    ("llama.rope.scaling.original_context_length", Meta::Int(50)),
                ],
                Scaling::Yarn(Yarn::new(4.0, 50.0, yarn::TURNS)),
            ),
            (
                vec![
                    (factor, Meta::Float(4.0)),
                    (kind, text("yarn")),
                    ("llama.rope.scaling.yarn_beta_fast", Meta::Float(16.0)),
                    ("llama.rope.scaling.yarn_beta_slow", Meta::Float(2.0)),
                    ("llama.rope.scaling.yarn_ext_factor", Meta::Float(1.0)),
                    ("llama.rope.scaling.yarn_attn_factor", Meta::Float(1.0)),
                ],
                Scaling::Yarn(Yarn::new(4.0, 100.0, [16.0, 2.0])),
            ),
        ] {
            let meta = meta(&pairs);
            let keys = Keys::new(&meta, &[]).unwrap();
            assert_eq!(keys.scaling(100).unwrap(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_scaling_that_cannot_be_done_is_refused_by_its_key() {
        let kind = |kind: &str| ("llama.rope.scaling.type", Meta::Str(kind.to_owned()));
        let yarn = |key: &'static str, value| {
            let factor = ("llama.rope.scaling.factor", Meta::Float(4.0));
            (vec![kind("yarn"), factor, (key, Meta::Float(value))], key)
        };
        for (pairs, key) in [
            yarn("llama.rope.scaling.yarn_beta_fast", 1.0),
            yarn("llama.rope.scaling.yarn_ext_factor", 0.5),
            yarn("llama.rope.scaling.yarn_attn_factor", 1.2),
            (vec![kind("yarn")], "llama.rope.scaling.factor"),
            (vec![kind("dynamic")], "llama.rope.scaling.type"),
        ] {
            let meta = meta(&pairs);
            let error = Keys::new(&meta, &[]).unwrap().scaling(100).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let odd = [("llama.odd", Meta::Bool(true))];
        let meta = meta(&odd);
        let error = Keys::new(&meta, &[]).err().expect("not known").to_string();
        assert!(error.contains("llama.odd"), "{error}");
        assert!(Keys::new(&meta, &["odd"]).is_ok());
    }
}
