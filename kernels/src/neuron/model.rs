//! [`Model`]: a NEFF, loaded onto a core.

use super::api::{CORES_OF_NEFF, INPUT, OUTPUT, RawInfo, RawInfos, RawModel};
use super::status::{check, handle};
use super::{Dtype, NeuronError, Runtime, TensorSet};
use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Most tensors and dimensions that a description is believed to have.
const MOST_TENSORS: u64 = 1 << 16;
const MOST_DIMENSIONS: u32 = 32;

/// Whether an execution reads or writes a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It is read.
    Input,
    /// It is written.
    Output,
}

/// What a NEFF says of one of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, which it has in a [`TensorSet`].
    pub name: String,
    /// Read or written.
    pub usage: Usage,
    /// What its values are.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<u32>,
    /// Its bytes.
    pub bytes: usize,
}

/// A NEFF on one core. It belongs to the thread that loaded it.
pub struct Model {
    raw: NonNull<RawModel>,
    runtime: Arc<Runtime>,
}

impl Model {
    /// Loads `neff` onto `core`.
    ///
    /// # Errors
    /// If it is none, is of a version that the runtime does not support, or does not fit.
    pub fn load(runtime: &Arc<Runtime>, core: u32, neff: &[u8]) -> Result<Self, NeuronError> {
        let core = i32::try_from(core)
            .map_err(|_| NeuronError::Contract(format!("there is no core {core}")))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the bytes outlive the call, which keeps no reference to them; the handle is written during the call only.
        let status = unsafe {
            (runtime.api.nrt_load)(
                neff.as_ptr().cast(),
                neff.len(),
                core,
                CORES_OF_NEFF,
                &raw mut raw,
            )
        };
        check("nrt_load", status)?;
        Ok(Self {
            raw: handle("nrt_load", raw)?,
            runtime: Arc::clone(runtime),
        })
    }

    /// Its tensors, in the order of the NEFF; none if this version of the runtime does not tell.
    ///
    /// # Errors
    /// If the runtime cannot tell, or tells what cannot be.
    pub fn tensors(&self) -> Result<Option<Vec<TensorInfo>>, NeuronError> {
        let api = &self.runtime.api;
        let functions = api.nrt_get_model_tensor_info;
        let Some((get, free)) = functions.zip(api.nrt_free_model_tensor_info) else {
            return Ok(None);
        };
        let mut raw = ptr::null_mut();
        // SAFETY: the model is loaded, and the handle is written during the call only.
        let status = unsafe { get(self.raw.as_ptr(), &raw mut raw) };
        check("nrt_get_model_tensor_info", status)?;
        let infos = handle("nrt_get_model_tensor_info", raw)?;
        // SAFETY: the runtime gave the array with success, and it is freed below, after this.
        let read = unsafe { read_infos(infos) };
        // SAFETY: the array is the runtime's own, and nothing refers to it any more.
        let status = unsafe { free(infos.as_ptr()) };
        check("nrt_free_model_tensor_info", status)?;
        read.map(Some)
    }

    /// Runs it once, and waits for its end: reads `inputs`, writes `outputs`.
    ///
    /// # Errors
    /// If the device failed, or the tensors are not those of the model.
    pub fn execute(&self, inputs: &TensorSet, outputs: &mut TensorSet) -> Result<(), NeuronError> {
        // SAFETY: model and sets are alive, and no other thread has them. The sets keep their tensors.
        let status = unsafe {
            (self.runtime.api.nrt_execute)(
                self.raw.as_ptr(),
                inputs.raw().as_ptr(),
                outputs.raw().as_ptr(),
            )
        };
        check("nrt_execute", status)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the handle is this model's own and is not used again.
        let status = unsafe { (self.runtime.api.nrt_unload)(self.raw.as_ptr()) };
        // Nobody is left who could do anything about a refusal.
        drop(check("nrt_unload", status));
    }
}

/// # Safety
/// `infos` is an array as the runtime gives it, and stays during the call.
unsafe fn read_infos(infos: NonNull<RawInfos>) -> Result<Vec<TensorInfo>, NeuronError> {
    // SAFETY: the caller's promise.
    let count = unsafe { (*infos.as_ptr()).count };
    if count > MOST_TENSORS {
        let message = format!("the runtime tells of {count} tensors in one NEFF");
        return Err(NeuronError::Contract(message));
    }
    // SAFETY: `count` structures lie behind the number, as documented; the place is computed without a reference to the
    // array of length 0.
    let infos = unsafe {
        let first = (&raw const (*infos.as_ptr()).infos).cast::<RawInfo>();
        std::slice::from_raw_parts(first, count as usize)
    };
    // SAFETY: as above, for what the structures point to.
    infos
        .iter()
        .map(|info| unsafe { read_info(info) })
        .collect()
}

/// # Safety
/// `info.shape` points to as many numbers as `info.ndim` says.
unsafe fn read_info(info: &RawInfo) -> Result<TensorInfo, NeuronError> {
    let wrong = |what: &str| NeuronError::Contract(format!("a tensor of the NEFF has {what}"));
    let name = CStr::from_bytes_until_nul(&info.name).map_err(|_| wrong("a name without end"))?;
    let name = name.to_str().map_err(|_| wrong("a name that is no text"))?;
    let usage = match info.usage {
        INPUT => Usage::Input,
        OUTPUT => Usage::Output,
        other => return Err(wrong(&format!("the usage {other}"))),
    };
    let shape = match info.ndim {
        0 => Vec::new(),
        _ if info.shape.is_null() => return Err(wrong("no shape")),
        1..=MOST_DIMENSIONS => {
            // SAFETY: it is not null, and the caller promises as many numbers.
            unsafe { std::slice::from_raw_parts(info.shape, info.ndim as usize) }.to_vec()
        }
        many => return Err(wrong(&format!("{many} dimensions"))),
    };
    Ok(TensorInfo {
        name: name.to_owned(),
        usage,
        dtype: Dtype::of(info.dtype),
        shape,
        bytes: info.size,
    })
}
