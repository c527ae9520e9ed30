//! The subcommands of `koma`: each takes a resolved configuration and runs to its end.

pub(crate) mod bench;
pub(crate) mod serve;
mod start;
