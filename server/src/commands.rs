//! The subcommands of `koma`: each takes a resolved configuration and runs to its end.

mod announce;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
mod device;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod man;
pub(crate) mod models;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod serve;
mod start;
