//! The stand-ins of the driver and of cuBLASLt, for tests: the sources of `cuda/` run on the processor. They show that kernels
//! compute the right thing and that calls are made in the right order; nothing about speed, nor about work that overtakes
//! other work.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The driver's own functions.
struct Driver {
    set: unsafe extern "C" fn(c_int, *const c_char, c_long),
    get: unsafe extern "C" fn(c_int, *const c_char) -> c_long,
    setting: unsafe extern "C" fn(c_int, *const c_char) -> c_long,
    argument: unsafe extern "C" fn(*const c_char, c_uint) -> c_long,
    error: unsafe extern "C" fn() -> *const c_char,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Loads the stand-ins, which are then found under the names of what they stand for.
///
/// # Panics
/// If they cannot be loaded: they are built with this crate.
fn driver() -> &'static Driver {
    DRIVER.get_or_init(|| {
        let open = |name: &str| {
            let path = format!("{}/{name}", env!("KOMA_EMU"));
            // SAFETY: a library of this crate; its initializers only fill the table of kernels.
            let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
            library.unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let (library, blas) = (open("libcuda.so"), open("libcublasLt.so"));
        // They stay for as long as the process does.
        std::mem::forget(blas);
        let driver = {
            // SAFETY: the functions have these types, see `emu/driver.cpp`.
            unsafe {
                Driver {
                    set: *library
                        .get(b"koma_emu_set")
                        .expect("a function of the stand-in"),
                    get: *library
                        .get(b"koma_emu_get")
                        .expect("a function of the stand-in"),
                    setting: *library
                        .get(b"koma_emu_setting")
                        .expect("a function of the stand-in"),
                    argument: *library
                        .get(b"koma_emu_argument")
                        .expect("a function of the stand-in"),
                    error: *library
                        .get(b"koma_emu_error")
                        .expect("a function of the stand-in"),
                }
            }
        };
        std::mem::forget(library);
        driver
    })
}

/// A device that nobody else uses.
#[derive(Debug)]
pub struct Device {
    number: usize,
}

impl Device {
    /// The next one.
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        driver();
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Its number, as in `cuda:N`.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Sets what `emu/driver.cpp` names: `seed`, `capability`, `memory`, `shared`, `hurry`, `deaf`, `library`, and countdowns of calls
    /// that are to fail, `fail_alloc`, `fail_launch`, `fail_capture`, `lose`.
    ///
    /// # Panics
    /// If a zero is in the name.
    pub fn set(&self, what: &str, value: i64) {
        let what = CString::new(what).expect("no zero in a name");
        // SAFETY: a function of the stand-in; the name ends with 0.
        unsafe { (driver().set)(self.number as c_int, what.as_ptr(), value) }
    }

    /// How often a function was called or, as `launch:NAME`, a kernel launched; and `allocations`, `streams`, `pinned`,
    /// `contexts`, `events`, `graphs` that are there; and `bytes_home`, bytes that were copied from the device.
    ///
    /// # Panics
    /// If a zero is in the name.
    pub fn count(&self, what: &str) -> i64 {
        let what = CString::new(what).expect("no zero in a name");
        // SAFETY: a function of the stand-in; the name ends with 0.
        unsafe { (driver().get)(self.number as c_int, what.as_ptr()) }
    }

    /// Why the last kernel failed, on any device.
    pub fn last_error() -> String {
        // SAFETY: a string that ends with 0 and stays until the next failure.
        let error = unsafe { CStr::from_ptr((driver().error)()) };
        error.to_string_lossy().into_owned()
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether cuBLASLt is found for a device, where the stand-ins are what is found.
pub(super) fn has_library(number: usize) -> Option<bool> {
    let driver = DRIVER.get()?;
    // SAFETY: a function of the stand-in; the name ends with 0.
    Some(unsafe { (driver.setting)(number as c_int, c"library".as_ptr()) } != 0)
}

/// Asserts that a kernel's parameters have these sizes, where the stand-in is what runs it.
pub(super) fn agree(kernel: &str, sizes: impl Iterator<Item = usize>) {
    let Some(driver) = DRIVER.get() else { return };
    let name = CString::new(kernel).unwrap_or_default();
    // SAFETY: a function of the stand-in; the name ends with 0.
    let at = |i: usize| unsafe { (driver.argument)(name.as_ptr(), i as c_uint) };
    let mut count = 0;
    for size in sizes {
        assert_eq!(at(count), size as c_long, "{kernel}: argument {count}");
        count += 1;
    }
    assert_eq!(at(count), 0, "{kernel}: more than {count} arguments");
}
