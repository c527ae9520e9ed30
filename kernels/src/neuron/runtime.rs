//! [`Runtime`]: the library, loaded and started.

use super::NeuronError;
use super::api::{Api, NO_FRAMEWORK, RawVersion};
use super::status::check;
use libloading::Library;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the library is looked for unless a file is named: as the system looks for libraries, then where AWS's packages put it.
const PLACES: [&str; 2] = ["libnrt.so.1", "/opt/aws/neuron/lib/libnrt.so.1"];

/// Libraries that were started, by the address of their `nrt_init`, and why they did not start. The library keeps state for the whole process, so this
/// is for the whole process, too.
static STARTED: Mutex<BTreeMap<usize, Option<NeuronError>>> = Mutex::new(BTreeMap::new());

/// The Neuron runtime of this process. It takes all cores that it is allowed (`NEURON_RT_VISIBLE_CORES`,
/// `NEURON_RT_NUM_CORES`) until the process ends; the last owner closes it.
pub struct Runtime {
    pub(super) api: Api,
    version: Option<String>,
    cores: u32,
}

/// A library that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name, as it was asked for.
    pub place: String,
    /// Such as `2.35.30.0`; none if it does not tell.
    pub version: Option<String>,
}

impl Runtime {
    /// Looks for the library without starting it, so that no core is taken.
    ///
    /// # Errors
    /// If there is no such library.
    pub fn find(file: Option<&Path>) -> Result<Found, NeuronError> {
        let loaded = load(file)?;
        Ok(Found {
            version: loaded.api.version(),
            place: loaded.place,
        })
    }

    /// Loads the library, from `file` or from where it usually is, and starts it.
    ///
    /// # Errors
    /// If there is no such library, it finds no device, also at an earlier try, or it was started before.
    pub fn start(file: Option<&Path>) -> Result<Arc<Self>, NeuronError> {
        let loaded = load(file)?;
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        match started.entry(loaded.api.nrt_init as usize) {
            // A second try cannot succeed, whatever it is for: the first error is the one that helps.
            Entry::Occupied(before) => Err(before.get().clone().unwrap_or(NeuronError::Started)),
            Entry::Vacant(place) => {
                let found = Self::start_loaded(loaded.api);
                place.insert(found.as_ref().err().cloned());
                found
            }
        }
    }

    /// Starts a library, which nobody in this process has done before.
    fn start_loaded(api: Api) -> Result<Arc<Self>, NeuronError> {
        let version = api.version();
        let empty = c"".as_ptr();
        // SAFETY: both texts end with a zero and outlive the call, which is the first of this library in the process.
        let status = unsafe { (api.nrt_init)(NO_FRAMEWORK, empty, empty) };
        check("nrt_init", status)?;
        // From here on it is closed when dropped.
        let mut runtime = Self {
            api,
            version,
            cores: 0,
        };
        runtime.cores = runtime.api.count_cores()?;
        Ok(Arc::new(runtime))
    }

    /// Such as `2.35.30.0`, if the library tells.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Cores that this process may use, numbered from 0.
    pub fn cores(&self) -> u32 {
        self.cores
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: it was started, and every model, tensor and set holds a reference to it, so none is left.
        unsafe { (self.api.nrt_close)() }
    }
}

/// A library in this process.
struct Loaded {
    place: String,
    api: Api,
}

impl Api {
    /// Such as `2.35.30.0`; none if the library does not tell.
    fn version(&self) -> Option<String> {
        let mut version = RawVersion {
            numbers: [0; 4],
            detail: [0; 128],
            git_hash: [0; 64],
        };
        // SAFETY: the structure is the documented one, has the size that is told, and is written during the call only.
        let status = unsafe { self.nrt_get_version?(&raw mut version, size_of::<RawVersion>()) };
        (status == 0).then(|| version.numbers.map(|n| n.to_string()).join("."))
    }

    /// Cores that the process may use, of a library that is started.
    fn count_cores(&self) -> Result<u32, NeuronError> {
        let newer = self.nrt_get_visible_vnc_count;
        let newer = newer.map(|count| ("nrt_get_visible_vnc_count", count));
        let older = self.nrt_get_visible_nc_count;
        let older = older.map(|count| ("nrt_get_visible_nc_count", count));
        let Some((call, count)) = newer.or(older) else {
            let reason = "it has neither nrt_get_visible_vnc_count nor nrt_get_visible_nc_count";
            return Err(NeuronError::Library(reason.to_owned()));
        };
        let mut cores = 0;
        // SAFETY: the number is written during the call only.
        check(call, unsafe { count(&raw mut cores) })?;
        Ok(cores)
    }
}

/// The first library that can be loaded.
fn load(file: Option<&Path>) -> Result<Loaded, NeuronError> {
    let named = file.map(Path::as_os_str);
    let places: Vec<&OsStr> = match named {
        Some(name) => vec![name],
        None => PLACES.map(OsStr::new).to_vec(),
    };
    let mut reasons = Vec::new();
    for place in places {
        // SAFETY: loading runs the library's own initializers. The operator chose the file, or it has the runtime's name in a
        // folder of the system.
        match unsafe { Library::new(place) } {
            Ok(library) => return functions(place, library),
            Err(error) => {
                let place = Path::new(place).display();
                reasons.push(format!("{place}: {}", whole(&error)));
            }
        }
    }
    Err(NeuronError::Library(reasons.join("; ")))
}

/// An error with its causes, which say what the system said.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

fn functions(place: &OsStr, library: Library) -> Result<Loaded, NeuronError> {
    // SAFETY: the names are those of the runtime's documented interface, and the library is never unloaded (see below).
    let found = unsafe { Api::of(&library) };
    // It stays until the process ends: threads of its own may outlive `nrt_close`.
    std::mem::forget(library);
    let place = Path::new(place).display().to_string();
    match found {
        Ok(api) => Ok(Loaded { place, api }),
        Err(error) => Err(NeuronError::Library(format!(
            "{place} is not the Neuron runtime: {error}"
        ))),
    }
}
