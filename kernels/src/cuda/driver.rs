//! What the driver answers, as errors; and the calls that need no device.

use crate::{Error, Fault};
use cudarc::driver::sys::{self, CUresult};

/// The version of CUDA that the device code needs a driver for, as the driver counts: 1000 * major + 10 * minor.
const NEEDED: i32 = 13_000;

/// `what` was done, or why not.
pub(super) fn check(result: CUresult, what: &str) -> Result<(), Error> {
    use CUresult as R;
    let fault = match result {
        R::CUDA_SUCCESS => return Ok(()),
        R::CUDA_ERROR_OUT_OF_MEMORY => Fault::Busy,
        R::CUDA_ERROR_LAUNCH_TIMEOUT => Fault::Timeout,
        R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_DEVICE_UNAVAILABLE
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | R::CUDA_ERROR_UNKNOWN => Fault::Broken,
        _ => Fault::Other,
    };
    Err(Error::Device(fault, format!("{what}: {result:?}")))
}

/// Loads the driver and starts it.
///
/// # Errors
/// If there is none, or it is too old; the message says what was found and what is needed.
pub(super) fn start() -> Result<(), Error> {
    let fail = |message: String| Err(Error::Device(Fault::Broken, message));
    // SAFETY: it opens libraries by the driver's name.
    if !unsafe { sys::is_culib_present() } {
        return fail(
            "no NVIDIA driver was found (libcuda.so.1); one for CUDA 13.0, version 580 or later, is needed"
                .to_owned(),
        );
    }
    let mut version = 0;
    // SAFETY: the one argument is written.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    check(result, "the driver's version")?;
    fits(version)?;
    // SAFETY: it takes no pointer.
    check(unsafe { sys::cuInit(0) }, "starting the NVIDIA driver")
}

/// Whether a driver for this version of CUDA will do.
fn fits(version: i32) -> Result<(), Error> {
    if version >= NEEDED {
        return Ok(());
    }
    let (major, minor) = (version / 1000, version % 1000 / 10);
    Err(Error::Device(
        Fault::Broken,
        format!(
            "the NVIDIA driver is for CUDA {major}.{minor}; one for CUDA 13.0, version 580 or later, is needed"
        ),
    ))
}

/// An attribute of a device.
pub(super) fn attribute(
    device: sys::CUdevice,
    attribute: sys::CUdevice_attribute,
) -> Result<i32, Error> {
    let mut value = 0;
    // SAFETY: the first argument is written.
    let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) };
    check(result, "an attribute of the device")?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_named() {
        let message = fits(12_080).expect_err("too old").to_string();
        assert!(
            message.contains("is for CUDA 12.8; one for CUDA 13.0, version 580 or later"),
            "{message}"
        );
        assert!(fits(13_000).is_ok() && fits(13_010).is_ok());
    }
}
