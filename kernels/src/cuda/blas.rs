//! [`Blas`]: products of plain matrices by cuBLASLt, with the algorithm that its heuristics name for a shape, asked once, when a
//! product is first asked for; computed when the stream's commands go to the device.
//!
//! Invariant: the algorithm, and with it the order of a row's sum, depends on the weight's shape and on the power of two that the
//! number of rows is rounded up to.

use super::pool::Buffer;
use super::way::Way;
use crate::{Error, Fault};
use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::CUstream;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

/// Bytes that an algorithm may use beside its operands.
static WORKSPACE: usize = 32 << 20;

/// How the numbers of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    /// 8 bits: 4 of exponent, 3 of mantissa. Outputs and columns in sixteens.
    E4m3,
}

impl Kind {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E4m3 => 1,
        }
    }

    fn raw(self) -> sys::cudaDataType {
        match self {
            Self::F32 => sys::cudaDataType::CUDA_R_32F,
            Self::F16 => sys::cudaDataType::CUDA_R_16F,
            Self::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            Self::E4m3 => sys::cudaDataType::CUDA_R_8F_E4M3,
        }
    }
}

/// `out = x * weight^T`, or added to `out`. `x`: `[rows, cols]`; `weight`: `[outputs, cols]`; `out`: f32, `outputs` values of each
/// row of `width`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) kind: Kind,
    pub(super) rows: usize,
    pub(super) outputs: usize,
    pub(super) cols: usize,
    pub(super) width: usize,
    pub(super) add: bool,
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) out: u64,
}

impl Product {
    /// Numbers of [`Product::words`].
    pub(super) const WORDS: usize = 9;

    /// It as numbers, for the list of commands.
    pub(super) fn words(&self) -> [u64; Self::WORDS] {
        let sizes = [self.rows, self.outputs, self.cols, self.width].map(|n| n as u64);
        let [rows, outputs, cols, width] = sizes;
        let kind = self.kind as u64;
        let add = u64::from(self.add);
        [
            kind,
            rows,
            outputs,
            cols,
            width,
            add,
            self.x,
            self.weight,
            self.out,
        ]
    }

    /// What [`Product::words`] gave.
    pub(super) fn read(words: &[u64]) -> Self {
        let size = |i: usize| words[i] as usize;
        Self {
            kind: [Kind::F32, Kind::F16, Kind::Bf16, Kind::E4m3][size(0)],
            rows: size(1),
            outputs: size(2),
            cols: size(3),
            width: size(4),
            add: words[5] != 0,
            x: words[6],
            weight: words[7],
            out: words[8],
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    rows: usize,
    outputs: usize,
    cols: usize,
    width: usize,
}

#[derive(Debug, Default)]
pub(super) struct Blas {
    started: Option<Started>,
    /// See [`crate::Cx::multiply_by`].
    pub(super) wished: Option<Way>,
    algorithms: HashMap<Key, sys::cublasLtMatmulAlgo_t>,
}

#[derive(Debug)]
struct Started {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
}
// SAFETY: a handle of the library, used by one thread at a time.
unsafe impl Send for Started {}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: made by `create_handle`; the stream has waited for its work.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn failed(what: &str) -> impl FnOnce(result::CublasError) -> Error {
    let what = what.to_owned();
    move |error| Error::Device(Fault::Other, format!("cuBLASLt, {what}: {error}"))
}

/// A matrix of the library, which counts along columns: `rows` numbers lie side by side, `step` from one column to the next.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(kind: Kind, rows: usize, cols: usize, step: usize) -> Result<Self, Error> {
        result::create_matrix_layout(kind.raw(), rows as u64, cols as u64, step as i64)
            .map(Self)
            .map_err(failed("a layout"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What is computed: f32 sums, the first factor transposed.
struct Desc(sys::cublasLtMatmulDesc_t);

impl Desc {
    fn new() -> Result<Self, Error> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)
            .map(Self)
            .map_err(failed("an operation"))?;
        let transposed = 1_i32;
        let name = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is 4 bytes.
        unsafe {
            result::set_matmul_desc_attribute(desc.0, name, (&raw const transposed).cast(), 4)
        }
        .map_err(failed("an operation"))?;
        Ok(desc)
    }
}

impl Drop for Desc {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// How algorithms are looked for.
struct Preference(sys::cublasLtMatmulPreference_t);

/// The largest power of two, 256 at most, that rows of `bytes` bytes begin at, wherever the first is a multiple of it: what an
/// algorithm may count on whichever rows of a matrix it is given.
fn alignment(bytes: usize) -> u32 {
    1 << bytes.trailing_zeros().min(8)
}

impl Preference {
    fn new(product: &Product) -> Result<Self, Error> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Name;
        let preference = result::create_matmul_pref()
            .map(Self)
            .map_err(failed("a preference"))?;
        let x = alignment(product.cols * product.kind.bytes());
        // Products of a part of the weight's rows begin at every 32nd.
        let out = alignment(product.width * size_of::<f32>()).min(128);
        for (name, bytes) in [
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            // SAFETY: the attribute is 4 bytes.
            unsafe {
                result::set_matmul_pref_attribute(preference.0, name, (&raw const bytes).cast(), 4)
            }
            .map_err(failed("a preference"))?;
        }
        let name = Name::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is 8 bytes.
        unsafe {
            result::set_matmul_pref_attribute(
                preference.0,
                name,
                (&raw const WORKSPACE).cast(),
                size_of::<usize>(),
            )
        }
        .map_err(failed("a preference"))?;
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Whether the library is found where device `number` is; it is looked for once.
pub(super) fn is_found(number: usize) -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    #[cfg(feature = "cuda-emu")]
    if let Some(found) = super::stand_in::has_library(number) {
        return found;
    }
    let _ = number;
    // SAFETY: it opens libraries by the library's name.
    *FOUND.get_or_init(|| unsafe { sys::is_culib_present() })
}

impl Blas {
    /// Bytes of device memory that it must be started with for device number `device`, if it was not started.
    ///
    /// # Errors
    /// If there is no such library.
    pub(super) fn lacks(&self, device: usize) -> Result<Option<usize>, Error> {
        if self.started.is_some() {
            return Ok(None);
        }
        if !is_found(device) {
            return Err(Error::Device(
                Fault::Broken,
                "cuBLASLt was not found (libcublasLt.so.13); it comes with CUDA 13".to_owned(),
            ));
        }
        Ok(Some(WORKSPACE))
    }

    /// Starts the library.
    pub(super) fn start(&mut self, workspace: Buffer) -> Result<(), Error> {
        let handle = result::create_handle().map_err(failed("its start"))?;
        self.started = Some(Started { handle, workspace });
        Ok(())
    }

    fn started(&self) -> Result<&Started, Error> {
        let missing = || Error::Device(Fault::Other, "cuBLASLt was not started".to_owned());
        self.started.as_ref().ok_or_else(missing)
    }

    /// Computes `product` on `raw` by `algorithm`, which [`Blas::algorithm`] has given for it.
    pub(super) fn multiply(
        &self,
        product: &Product,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        raw: CUstream,
    ) -> Result<(), Error> {
        let p = *product;
        let Started { handle, workspace } = self.started()?;
        let desc = Desc::new()?;
        // As the library counts: out^T `[outputs, rows]` = weight `[cols, outputs]`, transposed, times x^T `[cols, rows]`.
        let weight = Layout::new(p.kind, p.cols, p.outputs, p.cols)?;
        let x = Layout::new(p.kind, p.cols, p.rows, p.cols)?;
        let out = Layout::new(Kind::F32, p.outputs, p.rows, p.width)?;
        let (one, kept) = (1.0_f32, if p.add { 1.0_f32 } else { 0.0 });
        // SAFETY: the operands have the shapes of their layouts, the caller's promise; the workspace is of this stream.
        unsafe {
            result::matmul(
                *handle,
                desc.0,
                (&raw const one).cast(),
                (&raw const kept).cast(),
                p.weight as *const c_void,
                weight.0,
                p.x as *const c_void,
                x.0,
                p.out as *const c_void,
                out.0,
                p.out as *mut c_void,
                out.0,
                ptr::from_ref(algorithm),
                workspace.at() as *mut c_void,
                WORKSPACE,
                raw.cast(),
            )
        }
        .map_err(failed(&format!("{} x {} x {}", p.rows, p.outputs, p.cols)))
    }

    /// The algorithm for products of this shape.
    pub(super) fn algorithm(&mut self, p: &Product) -> Result<sys::cublasLtMatmulAlgo_t, Error> {
        let key = Key {
            kind: p.kind,
            rows: p.rows.next_power_of_two(),
            outputs: p.outputs,
            cols: p.cols,
            width: p.width,
        };
        if let Some(algorithm) = self.algorithms.get(&key) {
            return Ok(*algorithm);
        }
        let handle = self.started()?.handle;
        let desc = Desc::new()?;
        let weight = Layout::new(p.kind, p.cols, p.outputs, p.cols)?;
        let x = Layout::new(p.kind, p.cols, key.rows, p.cols)?;
        let out = Layout::new(Kind::F32, p.outputs, key.rows, p.width)?;
        let preference = Preference::new(p)?;
        // SAFETY: handles of the library, made above.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                desc.0,
                weight.0,
                x.0,
                out.0,
                out.0,
                preference.0,
            )
        };
        let shape = format!(
            "no way to multiply {} x {} x {}",
            key.rows, p.outputs, p.cols
        );
        let algorithm = found.map_err(failed(&shape))?.algo;
        self.algorithms.insert(key, algorithm);
        Ok(algorithm)
    }
}
