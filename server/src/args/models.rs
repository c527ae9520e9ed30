//! Flags of `koma models`.

use super::{Layer, layer};
use clap::Args;

pub(super) const EXAMPLES: &str = "\
Examples:
  koma models
  koma models --url http://127.0.0.1:8080
  koma models --json | jq -r '.cached[].models[].source'

Listed are the hub's cache, which other programs use too, and what Koma itself fetched from S3 or unpacked from archives.
Other folders of models are not.";

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// Ask this server too what it has loaded
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Folder where Koma was told to keep downloads; the usual ones are listed in any case
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print all of it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ModelsArgs {
    pub(crate) fn layer(&self) -> Layer {
        layer([("data-dir", &self.data_dir)])
    }
}
