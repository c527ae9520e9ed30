//! [`Upload`]: weights brought to a device as they are loaded, so that the host does not keep them.

use super::gpu::Gpu;
use super::stream::Stream;
use super::weight::OnDevice;
use crate::{Error, PackedWeight};
use std::sync::Arc;

/// A way to a device, for weights. Clones share it.
#[derive(Debug, Clone)]
pub struct Upload {
    gpu: Arc<Gpu>,
    stream: Arc<Stream>,
}

impl Upload {
    /// To `gpu`.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no stream to give.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        Ok(Self {
            gpu: Arc::clone(gpu),
            stream: Stream::new(Arc::clone(gpu))?,
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(crate) fn bring(&self, weight: &PackedWeight) -> Result<OnDevice, Error> {
        self.gpu.enter()?;
        OnDevice::new(&self.stream, weight)
    }
}
