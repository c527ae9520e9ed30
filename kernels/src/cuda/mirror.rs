//! [`Mirror`]: the values of a [`crate::Rows`] on a device, and which side wrote them last.

use super::pool::Buffer;
use super::stream::Stream;
use crate::Error;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The device's side of a matrix. The host's side is the matrix's own memory, but for what is read of values that the device has.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    /// The values on the device, if they are there.
    device: OnceLock<(Arc<Stream>, Buffer)>,
    /// Whether the device wrote them last.
    ahead: bool,
    /// Copies of values that the device wrote, made when somebody reads them.
    read: OnceLock<Vec<f32>>,
    /// Memory for the next copy.
    spare: Mutex<Vec<f32>>,
}

impl Mirror {
    /// The values, if the device wrote them last. All zero if they are lost with the step.
    pub(crate) fn values(&self, len: usize) -> Option<&[f32]> {
        if !self.ahead {
            return None;
        }
        let values = self.read.get_or_init(|| {
            let mut values =
                std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
            values.clear();
            values.resize(len, 0.0);
            self.fetch(&mut values);
            values
        });
        Some(&values[..len])
    }

    fn fetch(&self, to: &mut [f32]) {
        if let Some((stream, buffer)) = self.device.get() {
            stream.attempt(|| stream.download(buffer.at(), to));
        }
    }

    /// The host is about to write: `data` gets the values that the device has.
    pub(crate) fn bring_home(&mut self, data: &mut Vec<f32>, len: usize) {
        if self.ahead {
            if data.len() < len {
                data.resize(len, 0.0);
            }
            match self.read.get() {
                Some(values) => data[..len].copy_from_slice(values),
                None => self.fetch(&mut data[..len]),
            }
        }
        self.forget();
    }

    /// The device's values do not count any more.
    pub(crate) fn forget(&mut self) {
        self.ahead = false;
        self.device.take();
        self.stale();
    }

    /// What was read of the device does not count any more.
    fn stale(&mut self) {
        if let Some(values) = self.read.take() {
            *self.spare.get_mut().unwrap_or_else(PoisonError::into_inner) = values;
        }
    }

    /// Where `data`, or what the device has, is on the device of `stream`.
    pub(crate) fn on(&self, stream: &Arc<Stream>, data: &[f32]) -> Result<u64, Error> {
        if self.device.get().is_none() {
            let buffer = stream.take(size_of_val(data))?;
            stream.upload(buffer.at(), data)?;
            // Another reader may have been first: its copy is as good.
            let _ = self.device.set((Arc::clone(stream), buffer));
        }
        self.place(stream)
    }

    fn place(&self, stream: &Arc<Stream>) -> Result<u64, Error> {
        match self.device.get() {
            Some((of, buffer)) if Arc::ptr_eq(of, stream) => Ok(buffer.at()),
            _ => Err(Error::Device(
                crate::Fault::Other,
                "activations of another context".to_owned(),
            )),
        }
    }

    /// Memory for `len` values that the device is about to write; what was there does not count any more.
    pub(crate) fn write_on(&mut self, stream: &Arc<Stream>, len: usize) -> Result<u64, Error> {
        self.stale();
        self.ahead = false;
        let fits = |(of, buffer): &(Arc<Stream>, Buffer)| {
            Arc::ptr_eq(of, stream) && buffer.bytes() >= len * size_of::<f32>()
        };
        if !self.device.get().is_some_and(fits) {
            self.device.take();
            let buffer = stream.take(len * size_of::<f32>())?;
            let _ = self.device.set((Arc::clone(stream), buffer));
        }
        self.ahead = true;
        self.place(stream)
    }

    /// As [`Mirror::on`], for work that changes the values.
    pub(crate) fn change_on(&mut self, stream: &Arc<Stream>, data: &[f32]) -> Result<u64, Error> {
        let at = self.on(stream, data)?;
        self.stale();
        self.ahead = true;
        Ok(at)
    }
}
