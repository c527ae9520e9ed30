//! What `koma plan` and `koma doctor` look at.

use super::values::Values;
use super::{ModelConfig, ProcessConfig, Surroundings, model, models, process};
use crate::args::{DoctorArgs, Environment, PlanArgs};
use std::path::PathBuf;

/// All that `koma plan` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanConfig {
    pub(crate) process: ProcessConfig,
    pub(crate) model: ModelConfig,
    pub(crate) batch: usize,
    pub(crate) input_len: usize,
    /// None: not given.
    pub(crate) output_len: Option<usize>,
    pub(crate) json: Option<PathBuf>,
}

impl PlanConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &PlanArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let mut flags = args.model.layer();
        flags.append(&mut args.device.layer());
        flags.append(&mut args.machine.layer());
        let variables = environment.layer();
        let values = Values::new(&[&flags, &variables]);
        let count = |number: u32| number as usize;
        Ok(Self {
            process: process(&values, around)?,
            model: model(&models::from_text(&args.source)?, &values)?,
            batch: count(args.batch),
            input_len: count(args.input_len),
            output_len: args.output_len.map(count),
            json: args.json.clone(),
        })
    }
}

/// All that `koma doctor` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoctorConfig {
    pub(crate) process: ProcessConfig,
    /// Where files that are fetched lie; none if nobody says.
    pub(crate) folder: Option<PathBuf>,
    /// The Neuron runtime; none if it is where it usually is.
    pub(crate) neuron_library: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
}

impl DoctorConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &DoctorArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let (flags, variables) = (args.layer(), environment.layer());
        let values = Values::new(&[&flags, &variables]);
        let process = process(&values, around)?;
        let given = values.text("data-dir").map(PathBuf::from);
        Ok(Self {
            folder: given.or_else(|| process.fetch.hub.cache.clone()),
            process,
            neuron_library: values.text("neuron-library").map(PathBuf::from),
            json: args.json.clone(),
        })
    }
}
