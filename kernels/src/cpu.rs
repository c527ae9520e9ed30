//! The CPU bodies of the operations, for every path ([`isa`]).
//!
//! Must not know how an operation is named or checked: shapes have been asserted by its public function. Each body is one
//! or a few parallel regions of chunks well below a millisecond, and takes scratch memory from its context.

#![expect(
    clippy::inline_always,
    reason = "a body has the features of a CPU path only if it is inlined into `isa::dispatch`"
)]

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod blocks;
pub(crate) mod codes;
pub(crate) mod encode;
pub(crate) mod experts;
pub(crate) mod gemm;
pub(crate) mod grouped;
pub(crate) mod int8;
mod integers;
pub(crate) mod isa;
pub(crate) mod kv;
pub(crate) mod norm;
pub(crate) mod pack;
pub(crate) mod panel;
pub(crate) mod probe;
pub(crate) mod quantize;
pub(crate) mod rope;
pub(crate) mod shared;
pub(crate) mod table;
