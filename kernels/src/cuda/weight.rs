//! [`OnDevice`]: a weight on a device. Packed formats lie there as they do here; plain values become rows of their own.

use super::blas::Kind;
use super::pool::Buffer;
use super::stream::{Grid, Stream, bytes_of, launch};
use crate::cpu::pack::{Line, PAIR, pairs};
use crate::grouped::{Code, Scale};
use crate::{Error, Fault, Format, PackedWeight};
use std::sync::{Arc, OnceLock};

/// What kernels are told of a packed weight: `Packed` in `cuda/weights.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub(super) struct Packed {
    /// Bytes of 32 rows.
    pair: i64,
    pub(super) rows: i32,
    pub(super) cols: i32,
    /// Columns of a group, a multiple of 32.
    group: i32,
    scale: i32,
    zeros: i32,
    unused: i32,
}
// SAFETY: 8 bytes, then six numbers of 4.
unsafe impl super::stream::Plain for Packed {}

/// Names of the kernels of a packed format.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) gemv: [String; 2],
    pub(super) gemm: String,
    pub(super) unpack: String,
    pub(super) look_up: String,
}

/// How it lies there.
#[derive(Debug)]
pub(super) enum Form {
    /// Rows of numbers.
    Rows(Kind),
    /// As on the CPU.
    Packed(Packed, Kernels),
    /// Rows of e4m3, multiplied with activations of the same.
    E4m3(Codes),
}

/// Rows of codes, each with a scale.
#[derive(Debug)]
pub(super) struct Codes {
    /// Rows and columns, rounded up to what cuBLASLt takes; what is not the weight's is 0.
    pub(super) outputs: usize,
    pub(super) cols: usize,
    /// `[rows]`, f32.
    pub(super) scales: Buffer,
}

/// Outputs and columns of a product of e4m3 come in as many.
const SIXTEEN: usize = 16;

/// A weight's values on a device.
#[derive(Debug)]
pub(crate) struct OnDevice {
    pub(super) form: Form,
    values: Buffer,
    /// The order of the columns, if they have one.
    order: Option<Buffer>,
    /// Where the weights are that are multiplied together, of which this is the first.
    together: OnceLock<(Vec<u64>, Buffer)>,
    stream: Arc<Stream>,
}

/// The name of a format in names of kernels.
fn name(format: Format) -> &'static str {
    match format {
        Format::F32 => "f32",
        Format::F16 => "f16",
        Format::Bf16 => "bf16",
        Format::Q8_0 => "q8_0",
        Format::Q4_0 => "q4_0",
        Format::Q4_1 => "q4_1",
        Format::Q5_0 => "q5_0",
        Format::Q5_1 => "q5_1",
        Format::Q2K => "q2_k",
        Format::Q3K => "q3_k",
        Format::Q4K => "q4_k",
        Format::Q5K => "q5_k",
        Format::Q6K => "q6_k",
        Format::Q8K => "q8_k",
        Format::Iq4Nl => "iq4_nl",
        Format::Mxfp4 => "mxfp4",
        Format::Int8 => "int8",
        Format::Grouped(groups) => match groups.code {
            Code::Int4 => "grouped_int4",
            Code::Int8 => "grouped_int8",
            Code::Fp8 => "grouped_fp8",
        },
    }
}

/// The number by which `unpack` knows how values are written.
pub(super) fn number(kind: Kind) -> i32 {
    match kind {
        Kind::F32 => 0,
        Kind::F16 => 1,
        // Nothing is unpacked to codes but codes, by a kernel of its own.
        Kind::Bf16 | Kind::E4m3 => 2,
    }
}

/// In what products of plain numbers are computed: f16 where the device has no bf16.
pub(super) fn halves(stream: &Stream) -> Kind {
    if stream.gpu().has_bf16() {
        Kind::Bf16
    } else {
        Kind::F16
    }
}

impl Packed {
    /// Rows of plain numbers.
    pub(super) fn plain(rows: usize, cols: usize) -> Self {
        Self {
            pair: 0,
            rows: rows as i32,
            cols: cols as i32,
            group: 0,
            scale: 0,
            zeros: 0,
            unused: 0,
        }
    }

    fn of(weight: &PackedWeight) -> Self {
        let (format, cols) = (weight.format(), weight.cols());
        let (group, scale, zeros) = match format {
            Format::Grouped(groups) => (
                groups.cols.min(cols.next_multiple_of(32)),
                match groups.scale {
                    Scale::F16 => 0,
                    Scale::Bf16 => 1,
                    Scale::F32 => 2,
                },
                i32::from(groups.zeros),
            ),
            _ => (32, 0, 0),
        };
        Self {
            pair: (PAIR * format.packed_bytes(cols)) as i64,
            rows: weight.rows() as i32,
            cols: cols as i32,
            group: group as i32,
            scale,
            zeros,
            unused: 0,
        }
    }
}

// SAFETY: 64 bytes.
unsafe impl super::stream::Plain for Line {}

impl OnDevice {
    pub(super) fn new(stream: &Arc<Stream>, weight: &PackedWeight) -> Result<Self, Error> {
        let (rows, cols) = (weight.rows(), weight.cols());
        let fits = |n: usize| i32::try_from(n).is_ok();
        if !fits(rows) || !fits(cols) {
            return Err(Error::Device(
                Fault::Other,
                format!("a weight of {rows} x {cols} is too large for a device"),
            ));
        }
        let lines = weight.values();
        let packed = Packed::of(weight);
        let bytes = stream.take(bytes_of(lines).len())?;
        stream.upload(bytes.at(), lines)?;
        let name = name(weight.format());
        let kind = match weight.format() {
            Format::F32 => Some(Kind::F32),
            Format::F16 => Some(Kind::F16),
            // Nothing multiplies a table: it stays as it is.
            Format::Bf16 if weight.is_table() => Some(Kind::Bf16),
            Format::Bf16 => Some(halves(stream)),
            _ => None,
        };
        let (form, values) = match kind {
            _ if weight.has_fp8_activations() => {
                let (codes, values) = codes(stream, &bytes, packed)?;
                drop(bytes);
                (Form::E4m3(codes), values)
            }
            None => {
                let kernels = Kernels {
                    gemv: [1, 8].map(|rows| format!("gemv_{name}_r{rows}")),
                    gemm: match halves(stream) {
                        Kind::F16 => format!("gemm_{name}_f16"),
                        _ => format!("gemm_{name}_bf16"),
                    },
                    unpack: format!("unpack_{name}"),
                    look_up: format!("look_up_{name}"),
                };
                (Form::Packed(packed, kernels), bytes)
            }
            Some(kind) if weight.is_table() => (Form::Rows(kind), bytes),
            Some(kind) => {
                let values = stream.take(rows * cols * kind.bytes())?;
                let unpack = format!("unpack_{name}");
                let rows = (0, pairs(rows));
                unpack_rows(
                    stream,
                    (&bytes, &packed, &unpack),
                    rows,
                    (kind, values.at()),
                )?;
                drop(bytes);
                (Form::Rows(kind), values)
            }
        };
        let order = weight.order().map(|order| {
            let buffer = stream.take(size_of_val(order))?;
            stream.upload(buffer.at(), order)?;
            Ok(buffer)
        });
        let order = order.transpose()?;
        // The host's values may go now, and other streams may read these. What they were unpacked from is not kept.
        stream.wait()?;
        if !matches!(form, Form::Packed(..)) {
            stream.trim()?;
        }
        Ok(Self {
            form,
            values,
            order,
            together: OnceLock::new(),
            stream: Arc::clone(stream),
        })
    }

    pub(super) fn values(&self) -> u64 {
        self.values.at()
    }

    /// The order of the columns, or null.
    pub(super) fn order(&self) -> u64 {
        self.order.as_ref().map_or(0, Buffer::at)
    }

    /// Whether kernels are told the same of both, but for the order of their columns.
    pub(super) fn lies_like(&self, other: &Self) -> bool {
        match (&self.form, &other.form) {
            (Form::Rows(kind), Form::Rows(of_other)) => kind == of_other,
            (Form::Packed(packed, kernels), Form::Packed(of_other, others)) => {
                packed == of_other && kernels.gemm == others.gemm
            }
            (Form::E4m3(_), Form::E4m3(_)) => true,
            _ => false,
        }
    }

    /// Where `addresses` are on the device: those of several weights, this one first. They are kept, or else put into `spare`.
    pub(super) fn beside(
        &self,
        stream: &Arc<Stream>,
        addresses: &[u64],
        spare: &mut Option<Buffer>,
    ) -> Result<u64, Error> {
        let kept = self.together.get();
        if let Some((_, buffer)) = kept.filter(|(kept, _)| kept == addresses) {
            return Ok(buffer.at());
        }
        let buffer = stream.take(size_of_val(addresses))?;
        stream.upload(buffer.at(), addresses)?;
        if kept.is_some() {
            return Ok(spare.insert(buffer).at());
        }
        // Other streams may read it, too. One of them may have been first: its copy is as good.
        stream.wait()?;
        let kept = self.together.get_or_init(|| (addresses.to_vec(), buffer));
        Ok(kept.1.at())
    }

    /// Unpacks the rows of `count` pairs from pair `first` on as rows of `kind` numbers at `to`.
    pub(super) fn unpack(
        &self,
        stream: &Stream,
        rows: (usize, usize),
        to: (Kind, u64),
    ) -> Result<(), Error> {
        match &self.form {
            Form::Rows(_) | Form::E4m3(_) => Ok(()),
            Form::Packed(packed, kernels) => {
                unpack_rows(stream, (&self.values, packed, &kernels.unpack), rows, to)
            }
        }
    }
}

/// Packed e4m3 with a scale for each row, as rows of codes and the scales.
fn codes(stream: &Arc<Stream>, lines: &Buffer, packed: Packed) -> Result<(Codes, Buffer), Error> {
    stream.gpu().check_fp8()?;
    let (rows, cols) = (packed.rows as usize, packed.cols as usize);
    let codes = Codes {
        outputs: rows.next_multiple_of(SIXTEEN),
        cols: cols.next_multiple_of(SIXTEEN),
        scales: stream.take(4 * rows)?,
    };
    let bytes = codes.outputs * codes.cols;
    let values = stream.take(bytes)?;
    stream.clear(values.at(), bytes);
    let grid = Grid::with([pairs(rows), cols.div_ceil(32), 1], 32);
    let (step, scales) = (codes.cols as i32, codes.scales.at());
    launch!(stream, "unpack_e4m3", grid; lines.at(), packed, step, values.at(), scales)?;
    Ok((codes, values))
}

fn unpack_rows(
    stream: &Stream,
    (lines, packed, kernel): (&Buffer, &Packed, &str),
    (first, count): (usize, usize),
    (kind, to): (Kind, u64),
) -> Result<(), Error> {
    let blocks = (packed.cols as usize).div_ceil(32);
    let grid = Grid::with([count, blocks, 1], 32);
    launch!(stream, kernel, grid; lines.at(), *packed, first as i32, number(kind), to)
}

impl PackedWeight {
    /// The weight on the device of `stream`, brought there when it is first needed.
    pub(super) fn on(&self, stream: &Arc<Stream>) -> Result<&OnDevice, Error> {
        if self.device().get().is_none() {
            let made = OnDevice::new(stream, self)?;
            // Another stream may have been first: its copy is as good.
            let _ = self.device().set(made);
        }
        match self.device().get() {
            Some(weight) if Arc::ptr_eq(weight.stream.gpu(), stream.gpu()) => Ok(weight),
            _ => Err(Error::Device(
                Fault::Other,
                "a weight is on another device".to_owned(),
            )),
        }
    }
}
