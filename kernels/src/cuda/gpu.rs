//! [`Gpu`]: a device of this process, its code, and the budget of memory that all who use it share.

use super::driver::{attribute, check, start};
use crate::{Error, Fault};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use std::collections::HashMap;
use std::ffi::CString;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

#[cfg(koma_fatbin)]
const CODE: &[&[u8]] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));
#[cfg(all(not(koma_fatbin), feature = "cuda-emu"))]
const CODE: &[&[u8]] = &[b"for the stand-in"];
#[cfg(all(not(koma_fatbin), not(feature = "cuda-emu")))]
const CODE: &[&[u8]] = &[];

/// The lowest compute capability that the device code is compiled for.
const LEAST: (i32, i32) = (7, 5);

/// The lowest whose tensor cores multiply FP8.
const FP8: (i32, i32) = (8, 9);

/// What is known of a device before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number, as in `cuda:N`.
    pub number: usize,
    /// Its name, as the driver has it.
    pub name: String,
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
}

/// A kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function(pub(super) sys::CUfunction);
// SAFETY: a handle of the driver, which may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// A device.
#[derive(Debug)]
pub struct Gpu {
    info: GpuInfo,
    device: sys::CUdevice,
    context: sys::CUcontext,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<String, Function>>,
    memory: Mutex<Budget>,
}
// SAFETY: handles of the driver, which may be used from any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// Bytes of device memory.
#[derive(Debug, Clone, Copy)]
struct Budget {
    used: usize,
    limit: usize,
}

/// The devices that are in use.
static OPENED: Mutex<Vec<Weak<Gpu>>> = Mutex::new(Vec::new());

impl Gpu {
    /// The devices of this machine.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, or it is too old.
    pub fn found() -> Result<Vec<GpuInfo>, Error> {
        start()?;
        let mut count = 0;
        // SAFETY: the one argument is written.
        let result = unsafe { sys::cuDeviceGetCount(&raw mut count) };
        check(result, "the devices")?;
        (0..count)
            .map(|number| Ok(Self::look(number as usize)?.0))
            .collect()
    }

    fn look(number: usize) -> Result<(GpuInfo, sys::CUdevice), Error> {
        let (mut device, mut memory, mut name) = (0, 0, [0; 128]);
        let ordinal = i32::try_from(number).unwrap_or(i32::MAX);
        // SAFETY: the first argument is written.
        let result = unsafe { sys::cuDeviceGet(&raw mut device, ordinal) };
        check(result, &format!("cuda:{number}"))?;
        // SAFETY: at most the given number of bytes is written, the last of them 0.
        let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 127, device) };
        check(result, "the device's name")?;
        // SAFETY: the first argument is written.
        let result = unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) };
        check(result, "the device's memory")?;
        let name: Vec<u8> = name
            .iter()
            .take_while(|c| **c != 0)
            .map(|c| *c as u8)
            .collect();
        let capability = (
            attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            )?,
            attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )?,
        );
        let info = GpuInfo {
            number,
            name: String::from_utf8_lossy(&name).into_owned(),
            capability,
            memory,
        };
        Ok((info, device))
    }

    /// Device `number`, opened once for all who use it; `share` of the memory that is free then is its budget (the first to
    /// open it decides).
    ///
    /// # Errors
    /// [`Error::Device`], with what was found and what is needed, if there is no driver, it is too old, there is no such device,
    /// its compute capability is too low, or this binary holds no device code.
    pub fn open(number: usize, share: f64) -> Result<Arc<Self>, Error> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|gpu| gpu.strong_count() > 0);
        let here = opened
            .iter()
            .filter_map(Weak::upgrade)
            .find(|gpu| gpu.info.number == number);
        if let Some(gpu) = here {
            return Ok(gpu);
        }
        let gpu = Arc::new(Self::start(number, share)?);
        opened.push(Arc::downgrade(&gpu));
        Ok(gpu)
    }

    fn start(number: usize, share: f64) -> Result<Self, Error> {
        start()?;
        let broken = |message| Err(Error::Device(Fault::Broken, message));
        if CODE.is_empty() {
            return broken(
                "this binary holds no device code: scripts/build-cuda makes one that does".into(),
            );
        }
        let (info, device) = Self::look(number)?;
        if info.capability < LEAST {
            let (major, minor) = info.capability;
            return broken(format!(
                "cuda:{number} ({}) has compute capability {major}.{minor}; {}.{} or higher is needed",
                info.name, LEAST.0, LEAST.1
            ));
        }
        let mut context = ptr::null_mut();
        // SAFETY: the first argument is written.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check(result, &format!("opening cuda:{number}"))?;
        let mut gpu = Self {
            info,
            device,
            context,
            modules: Vec::new(),
            functions: Mutex::default(),
            memory: Mutex::new(Budget { used: 0, limit: 0 }),
        };
        gpu.enter()?;
        for code in CODE {
            let mut module = ptr::null_mut();
            // SAFETY: the code is a fatbin, which says its own length; the first argument is written.
            let result = unsafe { sys::cuModuleLoadData(&raw mut module, code.as_ptr().cast()) };
            check(result, "loading the device code")?;
            gpu.modules.push(module);
        }
        let (free, _) = gpu.free_memory()?;
        let limit = (free as f64 * share) as usize;
        gpu.memory = Mutex::new(Budget { used: 0, limit });
        Ok(gpu)
    }

    /// Bytes of the device that nobody uses, and all of them.
    fn free_memory(&self) -> Result<(usize, usize), Error> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both arguments are written.
        let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        check(result, "the device's free memory")?;
        Ok((free, total))
    }

    /// Makes it the device of this thread's calls.
    pub(super) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context lives as long as `self`.
        check(
            unsafe { sys::cuCtxSetCurrent(self.context) },
            "the device's context",
        )
    }

    /// What is known of it.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Bytes in use, and those that may be.
    pub fn memory(&self) -> (usize, usize) {
        let budget = self.budget();
        (budget.used, budget.limit)
    }

    /// Whether cuBLASLt (`libcublasLt.so.13`) is found. Without it Koma's own kernels multiply.
    pub fn has_library(&self) -> bool {
        super::blas::is_found(self.info.number)
    }

    /// Whether it multiplies bf16; it multiplies f16 if not.
    pub fn has_bf16(&self) -> bool {
        self.info.capability.0 >= 8
    }

    /// Whether it multiplies FP8 ([`crate::PackedWeight::with_fp8_activations`]).
    ///
    /// # Errors
    /// [`Error::Device`], with what was found and what is needed.
    pub fn check_fp8(&self) -> Result<(), Error> {
        let GpuInfo {
            number,
            ref name,
            capability: (major, minor),
            ..
        } = self.info;
        let found = if self.info.capability < FP8 {
            format!("has compute capability {major}.{minor}")
        } else if self.has_library() {
            return Ok(());
        } else {
            "has no cuBLASLt beside it (libcublasLt.so.13, of CUDA 13)".to_owned()
        };
        Err(Error::Device(
            Fault::Broken,
            format!(
                "cuda:{number} ({name}) {found}; products of FP8 need compute capability {}.{} or higher, and cuBLASLt",
                FP8.0, FP8.1
            ),
        ))
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel of this name.
    pub(super) fn function(&self, name: &str) -> Result<Function, Error> {
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let fail =
            |message: &str| Error::Device(Fault::Broken, format!("kernel {name}: {message}"));
        let c = CString::new(name).map_err(|_| fail("a name with a zero"))?;
        self.enter()?;
        for module in &self.modules {
            let mut raw = ptr::null_mut();
            // SAFETY: the first argument is written; the name ends with 0, and the module lives as long as `self`.
            let result = unsafe { sys::cuModuleGetFunction(&raw mut raw, *module, c.as_ptr()) };
            if result == sys::CUresult::CUDA_ERROR_NOT_FOUND {
                continue;
            }
            check(result, &format!("kernel {name}"))?;
            functions.insert(name.to_owned(), Function(raw));
            return Ok(Function(raw));
        }
        Err(fail("this binary's device code has none of that name"))
    }

    /// The name of a kernel, for messages.
    pub(super) fn name_of(&self, function: Function) -> String {
        let functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let named = functions.iter().find(|(_, known)| known.0 == function.0);
        named.map_or_else(String::new, |(name, _)| name.clone())
    }

    /// `bytes` bytes of device memory, within the budget.
    pub(super) fn allocate(&self, bytes: usize) -> Result<sys::CUdeviceptr, Error> {
        let mut budget = self.budget();
        let left = budget.limit - budget.used.min(budget.limit);
        if bytes > left {
            return Err(Error::Device(
                Fault::Busy,
                format!(
                    "cuda:{}: no memory for {bytes} bytes, {left} of {} are left",
                    self.info.number, budget.limit
                ),
            ));
        }
        self.enter()?;
        let mut at = 0;
        // SAFETY: the first argument is written.
        let result = unsafe { sys::cuMemAlloc_v2(&raw mut at, bytes) };
        if result != sys::CUresult::CUDA_SUCCESS {
            let free = self.free_memory().map_or_else(
                |_| "an unknown number".to_owned(),
                |(free, total)| format!("{free} of {total}"),
            );
            let what = format!(
                "cuda:{}: {bytes} bytes of memory, {free} are free on the device",
                self.info.number
            );
            check(result, &what)?;
        }
        budget.used += bytes;
        Ok(at)
    }

    /// Gives memory back; the driver waits for work that uses it.
    pub(super) fn free(&self, at: sys::CUdeviceptr, bytes: usize) {
        // A device that is lost cannot take it back, and loses nothing by that.
        let _ = self.enter();
        // SAFETY: memory of `allocate`, which nobody has any more.
        let _ = unsafe { sys::cuMemFree_v2(at) };
        self.budget().used -= bytes;
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.enter();
        for module in self.modules.drain(..) {
            // SAFETY: loaded by `start`; who has a function of it has `self`.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
        // SAFETY: retained once by `start`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
