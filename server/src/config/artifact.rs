//! What the commands do that take an export: `koma export verify`, `koma export compile`.

use super::values::Values;
use super::{ProcessConfig, Surroundings, process};
use crate::args::{AutoCastArg, CompileArgs, Environment, TargetArg, VerifyArgs, VerifyDeviceArg};
use koma_neuron_export::compile::{AutoCast, CompileOptions};
use koma_neuron_export::manifest::Target;
use koma_neuron_export::verify::VerifyOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Koma's own f32 of this folder.
    Model(PathBuf),
    /// The values in this folder.
    Golden(PathBuf),
}

/// All that `koma export verify` needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VerifyConfig {
    pub(crate) process: ProcessConfig,
    pub(crate) artifact: PathBuf,
    pub(crate) expected: Expected,
    pub(crate) options: VerifyOptions,
    /// Whether the compiled modules are checked, on a device.
    pub(crate) on_device: bool,
    /// As in [`super::DeviceConfig`].
    pub(crate) neuron_library: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
}

impl VerifyConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &VerifyArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let (flags, variables) = (args.layer(), environment.layer());
        let values = Values::new(&[&flags, &variables]);
        let python = args.python.as_deref().or_else(|| environment.python());
        let expected = match (&args.golden, &args.model) {
            (Some(golden), _) => Expected::Golden(golden.clone()),
            (None, Some(model)) => Expected::Model(model.clone()),
            (None, None) => Expected::Model(model_around(&args.artifact)?),
        };
        Ok(Self {
            process: process(&values, around)?,
            artifact: args.artifact.clone(),
            expected,
            options: VerifyOptions {
                python: python.unwrap_or(Path::new("python3")).to_owned(),
                limit: Duration::from_secs(args.timeout),
                tolerance: args.tolerance,
            },
            on_device: args.device == VerifyDeviceArg::Neuron,
            neuron_library: values.text("neuron-library").map(PathBuf::from),
            json: args.json.clone(),
        })
    }
}

/// The folder that `artifact` lies in, if it is a model's.
fn model_around(artifact: &Path) -> Result<PathBuf, String> {
    let whole = std::path::absolute(artifact).ok();
    let model = whole.as_deref().and_then(Path::parent);
    match model.filter(|folder| folder.join("config.json").is_file()) {
        Some(model) => Ok(model.to_owned()),
        None => Err(format!(
            "--model: {} does not lie in the folder of a model; name the one that was exported, or expected values with --golden",
            artifact.display()
        )),
    }
}

/// How to compile.
pub(crate) fn compile_options(args: &CompileArgs, environment: &Environment) -> CompileOptions {
    CompileOptions {
        compiler: environment.neuron_cc().map(PathBuf::from),
        target: match args.target {
            TargetArg::Inf1 => Target::Inf1,
            TargetArg::Inf2 => Target::Inf2,
            TargetArg::Trn1 => Target::Trn1,
            TargetArg::Trn2 => Target::Trn2,
        },
        auto_cast: match args.auto_cast {
            AutoCastArg::None => AutoCast::None,
            AutoCastArg::Matmult => AutoCast::Matmult,
        },
        limit: Duration::from_secs(args.timeout),
    }
}
