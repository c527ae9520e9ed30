//! What `koma doctor` takes.

use super::{Layer, MachineArgs, layer};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Folder whose disk is measured, with a file of 64 MiB that is removed again [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Write everything found to FILE; - is standard output, without the text
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

impl DoctorArgs {
    pub(crate) fn layer(&self) -> Layer {
        let mut flags = layer([("data-dir", &self.data_dir)]);
        flags.append(&mut self.machine.layer());
        flags
    }
}
