//! [`Neuron`]: what this machine has of AWS Neuron.
//!
//! Must not know: models. Invariant: nothing is started, so no core is taken from a server that runs.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where the system shows devices.
const DEVICES: &str = "/dev";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neuron {
    /// Devices, `/dev/neuron0` and so on.
    pub(super) devices: Vec<PathBuf>,
    /// Such as `inf2.xlarge`, if it is an EC2 instance that tells.
    pub(super) instance: Option<String>,
    /// The runtime's version and place, or why there is none.
    pub(super) runtime: Result<String, String>,
}

impl Neuron {
    pub(super) fn look(library: Option<&Path>) -> Self {
        Self {
            devices: devices(Path::new(DEVICES)),
            instance: instance(),
            runtime: runtime(library),
        }
    }

    pub(super) fn text(&self) -> String {
        let devices = match self.devices.as_slice() {
            [] => "no device".to_owned(),
            [one] => one.display().to_string(),
            [first, .., last] => format!(
                "{} devices, {} to {}",
                self.devices.len(),
                first.display(),
                last.display()
            ),
        };
        let instance = self.instance.as_ref();
        let instance = instance.map_or_else(String::new, |name| format!(" on {name}"));
        let runtime = match &self.runtime {
            Ok(found) => format!("runtime {found}"),
            Err(reason) => format!("no runtime ({reason})"),
        };
        format!("{devices}{instance}; {runtime}")
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "devices": self.devices,
            "instance": self.instance,
            "runtime": self.runtime.as_ref().ok(),
            "no_runtime": self.runtime.as_ref().err(),
        })
    }

    /// What to do if one half is there and the other is not.
    pub(super) fn advice(&self) -> Option<String> {
        match (self.devices.is_empty(), &self.runtime) {
            (false, Err(reason)) => Some(format!(
                "there is a Neuron device, but not its runtime: install aws-neuronx-runtime-lib, or name it with --neuron-library ({reason})"
            )),
            (true, Ok(_)) => Some(
                "the Neuron runtime is there, but no device: a container needs --device=/dev/neuron0, a machine the driver aws-neuronx-dkms"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The devices in the folder, by their numbers.
fn devices(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("neuron")?.parse::<u32>().ok();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(feature = "neuron")]
fn runtime(library: Option<&Path>) -> Result<String, String> {
    use koma_neuron_export::models::kernels::neuron::Runtime;
    let found = Runtime::find(library).map_err(|error| error.to_string())?;
    let version = found.version.as_deref().unwrap_or("of unknown version");
    Ok(format!("{version}, {}", found.place))
}

#[cfg(not(feature = "neuron"))]
fn runtime(_: Option<&Path>) -> Result<String, String> {
    Err("this koma was built without the feature `neuron`".to_owned())
}

#[cfg(feature = "neuron")]
fn instance() -> Option<String> {
    koma_neuron_export::serving::instance_type()
}

#[cfg(not(feature = "neuron"))]
fn instance() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Neuron {
        /// As most machines have it.
        pub(crate) fn none() -> Self {
            neuron(&[], Err("not found"))
        }
    }

    fn neuron(devices: &[&str], runtime: Result<&str, &str>) -> Neuron {
        Neuron {
            devices: devices.iter().map(PathBuf::from).collect(),
            instance: None,
            runtime: runtime.map(str::to_owned).map_err(str::to_owned),
        }
    }

    #[test]
    fn devices_are_told_apart_from_what_else_has_such_a_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["neuron10", "neuron2", "neuron", "neuron-monitor", "null"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let expected = ["neuron2", "neuron10"].map(|name| folder.path().join(name));
        assert_eq!(devices(folder.path()), expected);
        assert!(devices(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn half_of_it_is_said_with_what_to_do() {
        let all = neuron(
            &["/dev/neuron0", "/dev/neuron1"],
            Ok("2.35.30.0, libnrt.so.1"),
        );
        let text = "2 devices, /dev/neuron0 to /dev/neuron1; runtime 2.35.30.0, libnrt.so.1";
        assert_eq!((all.text().as_str(), all.advice()), (text, None));
        let none = Neuron::none();
        assert_eq!(none.text(), "no device; no runtime (not found)");
        assert_eq!(none.advice(), None);
        let device = neuron(&["/dev/neuron0"], Err("not found"))
            .advice()
            .unwrap();
        assert!(device.contains("aws-neuronx-runtime-lib"), "{device}");
        let runtime = neuron(&[], Ok("2.35.30.0, libnrt.so.1")).advice().unwrap();
        assert!(runtime.contains("--device=/dev/neuron0"), "{runtime}");
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let reason = runtime(Some(Path::new("/nowhere/libnrt.so.1"))).unwrap_err();
        let said = reason.contains("/nowhere/libnrt.so.1") || reason.contains("feature");
        assert!(said, "{reason}");
    }
}
