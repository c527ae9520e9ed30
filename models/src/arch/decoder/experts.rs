//! The experts of a decoder: their numbers in config.json or GGUF metadata, and their tensors.

use super::Spec;
use super::keys::Keys;
use crate::LoadError;
use crate::config::Json;
use crate::layers::experts::{Experts, GateUp};
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::registry::MAX;
use crate::weights::Weights;
use koma_kernels::PackedWeight;

/// Keys of GGUF metadata that every decoder with experts has.
pub(in crate::arch) const KEYS: [&str; 2] = ["expert_count", "expert_used_count"];

/// What the experts of all layers have in common.
pub(in crate::arch) struct ExpertsSpec {
    count: usize,
    /// Experts of a token.
    top_k: usize,
    /// Inside of one expert.
    inner: usize,
    /// Whether the weights of a token's experts are made to add up to 1.
    pub(in crate::arch) renormalise: bool,
    /// Names of matrices that stand one by one.
    names: Names,
    /// Whether one tensor holds a projection of all experts (GGUF files, but for the first ones), unless they stand one by
    /// one.
    stacks: bool,
}

/// How a checkpoint calls a layer's router and the matrices of its experts.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Names {
    /// What stands before `gate` and `experts`.
    pub(in crate::arch) block: &'static str,
    /// One expert's gate, up and down projection.
    pub(in crate::arch) each: [&'static str; 3],
}

/// The names that most have; fused and stacked tensors are always under this block.
pub(in crate::arch) const NAMES: Names = Names {
    block: "mlp",
    each: ["gate_proj", "up_proj", "down_proj"],
};

impl ExpertsSpec {
    /// From config.json, where older versions of transformers call the experts `num_experts` or `num_local_experts`, by
    /// architecture, and 5 calls them `num_local_experts` always. Weights are renormalised.
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the field.
    pub(in crate::arch) fn folder(
        json: &Json,
        inner: usize,
        names: Names,
    ) -> Result<Self, LoadError> {
        const FIELDS: [&str; 2] = ["num_local_experts", "num_experts"];
        let counts = [
            json.find_size(FIELDS[0], 1..=MAX.experts)?,
            json.find_size(FIELDS[1], 1..=MAX.experts)?,
        ];
        let count = match counts {
            [Some(a), Some(b)] if a != b => {
                return Err(
                    json.error(FIELDS[1], format!("{b} is not {}, which is {a}", FIELDS[0]))
                );
            }
            [Some(count), _] | [None, Some(count)] => count,
            [None, None] => return Err(json.error(FIELDS[0], "is missing")),
        };
        let top_k = json.size("num_experts_per_tok", 1..=MAX.experts)?;
        if top_k > count {
            let reason = format!("{top_k} cannot be picked of {count} experts");
            return Err(json.error("num_experts_per_tok", reason));
        }
        Ok(Self {
            count,
            top_k,
            inner,
            renormalise: true,
            names,
            stacks: false,
        })
    }

    /// From metadata. Weights are renormalised, as llama.cpp does for the architectures here.
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the key.
    pub(in crate::arch) fn gguf(keys: &Keys<'_>, inner: usize) -> Result<Self, LoadError> {
        let count = keys.size(KEYS[0], MAX.experts)?;
        let top_k = keys.size(KEYS[1], MAX.experts)?;
        if top_k > count {
            let reason = format!("{top_k} cannot be picked of {count} experts");
            return Err(keys.error(KEYS[1], reason));
        }
        Ok(Self {
            count,
            top_k,
            inner,
            renormalise: true,
            names: NAMES,
            stacks: true,
        })
    }

    /// Reads the experts of layer `i`: fused as transformers 5 computes with them (`gate_up_proj` of all experts), stacked
    /// as GGUF files have them (one tensor for each projection), or one by one, as older ones do.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(in crate::arch) fn load(
        &self,
        weights: &Weights,
        spec: &Spec,
        i: usize,
    ) -> Result<Mlp, LoadError> {
        let (count, inner, hidden) = (self.count, self.inner, spec.hidden);
        let plain = |part: &str| format!("model.layers.{i}.{}.{part}", NAMES.block);
        let fused = plain("experts.gate_up_proj");
        let first = plain("experts.0.gate_proj.weight");
        let (gate_up, down) = if weights.has(&fused) {
            let gate_up = weights.matrices(&fused, (count, 2 * inner, hidden))?;
            (GateUp::Stacked(gate_up), "experts.down_proj")
        } else if !self.stacks || weights.has(&first) {
            return self.load_each(weights, hidden, i);
        } else {
            let all = |part| weights.matrices(&plain(part), (count, inner, hidden));
            let gates = all("experts.gate_proj.weight")?;
            let ups = all("experts.up_proj.weight")?;
            let gate_up = stacked(weights, &plain("experts"), gates, ups)?;
            (gate_up, "experts.down_proj.weight")
        };
        let router = Linear::load_fine(weights, &plain("gate"), (count, hidden), false)?;
        let down = weights.matrices(&plain(down), (count, hidden, inner))?;
        self.mlp(weights, router, gate_up, down)
    }

    /// Reads the experts of layer `i` one by one.
    fn load_each(&self, weights: &Weights, hidden: usize, i: usize) -> Result<Mlp, LoadError> {
        let (inner, names) = (self.inner, self.names);
        let name = |part: &str| format!("model.layers.{i}.{}.{part}", names.block);
        let router = Linear::load_fine(weights, &name("gate"), (self.count, hidden), false)?;
        let [gate, up, down] = names.each;
        let all = |part: &str, rows, cols| -> Result<Vec<PackedWeight>, LoadError> {
            let each = |e| weights.matrix(&name(&format!("experts.{e}.{part}.weight")), rows, cols);
            (0..self.count).map(each).collect()
        };
        let (gates, ups) = (all(gate, inner, hidden)?, all(up, inner, hidden)?);
        let gate_up = stacked(weights, &name("experts"), gates, ups)?;
        self.mlp(weights, router, gate_up, all(down, hidden, inner)?)
    }

    fn mlp(
        &self,
        weights: &Weights,
        router: Linear,
        gate_up: GateUp,
        down: Vec<PackedWeight>,
    ) -> Result<Mlp, LoadError> {
        // Which rows an expert gets is known to the device alone, and the library that multiplies FP8 has to be told: experts keep
        // their weights of 8 bits, and their activations are not rounded to as many.
        let settled = |all: Vec<_>| {
            let all = all.into_iter().map(PackedWeight::without_fp8_activations);
            weights.all_settled(all.collect())
        };
        Ok(Mlp::Experts(Experts {
            router,
            gate_up: match gate_up {
                GateUp::Stacked(all) => GateUp::Stacked(settled(all)?),
                GateUp::Apart(gates, ups) => GateUp::Apart(settled(gates)?, settled(ups)?),
            },
            down: settled(down)?,
            top_k: self.top_k,
            renormalise: self.renormalise,
        }))
    }
}

fn stacked(
    weights: &Weights,
    name: &str,
    gates: Vec<PackedWeight>,
    ups: Vec<PackedWeight>,
) -> Result<GateUp, LoadError> {
    GateUp::new(gates, ups).map_err(|e| LoadError::Tensor {
        name: name.to_owned(),
        path: weights.path().to_owned(),
        reason: e.to_string(),
    })
}
