//! The subcommands of `koma`: each takes a resolved configuration and runs to its end.

mod announce;
pub(crate) mod bench;
pub(crate) mod doctor;
mod output;
pub(crate) mod plan;
pub(crate) mod serve;
mod start;
