//! What `koma export verify`, `koma export compile` and `koma export cost` take.

use super::{Layer, MachineArgs, layer};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

pub(super) const VERIFY_EXAMPLES: &str = "\
Examples:
  An export that lies in its model's folder, against Koma's own f32:
    koma export verify ./intent/neuron
  With the Python of an environment, and the folder of the model:
    koma export verify out --model ./intent --python ~/checks/bin/python
  What was compiled, on the device of this machine:
    koma export verify ./intent/neuron --device neuron

The modules are executed by XLA on the CPU, ONNX by ONNX Runtime, TorchScript by PyTorch (if it is there). KOMA_PYTHON names the \
Python as --python does.";

pub(super) const COMPILE_EXAMPLES: &str = "\
Examples:
  koma export compile ./intent/neuron --target inf2
  NEURON_CC=/opt/aws_neuronx_venv/bin/neuronx-cc koma export compile ./intent/neuron --target trn1 --auto-cast matmult";

pub(super) const COST_EXAMPLES: &str = "\
Examples:
  koma bench throughput ./intent --batch 16 --input-len 128 --json cpu.json
  koma export cost ./intent/neuron --bench cpu.json --price-per-hour 0.34 --bench inf2.json --price-per-hour 0.76

Prices are yours, in any currency; what comes out is in the same. A price is of the machine under full load: an idle one costs \
as much and answers nothing.";

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Folder of the export
    #[arg(value_name = "DIR")]
    pub(crate) artifact: PathBuf,
    /// Folder of the model that was exported [default: the folder that DIR lies in]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Compare with the case.json and expected.safetensors of this folder, and not with Koma's own f32
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub(crate) golden: Option<PathBuf>,
    /// What executes it: cpu (the modules and the files for other runtimes, by a Python) or neuron (the compiled modules, on this machine's device)
    #[arg(
        long,
        value_enum,
        value_name = "cpu|neuron",
        default_value = "cpu",
        hide_possible_values = true
    )]
    pub(crate) device: VerifyDeviceArg,
    /// Neuron runtime [default: as for koma serve]
    #[arg(long, value_name = "FILE")]
    neuron_library: Option<String>,
    /// Python that executes the files [default: python3]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) python: Option<PathBuf>,
    /// Largest difference that passes, for values up to 1; it grows with larger ones [default: 1e-5, of more than 8 MiB of weights 1e-4, on a device 1e-3; with bf16 5e-2]
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) tolerance: Option<f64>,
    /// Seconds that the check may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Write the result to FILE; - is standard output, without the text
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

impl VerifyArgs {
    pub(crate) fn layer(&self) -> Layer {
        let mut flags = layer([("neuron-library", &self.neuron_library)]);
        flags.append(&mut self.machine.layer());
        flags
    }
}

/// `--device` of `koma export verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyDeviceArg {
    /// The modules, by programs for the CPU
    Cpu,
    /// The compiled modules, on a device
    Neuron,
}

/// `--target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetArg {
    /// Inferentia 2
    Inf2,
    /// Trainium
    Trn1,
    /// Trainium 2
    Trn2,
    /// Inferentia, no longer supported by its maker
    Inf1,
}

/// `--auto-cast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AutoCastArg {
    /// Compute as the modules say
    None,
    /// Compute matrix products in bf16
    Matmult,
}

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// Folder of the export
    #[arg(value_name = "DIR")]
    pub(crate) artifact: PathBuf,
    /// Instances to compile for
    #[arg(long, value_enum, value_name = "TARGET")]
    pub(crate) target: TargetArg,
    /// What the compiler may compute in bf16
    #[arg(long, value_enum, value_name = "WHAT", default_value = "none")]
    pub(crate) auto_cast: AutoCastArg,
    /// Seconds that the compiler may take for each bucket
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// Folder of the export
    #[arg(value_name = "DIR")]
    pub(crate) artifact: PathBuf,
    /// Result of `koma bench throughput` or `koma bench serve` (--json); once for each machine
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) bench: Vec<PathBuf>,
    /// Price of that machine for an hour; as often as --bench, in the same order
    #[arg(long, value_name = "PRICE", required = true, value_parser = positive)]
    pub(crate) price_per_hour: Vec<f64>,
    /// Write the result to FILE; - is standard output, without the text
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|n: &f64| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}
