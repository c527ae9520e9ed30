//! [`DeviceBlocks`]: the blocks of a cache group on a device, in the layout of `cache::layer`.

use super::pool::Buffer;
use super::stream::Stream;
use crate::Error;
use std::sync::Arc;

/// All blocks of a group.
#[derive(Debug)]
pub(crate) struct DeviceBlocks {
    stream: Arc<Stream>,
    buffer: Buffer,
    bytes: usize,
}

impl DeviceBlocks {
    /// `bytes` zeros.
    pub(crate) fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Self, Error> {
        let buffer = stream.take_apart(bytes)?;
        stream.clear(buffer.at(), bytes);
        Ok(Self {
            stream: Arc::clone(stream),
            buffer,
            bytes,
        })
    }

    /// Where they are, if they are of this stream.
    pub(super) fn at(&self, stream: &Stream) -> Result<u64, Error> {
        if stream.owns(&self.buffer) {
            return Ok(self.buffer.at());
        }
        Err(Error::Device(
            crate::Fault::Other,
            "a cache of another context".to_owned(),
        ))
    }

    /// Bytes of all.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes `at..at + N` of the group, for tests: the processor waits.
    pub(crate) fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at + N <= self.bytes, "bytes {at}.. of {}", self.bytes);
        let mut bytes = [0; N];
        let stream = &self.stream;
        stream.attempt(|| stream.download(self.buffer.at() + at as u64, &mut bytes));
        bytes
    }

    /// Puts numbers at byte `at`.
    pub(crate) fn write(&self, at: usize, values: &[f32]) {
        assert!(
            at + size_of_val(values) <= self.bytes,
            "numbers beyond the last"
        );
        let stream = &self.stream;
        stream.attempt(|| stream.upload(self.buffer.at() + at as u64, values));
    }

    /// Copies `bytes` bytes at `from` to `to`.
    pub(crate) fn copy(&self, from: usize, to: usize, bytes: usize) {
        assert!(
            from.max(to) + bytes <= self.bytes,
            "a block beyond the last"
        );
        let (stream, start) = (&self.stream, self.buffer.at());
        stream.copy(start + from as u64, start + to as u64, bytes);
    }

    /// Writes small numbers over all of them.
    pub(crate) fn fill(&self) {
        self.stream.fill(self.buffer.at(), 0x3c, self.bytes);
    }
}

impl Drop for DeviceBlocks {
    fn drop(&mut self) {
        // The memory goes back to the device: what was asked of it goes there first.
        let stream = &self.stream;
        stream.attempt(|| stream.submit());
    }
}
