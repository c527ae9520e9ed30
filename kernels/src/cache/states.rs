//! [`StateLayer`]: the states of one layer of a recurrent group, here or on a device.

#[cfg(feature = "cuda")]
use crate::cuda::DeviceBlocks;

/// States of one layer: `[slots, values]`.
#[derive(Debug)]
pub struct StateLayer<'a> {
    values: usize,
    slots: usize,
    /// Those of this layer; empty if a device has them.
    here: &'a mut [f32],
    /// Those of all layers, and where this one begins among them, in numbers.
    #[cfg(feature = "cuda")]
    device: Option<(&'a DeviceBlocks, usize)>,
}

impl<'a> StateLayer<'a> {
    pub(super) fn new((values, slots): (usize, usize), here: &'a mut [f32]) -> Self {
        Self {
            values,
            slots,
            here,
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// Numbers of a state.
    pub fn values(&self) -> usize {
        self.values
    }

    /// States that there are.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The state in `slot`; `out`: `[values]`.
    ///
    /// # Panics
    /// If there is no such slot, or `out` is not as long.
    #[track_caller]
    pub fn read(&self, slot: usize, out: &mut [f32]) {
        let at = self.place(slot, out.len());
        #[cfg(feature = "cuda")]
        if let Some((device, start)) = self.device {
            for (i, value) in out.iter_mut().enumerate() {
                *value = f32::from_le_bytes(device.read(4 * (start + at + i)));
            }
            return;
        }
        out.copy_from_slice(&self.here[at..at + self.values]);
    }

    /// Puts a state into `slot`; `state`: `[values]`.
    ///
    /// # Panics
    /// As [`StateLayer::read`].
    #[track_caller]
    pub fn write(&mut self, slot: usize, state: &[f32]) {
        let at = self.place(slot, state.len());
        #[cfg(feature = "cuda")]
        if let Some((device, start)) = self.device {
            return device.write(4 * (start + at), state);
        }
        self.here[at..at + self.values].copy_from_slice(state);
    }

    #[track_caller]
    fn place(&self, slot: usize, len: usize) -> usize {
        assert!(slot < self.slots, "state {slot} of {}", self.slots);
        assert_eq!(len, self.values, "values of a state");
        slot * self.values
    }
}

#[cfg(feature = "cuda")]
impl<'a> StateLayer<'a> {
    /// The same, of states that a device has; `start`: where this layer begins, in numbers.
    pub(super) fn with(self, device: Option<&'a DeviceBlocks>, start: usize) -> Self {
        let device = device.map(|device| (device, start));
        Self { device, ..self }
    }

    /// The states on its device, and where this layer begins, in numbers.
    pub(crate) fn device(&self) -> Option<(&DeviceBlocks, usize)> {
        self.device
    }
}
