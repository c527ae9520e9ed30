//! [`Api`]: the C interface of `libnrt`, written out from its documentation: 17 functions, three structures, three enumerations.
//!
//! Owns: names, signatures, layouts. Must not know: when something is called. Invariant: the layouts are those of the
//! documented structures on 64-bit machines, checked when this is compiled.

use super::runtime::whole;
use libloading::Library;
use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

/// `NRT_STATUS`, a C enumeration.
pub(super) type RawStatus = c_int;

/// `nrt_framework_type_t`: `NRT_FRAMEWORK_TYPE_NO_FW`.
pub(super) const NO_FRAMEWORK: c_int = 1;
/// `nrt_tensor_placement_t`: `NRT_TENSOR_PLACEMENT_DEVICE`.
pub(super) const ON_DEVICE: c_int = 0;
/// `nrt_tensor_usage_t`: `NRT_TENSOR_USAGE_INPUT` and `NRT_TENSOR_USAGE_OUTPUT`.
pub(super) const INPUT: c_int = 0;
pub(super) const OUTPUT: c_int = 1;
/// As many cores as the NEFF says: the one documented value of `vnc_count`.
pub(super) const CORES_OF_NEFF: c_int = -1;

/// `nrt_model_t`.
#[repr(C)]
pub(super) struct RawModel {
    opaque: [u8; 0],
}

/// `nrt_tensor_t`.
#[repr(C)]
pub(super) struct RawTensor {
    opaque: [u8; 0],
}

/// `nrt_tensor_set_t`.
#[repr(C)]
pub(super) struct RawSet {
    opaque: [u8; 0],
}

/// `nrt_tensor_info_t`.
#[repr(C)]
pub(super) struct RawInfo {
    pub(super) name: [u8; 256],
    pub(super) usage: c_int,
    /// Bytes.
    pub(super) size: usize,
    pub(super) dtype: c_int,
    /// `[ndim]`.
    pub(super) shape: *const u32,
    pub(super) ndim: u32,
}

/// `nrt_tensor_info_array_t`; `infos` is the C array without a length at its end.
#[repr(C)]
pub(super) struct RawInfos {
    pub(super) count: u64,
    pub(super) infos: [RawInfo; 0],
}

/// `nrt_version_t`.
#[repr(C)]
pub(super) struct RawVersion {
    /// Major, minor, patch, maintenance.
    pub(super) numbers: [u64; 4],
    pub(super) detail: [u8; 128],
    pub(super) git_hash: [u8; 64],
}

const _: () = {
    assert!(size_of::<RawVersion>() == 224);
    assert!(size_of::<RawInfo>() == 296);
    assert!(offset_of!(RawInfo, usage) == 256);
    assert!(offset_of!(RawInfo, size) == 264);
    assert!(offset_of!(RawInfo, dtype) == 272);
    assert!(offset_of!(RawInfo, shape) == 280);
    assert!(offset_of!(RawInfo, ndim) == 288);
    assert!(offset_of!(RawInfos, infos) == 8);
    assert!(align_of::<RawInfos>() == 8);
};

/// Makes the table of functions, and the function that finds them all in a library.
macro_rules! api {
    (
        always { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)* }
        or none { $($maybe:ident: fn($($part:ty),*) -> $given:ty;)* }
    ) => {
        /// The functions; none where not every version of the library has one.
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub(super) $maybe: Option<unsafe extern "C" fn($($part),*) -> $given>,)*
        }

        impl Api {
            /// Finds the functions in `library`.
            ///
            /// # Errors
            /// The first name that the library lacks.
            ///
            /// # Safety
            /// The library's functions with these names have the documented signatures, and it is never unloaded.
            pub(super) unsafe fn of(library: &Library) -> Result<Self, String> {
                Ok(Self {
                    // SAFETY: the type of the function is the documented one, which the caller vouches for.
                    $($name: *unsafe { library.get(stringify!($name)) }.map_err(|error| format!("{}: {}", stringify!($name), whole(&error)))?,)*
                    // SAFETY: as above.
                    $($maybe: unsafe { library.get(stringify!($maybe)) }.ok().map(|function| *function),)*
                })
            }
        }
    };
}

api! {
    always {
        nrt_init: fn(c_int, *const c_char, *const c_char) -> RawStatus;
        nrt_close: fn();
        nrt_load: fn(*const c_void, usize, i32, i32, *mut *mut RawModel) -> RawStatus;
        nrt_unload: fn(*mut RawModel) -> RawStatus;
        nrt_allocate_tensor_set: fn(*mut *mut RawSet) -> RawStatus;
        nrt_destroy_tensor_set: fn(*mut *mut RawSet);
        nrt_add_tensor_to_tensor_set: fn(*mut RawSet, *const c_char, *mut RawTensor) -> RawStatus;
        nrt_tensor_allocate: fn(c_int, c_int, usize, *const c_char, *mut *mut RawTensor) -> RawStatus;
        nrt_tensor_free: fn(*mut *mut RawTensor);
        nrt_tensor_write: fn(*mut RawTensor, *const c_void, usize, usize) -> RawStatus;
        nrt_tensor_read: fn(*const RawTensor, *mut c_void, usize, usize) -> RawStatus;
        nrt_execute: fn(*mut RawModel, *const RawSet, *mut RawSet) -> RawStatus;
    }
    or none {
        nrt_get_visible_vnc_count: fn(*mut u32) -> RawStatus;
        // Its older name.
        nrt_get_visible_nc_count: fn(*mut u32) -> RawStatus;
        // These two are marked as experimental.
        nrt_get_model_tensor_info: fn(*mut RawModel, *mut *mut RawInfos) -> RawStatus;
        nrt_free_model_tensor_info: fn(*mut RawInfos) -> RawStatus;
        // The one function that does without a started runtime.
        nrt_get_version: fn(*mut RawVersion, usize) -> RawStatus;
    }
}
