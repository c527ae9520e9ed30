//! [`Devices`]: a loaded model comes to what shall compute it: the processors of this machine, where it is already, Neuron cores, or
//! a GPU.
//!
//! Owns: the one start of the Neuron runtime, when the CPU may take over. Must not know: how a device computes. The only place that
//! depends on the features `neuron` and `cuda`.

use crate::config::{DeviceChoice, ModelConfig};
use anyhow::Context;
use koma_engine::models::{LoadOptions, Loaded, Model};

#[cfg(feature = "cuda")]
use koma_engine::models::{Device, kernels::cuda::Gpu};
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
    /// `loaded`, computed by what `model` asks for. With `auto` a missing device is only logged.
    ///
    /// # Errors
    /// If there is no such device, or the model's export is damaged or another model's.
    pub(super) fn place(
        &self,
        model: &ModelConfig,
        options: &LoadOptions,
        mut loaded: Loaded,
    ) -> anyhow::Result<Loaded> {
        let auto = match model.device.choice {
            DeviceChoice::Cpu => return Ok(loaded),
            DeviceChoice::Neuron => false,
            DeviceChoice::Cuda(number) => {
                let name = &model.name;
                let failed = || format!("model `{name}` cannot be served by a GPU");
                return place_on_cuda(model, loaded, number)
                    .map_err(|(error, _)| error)
                    .with_context(failed);
            }
            DeviceChoice::Auto if cfg!(feature = "cuda") => match place_on_cuda(model, loaded, 0) {
                Ok(placed) => return Ok(placed),
                Err((error, back)) => {
                    let reason = error.to_string();
                    tracing::warn!(model = model.name, reason, "no GPU for this model");
                    loaded = *back;
                    if matches!(loaded.model, Model::Decoder(_)) {
                        return Ok(loaded);
                    }
                    true
                }
            },
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

/// A model that no GPU will compute, and why.
type NotOnGpu = (anyhow::Error, Box<Loaded>);

/// `loaded`, computed by GPU `number`.
#[cfg(feature = "cuda")]
fn place_on_cuda(
    model: &ModelConfig,
    mut loaded: Loaded,
    number: usize,
) -> Result<Loaded, NotOnGpu> {
    match Gpu::open(number, f64::from(model.device.gpu_memory) / 1000.0) {
        Ok(gpu) => {
            let (used, limit) = gpu.memory();
            let info = gpu.info();
            tracing::info!(
                model = model.name,
                device = format!("cuda:{number}"),
                name = info.name,
                memory = info.memory,
                used,
                limit,
                "a GPU computes this model"
            );
            loaded.device = Device::Cuda(gpu);
            Ok(loaded)
        }
        Err(error) => Err((error.into(), Box::new(loaded))),
    }
}

#[cfg(not(feature = "cuda"))]
fn place_on_cuda(_: &ModelConfig, loaded: Loaded, number: usize) -> Result<Loaded, NotOnGpu> {
    let error = anyhow::anyhow!(
        "cuda:{number}: this koma was built without the feature `cuda`; scripts/build-cuda builds one with it"
    );
    Err((error, Box::new(loaded)))
}

/// Why a model is not prepared.
#[cfg(feature = "neuron")]
enum Refusal {
    Load(LoadError),
    Serving(ServingError),
}
