//! [`Plan`]: an artifact as the cores need it: files, names and shapes of every bucket.

use super::ServingError;
use crate::manifest::{Bucket, Dtype, InputName, Manifest, Neff as Compiled, Target};
use crate::neff::Neff;
use koma_models::NeuronBucket;
use koma_models::kernels::neuron::{self, TensorInfo, Usage};
use std::path::{Path, PathBuf};

/// See the module.
pub(super) struct Plan {
    /// In the order of the manifest.
    pub(super) buckets: Vec<BucketPlan>,
    /// What the integer inputs mean, in the order of [`BucketPlan::inputs`].
    pub(super) inputs: Vec<InputName>,
    /// Values of an output row.
    pub(super) width: usize,
    /// Fills up rows.
    pub(super) pad_id: u32,
    /// Ids are below this.
    pub(super) vocab: usize,
}

/// A bucket.
pub(super) struct BucketPlan {
    /// Rows.
    pub(super) batch: usize,
    /// Tokens of a row.
    pub(super) seq: usize,
    /// Its compiled module.
    pub(super) neff: PathBuf,
    /// Names in the module of the integer inputs.
    pub(super) inputs: Vec<String>,
    /// Names in the module of separate weights, in the order of the manifest; empty if they are inside.
    pub(super) weights: Vec<String>,
    /// Name in the module of the output.
    pub(super) output: String,
}

impl Plan {
    /// The plan of the artifact `folder`, whose manifest was checked.
    ///
    /// # Errors
    /// If a bucket is not compiled, or for another kind of machine than `instance`, or its module is damaged.
    pub(super) fn new(
        manifest: &Manifest,
        folder: &Path,
        instance: Option<&str>,
    ) -> Result<Self, ServingError> {
        let bucket = |bucket: &Bucket| {
            let Bucket { batch, seq, .. } = *bucket;
            let compiled = bucket
                .neff
                .as_ref()
                .ok_or_else(|| ServingError::NotCompiled {
                    folder: folder.to_owned(),
                    batch,
                    seq,
                })?;
            check_target(compiled.target, instance)?;
            let neff = folder.join(&compiled.file);
            Neff::read(&neff)?;
            let name = |of: &str| named(compiled, of, &neff);
            let inputs = manifest.inputs.iter().map(|input| name(input.name.name()));
            let weights = manifest
                .numerics
                .param_order
                .iter()
                .map(|param| name(param));
            Ok(BucketPlan {
                batch,
                seq,
                inputs: inputs.collect::<Result<_, _>>()?,
                weights: weights.collect::<Result<_, _>>()?,
                output: name(&manifest.outputs[0].name)?,
                neff,
            })
        };
        let buckets: Result<_, ServingError> = manifest.buckets.iter().map(bucket).collect();
        Ok(Self {
            buckets: buckets?,
            inputs: manifest.inputs.iter().map(|input| input.name).collect(),
            width: manifest.outputs[0].width,
            pad_id: manifest.tokenizer.pad_id,
            vocab: manifest.tokenizer.vocab_size,
        })
    }

    /// The buckets' shapes, in their order.
    pub(super) fn neuron_buckets(&self) -> Vec<NeuronBucket> {
        let shape = |bucket: &BucketPlan| NeuronBucket {
            batch: bucket.batch,
            seq: bucket.seq,
        };
        self.buckets.iter().map(shape).collect()
    }

    /// Tokens of the longest bucket.
    pub(super) fn longest(&self) -> usize {
        self.buckets
            .iter()
            .map(|bucket| bucket.seq)
            .max()
            .unwrap_or(0)
    }

    /// Fails if the module of `bucket` has other tensors than the plan: `found`, as the runtime tells it. `weights`: type and
    /// shape of each separate weight.
    pub(super) fn check_tensors(
        &self,
        bucket: &BucketPlan,
        weights: &[(neuron::Dtype, Vec<u32>)],
        found: &[TensorInfo],
    ) -> Result<(), ServingError> {
        let wrong = |reason: String| ServingError::Tensors {
            path: bucket.neff.clone(),
            reason,
        };
        let dimensions = |sizes: [usize; 2]| sizes.map(|size| size as u32).to_vec();
        let whole = || dimensions([bucket.batch, bucket.seq]);
        let inputs = bucket
            .inputs
            .iter()
            .map(|name| (name, Usage::Input, neuron::Dtype::I32, whole()));
        let weights = bucket.weights.iter().zip(weights);
        let weights =
            weights.map(|(name, (dtype, shape))| (name, Usage::Input, *dtype, shape.clone()));
        let row = dimensions([bucket.batch, self.width]);
        let output = (&bucket.output, Usage::Output, neuron::Dtype::F32, row);
        let expected: Vec<_> = inputs.chain(weights).chain([output]).collect();
        for (name, usage, dtype, shape) in &expected {
            let Some(info) = found.iter().find(|info| info.name == **name) else {
                return Err(wrong(format!("has no tensor `{name}`")));
            };
            let differs = |what: &str, there: &dyn std::fmt::Debug, here: &dyn std::fmt::Debug| {
                Err(wrong(format!(
                    "the {what} of tensor `{name}` is {there:?}, the manifest says {here:?}"
                )))
            };
            if info.usage != *usage {
                return differs("usage", &info.usage, usage);
            }
            if info.dtype != *dtype {
                return differs("type", &info.dtype, dtype);
            }
            if info.shape != *shape {
                return differs("shape", &info.shape, shape);
            }
            let bytes = bytes(*dtype, shape);
            if Some(info.bytes) != bytes {
                return differs("size in bytes", &info.bytes, &bytes);
            }
        }
        let known = |info: &&TensorInfo| expected.iter().any(|(name, ..)| **name == info.name);
        match found.iter().find(|info| !known(info)) {
            Some(info) => Err(wrong(format!(
                "has a tensor `{}`, which the manifest does not know",
                info.name
            ))),
            None => Ok(()),
        }
    }
}

/// Bytes of a tensor; none if nobody could have them, or the type is unknown.
fn bytes(dtype: neuron::Dtype, shape: &[u32]) -> Option<usize> {
    let one = match dtype {
        neuron::Dtype::F32 | neuron::Dtype::I32 => 4,
        neuron::Dtype::Bf16 | neuron::Dtype::F16 => 2,
        neuron::Dtype::I64 => 8,
        neuron::Dtype::Other(_) => return None,
    };
    let mut sizes = shape.iter();
    sizes.try_fold(one, |all: usize, size| all.checked_mul(*size as usize))
}

/// The type of a weight, as the runtime names it.
pub(super) fn dtype(dtype: Dtype) -> neuron::Dtype {
    match dtype {
        Dtype::S32 => neuron::Dtype::I32,
        Dtype::F32 => neuron::Dtype::F32,
        Dtype::Bf16 => neuron::Dtype::Bf16,
    }
}

/// The name in the module of what the manifest calls `name`.
fn named(compiled: &Compiled, name: &str, neff: &Path) -> Result<String, ServingError> {
    let found = compiled.io.get(name).cloned();
    found.ok_or_else(|| ServingError::Tensors {
        path: neff.to_owned(),
        reason: format!("field `io` of the manifest has no name for `{name}`"),
    })
}

/// A NEFF runs on the machines that it was compiled for. `trn1n` is a `trn1` with a faster network,
/// `trn2u` a `trn2` whose chips are linked to those of other machines.
fn check_target(target: Target, instance: Option<&str>) -> Result<(), ServingError> {
    let name = match target {
        Target::Inf1 => "inf1",
        Target::Inf2 => "inf2",
        Target::Trn1 => "trn1",
        Target::Trn2 => "trn2",
    };
    let alike = match target {
        Target::Trn1 => Some("trn1n"),
        Target::Trn2 => Some("trn2u"),
        Target::Inf1 | Target::Inf2 => None,
    };
    let Some(instance) = instance else {
        return Ok(());
    };
    // SageMaker puts `ml.` before it.
    let family = instance.strip_prefix("ml.").unwrap_or(instance);
    let family = family.split('.').next().unwrap_or_default();
    if family == name || alike == Some(family) {
        return Ok(());
    }
    Err(ServingError::Target {
        target: name,
        instance: instance.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_runs_on_its_own_instances_and_their_kin() {
        for (target, instance, fits) in [
            (Target::Inf2, "inf2.xlarge", true),
            (Target::Inf2, "ml.inf2.xlarge", true),
            (Target::Trn1, "trn1n.32xlarge", true),
            (Target::Trn2, "trn2.48xlarge", true),
            (Target::Trn2, "trn2u.48xlarge", true),
            (Target::Trn1, "trn2u.48xlarge", false),
            (Target::Trn2, "trn1n.32xlarge", false),
            (Target::Inf1, "inf2.xlarge", false),
        ] {
            let found = check_target(target, Some(instance));
            assert_eq!(found.is_ok(), fits, "{target:?} on {instance}");
        }
    }
}
