//! [`Devices`]: a loaded model comes to what shall compute it: the processors of this machine, where it is already, Neuron cores, or
//! a GPU.
//!
//! Owns: the one start of the Neuron runtime, when the CPU may take over. Must not know: how a device computes. The only place that
//! depends on the features `neuron` and `cuda`.

use crate::config::{DeviceChoice, ModelConfig};
use anyhow::Context;
use koma_engine::models::{LoadOptions, Loaded, Model};

#[cfg(feature = "cuda")]
use koma_engine::models::kernels::cuda::{Gpu, Upload};
#[cfg(feature = "neuron")]
use koma_engine::models::{LoadError, folder};
#[cfg(feature = "neuron")]
use koma_neuron_export::serving::{Cores, Prepared, ServingError, ServingOptions};
#[cfg(feature = "neuron")]
use std::{cell::RefCell, path::Path, sync::Arc};

/// The devices of this process.
#[derive(Default)]
pub(super) struct Devices {
    /// None until the first model wants them.
    #[cfg(feature = "neuron")]
    cores: RefCell<Option<Arc<Cores>>>,
}

impl Devices {
    /// The way to the GPU that shall compute `model`, if one shall. With `auto` a missing one is only logged.
    ///
    /// # Errors
    /// If there is no such GPU, with what was found and what is needed.
    pub(super) fn gpu(model: &ModelConfig) -> anyhow::Result<OnGpu> {
        let name = &model.name;
        let failed = || format!("model `{name}` cannot be served by a GPU");
        match model.device.choice {
            DeviceChoice::Cuda(number) => Ok(Some(open(model, number).with_context(failed)?)),
            DeviceChoice::Auto if cfg!(feature = "cuda") => match open(model, 0) {
                Ok(gpu) => Ok(Some(gpu)),
                Err(error) => {
                    let reason = format!("{error:#}");
                    tracing::warn!(model = name, reason, "no GPU for this model");
                    Ok(None)
                }
            },
            _ => Ok(None),
        }
    }

    /// `loaded`, computed by what `model` asks for. With `auto` a missing device is only logged.
    ///
    /// # Errors
    /// If there is no such device, or the model's export is damaged or another model's.
    pub(super) fn place(
        &self,
        model: &ModelConfig,
        options: &LoadOptions,
        loaded: Loaded,
    ) -> anyhow::Result<Loaded> {
        if options.on_gpu() {
            return Ok(loaded);
        }
        let auto = match model.device.choice {
            DeviceChoice::Cpu | DeviceChoice::Cuda(_) => return Ok(loaded),
            DeviceChoice::Neuron => false,
            DeviceChoice::Auto if matches!(loaded.model, Model::Decoder(_)) => return Ok(loaded),
            DeviceChoice::Auto => true,
        };
        let name = &model.name;
        let failed = || format!("model `{name}` cannot be served by a Neuron device");
        self.place_on_neuron(model, options, loaded, auto)
            .with_context(failed)
    }

    #[cfg(feature = "neuron")]
    fn place_on_neuron(
        &self,
        model: &ModelConfig,
        options: &LoadOptions,
        loaded: Loaded,
        auto: bool,
    ) -> anyhow::Result<Loaded> {
        match self.prepare(model, options, &loaded) {
            Ok(prepared) => Ok(prepared.attach(loaded)?),
            Err(Refusal::Serving(error)) if auto && error.no_device() => {
                let reason = error.to_string();
                tracing::warn!(
                    model = model.name,
                    reason,
                    "no Neuron device for this model; the CPU computes it"
                );
                Ok(loaded)
            }
            Err(Refusal::Serving(error)) => Err(error.into()),
            Err(Refusal::Load(error)) => Err(error.into()),
        }
    }

    #[cfg(feature = "neuron")]
    fn prepare(
        &self,
        model: &ModelConfig,
        options: &LoadOptions,
        loaded: &Loaded,
    ) -> Result<Prepared, Refusal> {
        let Some(source) = folder(&model.source, options).map_err(Refusal::Load)? else {
            let reason = "a GGUF file has no export; give the folder that it was made from";
            return Err(Refusal::Serving(ServingError::Unfit(reason.to_owned())));
        };
        let given = model.device.artifact.clone();
        let serving = ServingOptions {
            artifact: given.unwrap_or_else(|| source.join("neuron")),
            model: source,
            instance: koma_neuron_export::serving::instance_type(),
        };
        let prepare = || {
            serving.check_folder()?;
            let cores = self.cores(model.device.library.as_deref())?;
            koma_neuron_export::serving::prepare(loaded, &cores, &serving)
        };
        prepare().map_err(Refusal::Serving)
    }

    /// The cores, started when they are first asked for.
    #[cfg(feature = "neuron")]
    fn cores(&self, library: Option<&Path>) -> Result<Arc<Cores>, ServingError> {
        let mut cores = self.cores.borrow_mut();
        if let Some(cores) = &*cores {
            return Ok(Arc::clone(cores));
        }
        let started = Cores::start(library)?;
        Ok(Arc::clone(cores.insert(started)))
    }

    #[cfg(not(feature = "neuron"))]
    #[expect(clippy::unused_self, reason = "with the feature there are cores in it")]
    fn place_on_neuron(
        &self,
        model: &ModelConfig,
        _: &LoadOptions,
        loaded: Loaded,
        auto: bool,
    ) -> anyhow::Result<Loaded> {
        let reason = "this koma was built without the feature `neuron`";
        anyhow::ensure!(auto, reason);
        tracing::warn!(
            model = model.name,
            reason,
            "no Neuron device for this model; the CPU computes it"
        );
        Ok(loaded)
    }
}

/// A way to a GPU for a model's weights, if one shall compute it.
#[cfg(feature = "cuda")]
pub(super) type OnGpu = Option<Upload>;
/// There is none in this build.
#[cfg(not(feature = "cuda"))]
pub(super) type OnGpu = Option<std::convert::Infallible>;

/// The way to GPU `number`.
#[cfg(feature = "cuda")]
fn open(model: &ModelConfig, number: usize) -> anyhow::Result<Upload> {
    let gpu = Gpu::open(number, f64::from(model.device.gpu_memory) / 1000.0)?;
    let ((used, limit), info) = (gpu.memory(), gpu.info());
    tracing::info!(
        model = model.name,
        device = format!("cuda:{number}"),
        name = info.name,
        memory = info.memory,
        used,
        limit,
        "a GPU computes this model"
    );
    if !gpu.has_library() {
        static SAID: std::sync::Once = std::sync::Once::new();
        SAID.call_once(|| {
            tracing::info!(
                "cuBLASLt was not found (libcublasLt.so.13, of CUDA 13): products of many rows run in Koma's own kernels"
            );
        });
    }
    Ok(Upload::new(&gpu)?)
}

#[cfg(not(feature = "cuda"))]
fn open(_: &ModelConfig, number: usize) -> anyhow::Result<std::convert::Infallible> {
    anyhow::bail!(
        "cuda:{number}: this koma was built without the feature `cuda`; scripts/build-cuda builds one with it"
    )
}

/// Why a model is not prepared.
#[cfg(feature = "neuron")]
enum Refusal {
    Load(LoadError),
    Serving(ServingError),
}
