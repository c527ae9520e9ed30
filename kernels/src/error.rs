//! What can be wrong with data that comes from outside (files, budgets). Shape bugs of callers are assertions instead.

/// An error of this crate. Messages name the operation and the numbers; callers add the tensor's or file's name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes of a weight do not have the length that its shape and format ask for.
    #[error("a {rows} x {cols} weight in {format} takes {expected} bytes, but {got} are given")]
    WeightBytes {
        /// Output rows.
        rows: usize,
        /// Input columns.
        cols: usize,
        /// Name of the format.
        format: &'static str,
        /// Bytes that shape and format ask for.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// A block format needs a multiple of its block length.
    #[error("a row of {cols} values cannot be cut into blocks of {block} ({format})")]
    BlockLength {
        /// Input columns.
        cols: usize,
        /// Values in one block.
        block: usize,
        /// Name of the format.
        format: &'static str,
    },
    /// A row of INT8 whose sums might not fit 32 bits.
    #[error("a row of {cols} values is too long for INT8, at most {most} are supported")]
    LongRow {
        /// Input columns.
        cols: usize,
        /// The most there may be.
        most: usize,
    },
    /// A grouped format needs groups of whole blocks.
    #[error(
        "groups of {group} of {cols} columns are not supported, only multiples of 32 and whole rows"
    )]
    Group {
        /// Input columns.
        cols: usize,
        /// Columns of a group.
        group: usize,
    },
    /// Weights that are stacked into one must agree in columns and format.
    #[error("weights of different shape or format cannot be stacked: {0}")]
    Stack(String),
    /// A buffer of this size could not be had.
    #[error("no memory for {bytes} bytes of {what}")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// Only devices store keys and values like this.
    #[error("a cache in {0} is for models on a GPU; on the CPU there are f32, bf16 and int8")]
    CacheDtype(&'static str),
    /// `KOMA_ISA` or a caller asked for a path that this processor does not have.
    #[error("the CPU path `{0}` is unknown or not supported by this processor")]
    Isa(String),
    /// The device failed; the step that used it is lost.
    #[error("device: {1}")]
    Device(Fault, String),
}

/// How a device failed, as far as it decides what becomes of the requests and of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It gave up after its own limit of time.
    Timeout,
    /// It had no room for more work; later it may.
    Busy,
    /// It is broken: no later step will do better.
    Broken,
    /// Anything else.
    Other,
}
