//! [`DeviceConfig`]: what computes a model.

use super::values::Values;
use crate::args::{Origin, Typed};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

/// Thousandths of a GPU's free memory that are used, if nothing else is said.
const GPU_MEMORY: u16 = 900;

/// What shall compute a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// The processors of this machine.
    Cpu,
    /// Neuron cores, or nothing.
    Neuron,
    /// The NVIDIA GPU of this number, or nothing.
    Cuda(usize),
    /// The first NVIDIA GPU, else Neuron cores where there are some for this model, else the processors.
    Auto,
}

impl DeviceChoice {
    /// As it is written.
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "cpu" => Self::Cpu,
            "neuron" => Self::Neuron,
            "auto" => Self::Auto,
            "cuda" => Self::Cuda(0),
            _ => Self::Cuda(text.strip_prefix("cuda:")?.parse().ok()?),
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Neuron => f.write_str("neuron"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceConfig {
    pub(crate) choice: DeviceChoice,
    /// Thousandths of a GPU's free memory that all models on it may use together.
    pub(crate) gpu_memory: u16,
    /// Whether steps of a GPU that come again are replayed as graphs.
    pub(crate) graphs: bool,
    /// None: the folder `neuron` in the model's folder.
    pub(crate) artifact: Option<PathBuf>,
    /// None: where it usually is.
    pub(crate) library: Option<PathBuf>,
}

impl DeviceConfig {
    pub(super) fn resolve(values: &Values<'_>) -> Result<Self, String> {
        let expected = || "cpu, neuron, auto, cuda or cuda:N".to_owned();
        let share = |text: &str| {
            let share: f64 = text.parse().ok()?;
            // At least one thousandth.
            (0.001..=1.0)
                .contains(&share)
                .then_some((share * 1000.0).round() as u16)
        };
        Ok(Self {
            choice: values
                .read("device", DeviceChoice::parse, expected)?
                .unwrap_or(DeviceChoice::Cpu),
            gpu_memory: values
                .read("gpu-memory-utilization", share, || {
                    "a number from 0.001 to 1".to_owned()
                })?
                .unwrap_or(GPU_MEMORY),
            graphs: values
                .choice("cuda-graphs", &[("on", true), ("off", false)])?
                .unwrap_or(true),
            artifact: values.get("neuron").map(path),
            library: values.get("neuron-library").map(path),
        })
    }

    pub(super) fn describe(&self) -> Value {
        json!({
            "device": self.choice.to_string(),
            "gpu_memory_utilization": f64::from(self.gpu_memory) / 1000.0,
            "cuda_graphs": self.graphs,
            "neuron": self.artifact,
            "neuron_library": self.library,
        })
    }
}

/// A path; one that stands in a file is relative to that file.
fn path(typed: &Typed) -> PathBuf {
    let folder = match &typed.origin {
        Origin::File(file, _) => file.parent().unwrap_or(Path::new("")),
        Origin::Flag(_) | Origin::Variable(_) => Path::new(""),
    };
    folder.join(&typed.text)
}

/// Fails if `all`, the settings that hold for every one of `count` models, name an export: it is of one model.
pub(super) fn check_one(all: &Values<'_>, count: usize) -> Result<(), String> {
    match all.get("neuron") {
        Some(Typed { origin, .. }) if count > 1 => Err(format!(
            "{origin}: is the export of one model, but there are {count}; write `neuron` into the [[model]] it belongs to"
        )),
        _ => Ok(()),
    }
}
