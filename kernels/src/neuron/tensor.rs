//! [`Tensor`]: memory on a device; [`TensorSet`]: tensors by name, as an execution takes them.

use super::api::{ON_DEVICE, RawSet, RawTensor};
use super::status::{check, handle};
use super::{NeuronError, Runtime};
use crate::memory::Plain;
use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

/// What the values of a tensor are (`nrt_dtype_t`), as far as it is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// bf16
    Bf16,
    /// f16
    F16,
    /// 32-bit whole numbers
    I32,
    /// f32
    F32,
    /// 64-bit whole numbers
    I64,
    /// Another one.
    Other(i32),
}

impl Dtype {
    pub(super) fn of(raw: i32) -> Self {
        match raw {
            0x6 => Self::Bf16,
            0x7 => Self::F16,
            0x8 => Self::I32,
            0xA => Self::F32,
            0xC => Self::I64,
            other => Self::Other(other),
        }
    }
}

/// Memory of one core's device.
pub struct Tensor {
    raw: NonNull<RawTensor>,
    bytes: usize,
    runtime: Arc<Runtime>,
}

impl Tensor {
    /// `bytes` bytes for `core`; `name` is for the runtime's own messages.
    ///
    /// # Errors
    /// If the device has no such memory.
    pub fn allocate(
        runtime: &Arc<Runtime>,
        core: u32,
        bytes: usize,
        name: &str,
    ) -> Result<Self, NeuronError> {
        let name = text(name)?;
        let core = i32::try_from(core)
            .map_err(|_| NeuronError::Contract(format!("there is no core {core}")))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the name ends with a zero and outlives the call, and the handle is written during the call only.
        let status = unsafe {
            (runtime.api.nrt_tensor_allocate)(ON_DEVICE, core, bytes, name.as_ptr(), &raw mut raw)
        };
        check("nrt_tensor_allocate", status)?;
        Ok(Self {
            raw: handle("nrt_tensor_allocate", raw)?,
            bytes,
            runtime: Arc::clone(runtime),
        })
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills it with the bytes of `values`.
    ///
    /// # Errors
    /// If they are not as many as it holds, or the device failed.
    pub fn write(&self, values: &[u8]) -> Result<(), NeuronError> {
        self.write_all(values)
    }

    /// As [`Tensor::write`], with numbers in this machine's order of bytes.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn write_i32(&self, values: &[i32]) -> Result<(), NeuronError> {
        self.write_all(values)
    }

    fn write_all<T: Plain>(&self, values: &[T]) -> Result<(), NeuronError> {
        let bytes = size_of_val(values);
        self.check_size(bytes)?;
        // SAFETY: `values` is that many bytes long and outlives the call, which copies them; the tensor holds as many.
        let status = unsafe {
            (self.runtime.api.nrt_tensor_write)(self.raw.as_ptr(), values.as_ptr().cast(), 0, bytes)
        };
        check("nrt_tensor_write", status)
    }

    /// Copies all of it to `values`.
    ///
    /// # Errors
    /// If it does not hold as many, or the device failed.
    pub fn read_f32(&self, values: &mut [f32]) -> Result<(), NeuronError> {
        let bytes = size_of_val(values);
        self.check_size(bytes)?;
        // SAFETY: `values` is that many bytes long, nobody else has it, any bytes are f32 values, and the tensor holds as many.
        let status = unsafe {
            (self.runtime.api.nrt_tensor_read)(
                self.raw.as_ptr(),
                values.as_mut_ptr().cast(),
                0,
                bytes,
            )
        };
        check("nrt_tensor_read", status)
    }

    fn check_size(&self, bytes: usize) -> Result<(), NeuronError> {
        if bytes == self.bytes {
            return Ok(());
        }
        let held = self.bytes;
        Err(NeuronError::Contract(format!(
            "{bytes} bytes for a tensor of {held}"
        )))
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: the handle is this tensor's own and is not used again; every set that held it is gone, for it held this
        // tensor as well.
        unsafe { (self.runtime.api.nrt_tensor_free)(&raw mut raw) }
    }
}

/// Tensors by name. It keeps them for as long as it lives.
pub struct TensorSet {
    raw: NonNull<RawSet>,
    tensors: Vec<Rc<Tensor>>,
    runtime: Arc<Runtime>,
}

impl TensorSet {
    /// An empty set.
    ///
    /// # Errors
    /// If the runtime has no memory for it.
    pub fn new(runtime: &Arc<Runtime>) -> Result<Self, NeuronError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the handle is written during the call only.
        let status = unsafe { (runtime.api.nrt_allocate_tensor_set)(&raw mut raw) };
        check("nrt_allocate_tensor_set", status)?;
        Ok(Self {
            raw: handle("nrt_allocate_tensor_set", raw)?,
            tensors: Vec::new(),
            runtime: Arc::clone(runtime),
        })
    }

    /// Adds `tensor` under the name that the NEFF has for it. A tensor can be in several sets.
    ///
    /// # Errors
    /// If the runtime refuses it.
    pub fn add(&mut self, name: &str, tensor: &Rc<Tensor>) -> Result<(), NeuronError> {
        let name = text(name)?;
        // SAFETY: both handles are alive, the name ends with a zero and outlives the call.
        let status = unsafe {
            (self.runtime.api.nrt_add_tensor_to_tensor_set)(
                self.raw.as_ptr(),
                name.as_ptr(),
                tensor.raw.as_ptr(),
            )
        };
        check("nrt_add_tensor_to_tensor_set", status)?;
        self.tensors.push(Rc::clone(tensor));
        Ok(())
    }

    pub(super) fn raw(&self) -> NonNull<RawSet> {
        self.raw
    }
}

impl Drop for TensorSet {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: the handle is this set's own and is not used again. Its tensors are dropped after this.
        unsafe { (self.runtime.api.nrt_destroy_tensor_set)(&raw mut raw) }
    }
}

/// A text as C has it.
fn text(name: &str) -> Result<CString, NeuronError> {
    CString::new(name)
        .map_err(|_| NeuronError::Contract(format!("the name {name:?} holds a zero byte")))
}
