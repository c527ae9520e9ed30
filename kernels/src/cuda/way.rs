//! [`Way`]: by which kernels a product is computed. The one place where that is decided. [`Attend`]: the same of attention.

use super::blas::Kind;
use super::stream::Stream;
use super::weight::Form;
use crate::{Cx, Error, Fault};

/// Rows of activations up to which a packed weight goes through the kernel that unpacks as it multiplies: as many as one pass
/// serves. To be measured on a device.
pub(super) const FEW_ROWS: usize = 8;
/// Rows up to which a packed weight is unpacked in shared memory: one tile, so that nothing is unpacked twice. To be measured on a
/// device.
pub(super) const SOME_ROWS: usize = 64;
/// Columns from which on tensor cores multiply: as many as one of their products has.
const FRAGMENT_COLS: usize = 16;

/// A way to compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// A packed weight is read once for up to eight rows, by a kernel that unpacks as it multiplies; factors are not rounded.
    Few,
    /// In tiles, on tensor cores: packed weights are unpacked in shared memory. Factors have 16 bits, but for f32.
    Tiled,
    /// By cuBLASLt; a packed weight is first unpacked in the device's memory. Factors as in tiles.
    Library,
}

/// A way to compute attention. Which it is for whom is decided in `ops::attention::tiles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attend {
    /// In plain multiply-adds of f32, a warp for a few queries; long contexts are shared among blocks.
    Plain,
    /// In tiles, on tensor cores: queries and exponentials are rounded to 16 bits.
    Tiles,
}

impl Way {
    /// How `rows` rows are multiplied with a weight that lies as `form` says.
    pub(super) fn of(stream: &Stream, form: &Form, rows: usize) -> Result<Self, Error> {
        let packed = matches!(form, Form::Packed(..));
        if matches!(form, Form::E4m3(_)) {
            return Ok(Self::Library);
        }
        let wished = stream.blas().wished;
        if let Some(way) = wished {
            return if packed || way != Self::Few {
                Ok(way)
            } else {
                let message = "plain weights have no kernel of few rows";
                Err(Error::Device(Fault::Other, message.to_owned()))
            };
        }
        let library = stream.gpu().has_library();
        Ok(match rows {
            ..=FEW_ROWS if packed => Self::Few,
            ..=SOME_ROWS if packed => Self::Tiled,
            _ if library => Self::Library,
            _ => Self::Tiled,
        })
    }

    /// How the rows of a step are multiplied with the weights of their experts, all at once: how many each gets only the device knows.
    /// `ordered`: whether some have their columns in another order, each in its own, which only tiles follow.
    pub(super) fn of_experts(
        stream: &Stream,
        form: &Form,
        (rows, experts): (usize, usize),
        ordered: bool,
    ) -> Self {
        let few = match stream.blas().wished {
            Some(way) => way == Self::Few,
            None => rows <= FEW_ROWS * experts,
        };
        if few && !ordered && matches!(form, Form::Packed(..)) {
            Self::Few
        } else {
            Self::Tiled
        }
    }
}

/// The name of the kernel that multiplies rows of `kind` in tiles.
pub(super) fn tiled_rows(kind: Kind, cols: usize) -> &'static str {
    match (kind, cols >= FRAGMENT_COLS) {
        (Kind::F32, _) => "gemm_rows_f32_plain",
        (Kind::F16, true) => "gemm_rows_f16",
        (Kind::F16, false) => "gemm_rows_f16_plain",
        (Kind::Bf16, false) => "gemm_rows_bf16_plain",
        // Codes are not multiplied in tiles.
        (Kind::Bf16 | Kind::E4m3, _) => "gemm_rows_bf16",
    }
}

impl Cx {
    /// Whether cuBLASLt is found on its device.
    pub fn has_library(&self) -> bool {
        self.stream()
            .is_some_and(|stream| stream.gpu().has_library())
    }

    /// Whether its device multiplies bf16 ([`super::Gpu::has_bf16`]).
    pub fn has_bf16(&self) -> bool {
        self.stream().is_some_and(|stream| stream.gpu().has_bf16())
    }

    /// From now on products go this way, whatever their shape; `None`: as their shapes say. For who measures. A product for which
    /// there is no such way fails ([`Cx::check`]).
    pub fn multiply_by(&self, way: Option<Way>) {
        if let Some(stream) = self.stream() {
            stream.blas().wished = way;
        }
    }

    /// From now on attention goes this way, whatever its shape; `None`: as its shape says. For who measures. Attention for which
    /// there is no such way fails ([`Cx::check`]).
    pub fn attend_by(&self, way: Option<Attend>) {
        if let Some(stream) = self.stream() {
            stream.wish_attention(way);
        }
    }
}
