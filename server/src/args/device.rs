//! Flags that say what computes a model.

use super::{Layer, layer};
use clap::Args;

/// What computes; as flags and variables for all models, in the file also for one.
#[derive(Debug, Default, Args)]
pub(crate) struct DeviceArgs {
    /// What computes: cpu, neuron (AWS Inferentia and Trainium, for encoders), cuda:N (an NVIDIA GPU), auto (a GPU, else neuron where there is a device and an export, else cpu) [default: cpu]
    #[arg(long, value_name = "cpu|neuron|cuda:N|auto")]
    device: Option<String>,
    /// Part of a GPU's free memory that all models on it may use together [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    gpu_memory_utilization: Option<String>,
    /// Replay steps of a GPU that come again as graphs [default: on]
    #[arg(long, value_name = "on|off")]
    cuda_graphs: Option<String>,
    /// Export of the one model that is loaded, compiled for a Neuron device [default: the folder `neuron` in the model's folder]
    #[arg(long, value_name = "DIR")]
    neuron: Option<String>,
    /// Neuron runtime [default: libnrt.so.1, as the system looks for libraries, then in /opt/aws/neuron/lib]
    #[arg(long, value_name = "FILE")]
    neuron_library: Option<String>,
}

impl DeviceArgs {
    pub(crate) fn layer(&self) -> Layer {
        layer([
            ("device", &self.device),
            ("gpu-memory-utilization", &self.gpu_memory_utilization),
            ("cuda-graphs", &self.cuda_graphs),
            ("neuron", &self.neuron),
            ("neuron-library", &self.neuron_library),
        ])
    }
}
