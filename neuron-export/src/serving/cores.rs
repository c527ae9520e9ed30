//! [`Cores`]: the Neuron cores of this process.

use super::ServingError;
use koma_models::kernels::neuron::Runtime;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where Linux tells the type of an EC2 instance.
const PRODUCT_NAME: &str = "/sys/devices/virtual/dmi/id/product_name";

/// The runtime, started once in a process, and its cores. A core computes for one model at a time.
pub struct Cores {
    busy: Vec<Mutex<()>>,
    runtime: Arc<Runtime>,
}

impl Cores {
    /// Starts the runtime in the library `file`, or where it usually is.
    ///
    /// # Errors
    /// If there is no runtime, or no device.
    pub fn start(file: Option<&Path>) -> Result<Arc<Self>, ServingError> {
        let failed = ServingError::device("no Neuron device");
        let runtime = Runtime::start(file).map_err(failed)?;
        if runtime.cores() == 0 {
            return Err(ServingError::NoCore);
        }
        let busy = (0..runtime.cores()).map(|_| Mutex::default()).collect();
        Ok(Arc::new(Self { busy, runtime }))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.runtime.cores()
    }

    /// The runtime's version, if it tells.
    pub fn version(&self) -> Option<&str> {
        self.runtime.version()
    }

    pub(super) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Waits until no other model computes on `core`.
    pub(super) fn take(&self, core: u32) -> MutexGuard<'_, ()> {
        let busy = &self.busy[core as usize];
        busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The type of this machine, such as `inf2.xlarge`, if it is an EC2 instance that tells.
pub fn instance_type() -> Option<String> {
    let name = std::fs::read_to_string(PRODUCT_NAME).ok()?;
    let name = name.trim();
    let (family, size) = name.split_once('.')?;
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    (plain(family) && plain(size)).then(|| name.to_owned())
}
