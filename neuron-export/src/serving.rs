//! Serving on Neuron devices: a loaded model and its artifact become a model that the device computes.
//!
//! Owns: what must hold before an artifact is used, the cores, which bucket takes which requests, what becomes of a failed
//! execution. Must not know: requests, HTTP, flags.
//!
//! Invariants: whatever of an artifact does not fit the model, its own manifest or the device is refused before anything is served;
//! answers come back in the order of the batch. A row's bits depend on its own tokens and on the bucket that it ran in, and so
//! not on the other rows; between buckets they may differ in the last digits.

mod cores;
mod encoder;
mod error;
mod plan;
mod route;
mod weights;
mod worker;

pub use cores::{Cores, instance_type};
pub use error::ServingError;

use crate::manifest::{Manifest, Status};
use encoder::NeuronEncoder;
use koma_models::kernels::{Cx, Error, Fault};
use koma_models::{Batch, Device, Encoder, Loaded, Model, NeuronCounters, Prompts, Workspace};
use plan::Plan;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weights::Weights;
use worker::Worker;

/// What to serve a model with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingOptions {
    /// The artifact's folder.
    pub artifact: PathBuf,
    /// The folder that the model was loaded from; its files are compared with those of the export.
    pub model: PathBuf,
    /// The type of this machine ([`instance_type`]), such as `inf2.xlarge`; not compared with the artifact's target if unknown.
    pub instance: Option<String>,
}

impl ServingOptions {
    /// Fails if there is no artifact: known without a device.
    ///
    /// # Errors
    /// [`ServingError::NoArtifact`].
    pub fn check_folder(&self) -> Result<(), ServingError> {
        if self.artifact.is_dir() {
            return Ok(());
        }
        Err(ServingError::NoArtifact(self.artifact.clone()))
    }
}

/// An artifact on the cores, ready to take the place of the CPU.
pub struct Prepared {
    workers: Vec<Worker>,
    plan: Arc<Plan>,
}

/// Checks the artifact against `loaded`, and loads it onto every core.
///
/// # Errors
/// [`ServingError`]: the first thing that does not fit, or that the device refuses.
pub fn prepare(
    loaded: &Loaded,
    cores: &Arc<Cores>,
    options: &ServingOptions,
) -> Result<Prepared, ServingError> {
    options.check_folder()?;
    let folder = &options.artifact;
    let manifest = Manifest::read_compiled(folder)?;
    check_model(loaded, &manifest, options)?;
    let prepared = load(&manifest, folder, cores, options.instance.as_deref())?;
    if manifest.status < Status::NeffCompiled {
        let status = manifest.status;
        tracing::warn!(artifact = %folder.display(), ?status, "nobody has checked this artifact's numbers");
    }
    Ok(prepared)
}

/// Loads the artifact `folder` onto every core.
fn load(
    manifest: &Manifest,
    folder: &Path,
    cores: &Arc<Cores>,
    instance: Option<&str>,
) -> Result<Prepared, ServingError> {
    let plan = Arc::new(Plan::new(manifest, folder, instance)?);
    let weights = Weights::read(manifest, folder)?.map(Arc::new);
    let starting: Vec<_> = (0..cores.count())
        .map(|core| Worker::start(cores, core, &plan, weights.clone()))
        .collect::<Result<_, _>>()?;
    let workers = starting
        .into_iter()
        .map(worker::Starting::wait)
        .collect::<Result<_, _>>()?;
    Ok(Prepared { workers, plan })
}

/// The cores as an encoder of the one bucket that `manifest` has, with nobody to do again what they give no numbers for.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn alone(
    manifest: &Manifest,
    folder: &Path,
    cores: &Arc<Cores>,
    instance: Option<&str>,
) -> Result<Box<dyn Encoder>, ServingError> {
    let Prepared { workers, plan } = load(manifest, folder, cores, instance)?;
    let buckets = plan.neuron_buckets();
    let counters = Arc::new(NeuronCounters::new(buckets, workers.len()));
    let encoder = NeuronEncoder::new(workers, plan, Box::new(Nobody), counters);
    Ok(Box::new(encoder))
}

/// Stands where the CPU would be.
struct Nobody;

impl Encoder for Nobody {
    fn forward(&self, _: &Cx, _: &Batch, _: &mut Workspace) -> Result<(), Error> {
        let reason = "the device gave values that are not numbers";
        Err(Error::Device(Fault::Other, reason.to_owned()))
    }
}

impl Prepared {
    /// `loaded`, computed by the cores. Its own layers are kept: they do again what a device gave no numbers for. Requests are at
    /// most as long as the longest bucket.
    ///
    /// # Errors
    /// If it is no encoder: [`prepare`] was asked about another model.
    pub fn attach(self, mut loaded: Loaded) -> Result<Loaded, ServingError> {
        let cpu: Box<dyn Encoder> = match loaded.model {
            Model::Encoder(encoder) => encoder,
            Model::Decoder(_) => return Err(ServingError::decoder()),
        };
        let buckets = self.plan.neuron_buckets();
        let counters = Arc::new(NeuronCounters::new(buckets, self.workers.len()));
        loaded.limits.max_len = loaded.limits.max_len.min(self.plan.longest());
        loaded.device = Device::Neuron(Arc::clone(&counters));
        loaded.model = Model::Encoder(Box::new(NeuronEncoder::new(
            self.workers,
            self.plan,
            cpu,
            counters,
        )));
        Ok(loaded)
    }
}

/// Fails if the artifact is not of this model, or cannot do what it does.
fn check_model(
    loaded: &Loaded,
    manifest: &Manifest,
    options: &ServingOptions,
) -> Result<(), ServingError> {
    let Some(head) = &loaded.head else {
        return Err(ServingError::decoder());
    };
    let Prompts { named, pooled, .. } = &head.prompts;
    if !named.is_empty() && !pooled {
        let reason =
            "its prompts take no part in the vector of a text, which a compiled module cannot do";
        return Err(ServingError::Unfit(reason.to_owned()));
    }
    let facts = (&loaded.identity, head, &loaded.limits);
    manifest.check_model(&options.artifact, facts)?;
    manifest.check_source(&options.model)?;
    // All bytes: the hash that identifies a loaded model is of samples.
    Ok(manifest.check_weights(&options.model)?)
}
