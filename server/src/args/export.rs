//! What `koma export` takes.

use super::{CompileArgs, CostArgs, Layer, VerifyArgs, artifact, layer};
use clap::{Args, Subcommand};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "\
Examples:
  koma export ./intent --out ./intent-neuron
  koma export ./rerank --out ./rerank-neuron --batch 1,8 --seq 128,256 --weights separate --precision bf16
  koma export inspect ./intent-neuron

Each pair of batch and seq becomes one HLO module: Neuron's compilers know no other shapes. DistilBERT, BERT, RoBERTa and \
XLM-RoBERTa can be exported, as classifiers of texts, rerankers and embedders. What an export is of, manifest.json in it says.";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ExportCommand>,
    #[command(flatten)]
    pub(crate) make: MakeArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Execute what an export holds on this machine's CPU, and compare it with the model.
    #[command(after_help = artifact::VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Compile an export's modules for a device, with AWS's compiler.
    #[command(after_help = artifact::COMPILE_EXAMPLES)]
    Compile(CompileArgs),
    /// Compute the price of a million inferences from measurements and prices.
    #[command(after_help = artifact::COST_EXAMPLES)]
    Cost(CostArgs),
    /// Show what an export or a compiled module holds.
    Inspect(InspectArgs),
}

/// An export that is to be made.
#[derive(Debug, Args)]
pub(crate) struct MakeArgs {
    /// The model: a folder, a .tar.gz file, a hub id or a folder on S3.
    #[arg(value_name = "SOURCE", required = true)]
    source: Option<String>,
    /// Folder of the export, which must not be there yet
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// Rows of the modules
    #[arg(
        long,
        value_name = "N,N..",
        value_delimiter = ',',
        default_value = "1,4,16"
    )]
    pub(crate) batch: Vec<usize>,
    /// Tokens of the modules' rows [default: 32,64,128, as far as the model takes texts of that length]
    #[arg(long, value_name = "N,N..", value_delimiter = ',')]
    pub(crate) seq: Option<Vec<usize>>,
    /// Weights in each module, or in one file for all [default: separate, if their copies would take more than 1 GiB]
    #[arg(long, value_name = "inline|separate", value_parser = ["inline", "separate"], hide_possible_values = true)]
    pub(crate) weights: Option<String>,
    /// Precision of the operands of matrix products; all else is f32
    #[arg(long, value_name = "f32|bf16", value_parser = ["f32", "bf16"], hide_possible_values = true, default_value = "f32")]
    pub(crate) precision: String,
    /// Replace an export that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Folder for downloads [default: the hub's cache]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Form of the log [default: text]
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
    /// What to log, such as `info` [default: warn]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl MakeArgs {
    pub(crate) fn layer(&self) -> Layer {
        layer([
            ("data-dir", &self.data_dir),
            ("log-format", &self.log_format),
            ("log", &self.log),
        ])
    }

    /// Source and folder.
    ///
    /// # Errors
    /// If one is missing, which the command line does not allow.
    pub(crate) fn places(&self) -> Result<(&str, PathBuf), String> {
        match (&self.source, &self.out) {
            (Some(source), Some(out)) => Ok((source, out.clone())),
            _ => Err("SOURCE and --out are needed".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Folder of an export, or a compiled module (.neff)
    #[arg(value_name = "DIR|FILE.neff")]
    pub(crate) path: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
