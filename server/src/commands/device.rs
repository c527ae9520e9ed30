//! [`Devices`]: a loaded model comes to what shall compute it: the processors of this machine, where it is already, or Neuron cores.
//!
//! Owns: the one start of the Neuron runtime, when the CPU may take over. Must not know: how a device computes. The only place that
//! depends on the feature `neuron`.

use crate::config::{DeviceChoice, ModelConfig};
use anyhow::Context;
use koma_engine::models::{LoadOptions, Loaded, Model};

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
        loaded: Loaded,
    ) -> anyhow::Result<Loaded> {
        let auto = match model.device.choice {
            DeviceChoice::Cpu => return Ok(loaded),
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

/// Why a model is not prepared.
#[cfg(feature = "neuron")]
enum Refusal {
    Load(LoadError),
    Serving(ServingError),
}
