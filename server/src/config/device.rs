//! [`DeviceConfig`]: what computes a model.

use super::values::Values;
use crate::args::{Origin, Typed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What shall compute a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// The processors of this machine.
    Cpu,
    /// Neuron cores, or nothing.
    Neuron,
    /// Neuron cores where there are some for this model, else the processors.
    Auto,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceConfig {
    pub(crate) choice: DeviceChoice,
    /// None: the folder `neuron` in the model's folder.
    pub(crate) artifact: Option<PathBuf>,
    /// None: where it usually is.
    pub(crate) library: Option<PathBuf>,
}

impl DeviceConfig {
    pub(super) fn resolve(values: &Values<'_>) -> Result<Self, String> {
        let choices = [
            ("cpu", DeviceChoice::Cpu),
            ("neuron", DeviceChoice::Neuron),
            ("auto", DeviceChoice::Auto),
        ];
        Ok(Self {
            choice: values
                .choice("device", &choices)?
                .unwrap_or(DeviceChoice::Cpu),
            artifact: values.get("neuron").map(path),
            library: values.get("neuron-library").map(path),
        })
    }

    pub(super) fn describe(&self) -> Value {
        let choice = format!("{:?}", self.choice).to_lowercase();
        json!({"device": choice, "neuron": self.artifact, "neuron_library": self.library})
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
