//! What `koma export` makes.

use super::{LocalConfig, Surroundings};
use crate::args::{Environment, MakeArgs};
use koma_neuron_export::export::ExportOptions;
use koma_neuron_export::manifest::{Precision, Weights};

/// All that `koma export` needs.
#[derive(Debug, Clone)]
pub(crate) struct ExportConfig {
    pub(crate) local: LocalConfig,
    pub(crate) options: ExportOptions,
}

impl ExportConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &MakeArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let (source, out) = args.places()?;
        let weights = args.weights.as_deref().map(|text| match text {
            "inline" => Weights::Inline,
            _ => Weights::Separate,
        });
        Ok(Self {
            local: LocalConfig::resolve(source, &args.layer(), environment, around)?,
            options: ExportOptions {
                out,
                batches: args.batch.clone(),
                seqs: args.seq.clone(),
                weights,
                precision: match args.precision.as_str() {
                    "bf16" => Precision::Bf16,
                    _ => Precision::F32,
                },
                force: args.force,
            },
        })
    }
}
