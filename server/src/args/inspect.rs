//! What `koma plan` and `koma doctor` take.

use super::{DeviceArgs, Layer, MachineArgs, ModelArgs, layer};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The model: a folder, a .gguf or .tar.gz file, a hub id or a folder on S3, whose files are fetched.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Requests that run together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) input_len: u32,
    /// Tokens each request generates [default: 64]; only for models that generate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) output_len: Option<u32>,
    /// Write everything found to FILE; - is standard output, without the text
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Folder whose disk is measured, with a file of 64 MiB that is removed again [default: the hub's cache]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Neuron runtime [default: as for koma serve]
    #[arg(long, value_name = "FILE")]
    neuron_library: Option<String>,
    /// Write everything found to FILE; - is standard output, without the text
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

impl DoctorArgs {
    pub(crate) fn layer(&self) -> Layer {
        let mut flags = layer([
            ("data-dir", &self.data_dir),
            ("neuron-library", &self.neuron_library),
        ]);
        flags.append(&mut self.machine.layer());
        flags
    }
}
