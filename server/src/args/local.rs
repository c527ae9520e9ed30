//! Flags of the commands that load one model for themselves: `koma chat`, `koma run`.

use super::{DeviceArgs, Layer, MachineArgs, ModelArgs, layer};
use clap::{Args, Subcommand};

pub(super) const CHAT_EXAMPLES: &str = "\
Examples:
  koma chat chat.gguf
  koma chat chat.gguf --system 'You know all about manga.' --temperature 0.3
  One turn for each line, replies on standard output, timings on standard error:
    printf 'Hello\\nAnd now in French\\n' | koma chat chat.gguf --seed 1

While it runs, /help lists what can be typed. Settings can also be given as variables (--max-model-len: KOMA_MAX_MODEL_LEN).";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  koma run classify ./intent 'Where is my order?'
  koma run rerank ./rerank 'a story about cooking' 'Food Wars' 'Slam Dunk' --json
  One text for each line of standard input:
    koma run embed ./embed - --lines < titles.txt
  koma run complete chat.gguf 'Once upon a time' --max-tokens 40 --temperature 0

The answers are those of the server's routes; --json prints them as the server would send them.";

/// Settings of one model, the process and its folders.
#[derive(Debug, Default, Args)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// Folder for what Koma writes: downloads, records of steps that hung [default: the hub's cache, the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl LocalArgs {
    pub(crate) fn layer(&self) -> Layer {
        let mut all = layer([("data-dir", &self.data_dir)]);
        all.append(&mut self.model.layer());
        all.append(&mut self.device.layer());
        all.append(&mut self.machine.layer());
        all
    }
}

/// How tokens are chosen and where a reply ends.
#[derive(Debug, Default, Args)]
pub(crate) struct SamplingArgs {
    /// Most tokens of a reply [default: what the model's window leaves; of `koma run complete` 16, as on the server's route]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<i64>,
    /// From 0 (always the likeliest token) to 2 [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Only the likeliest tokens that together have this probability, above 0 to 1 [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,
    /// Only so many of the likeliest tokens; 0 means all [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_k: Option<i64>,
    /// Only tokens with at least this part of the likeliest one's probability, 0 to 1 [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f64>,
    /// Off the score of each token that the reply has already, -2 to 2 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f64>,
    /// Off the score of a token for each time that the reply has it, -2 to 2 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f64>,
    /// Above 1 makes tokens of prompt and reply less likely, below 1 more, 0.01 to 100 [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f64>,
    /// Seed: the same one gives the same replies [default: another one each time]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Text that ends a reply; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The model: a folder, a .gguf or .tar.gz file, a hub id or a folder on S3.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// System prompt [default: none but the model's own]
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) local: LocalArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Give each text, or the parts of it, the labels of a classifier.
    Classify {
        #[command(flatten)]
        texts: TextsArgs,
        /// Leave the model's own activation (softmax, sigmoid) out
        #[arg(long)]
        raw: bool,
        /// How a token classifier's tokens become entities: none, simple, first, average, max [default: none]
        #[arg(long, value_name = "STRATEGY")]
        aggregation: Option<String>,
    },
    /// Order documents by how well they answer a query: the first TEXT is the query, the others are the documents.
    Rerank {
        #[command(flatten)]
        texts: TextsArgs,
        /// Leave the model's own activation out
        #[arg(long)]
        raw: bool,
        /// Only the best N
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        top_n: Option<u32>,
    },
    /// Turn each text into a vector.
    Embed {
        #[command(flatten)]
        texts: TextsArgs,
    },
    /// Continue each text as it is, without a chat template.
    Complete {
        #[command(flatten)]
        texts: TextsArgs,
        #[command(flatten)]
        sampling: SamplingArgs,
    },
}

/// What a one-off run is about.
#[derive(Debug, Args)]
pub(crate) struct TextsArgs {
    /// The model: a folder, a .gguf or .tar.gz file, a hub id or a folder on S3.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Texts; - is what standard input holds
    #[arg(value_name = "TEXT", required = true)]
    pub(crate) texts: Vec<String>,
    /// Each line of standard input is a text of its own
    #[arg(long)]
    pub(crate) lines: bool,
    /// Cut texts that are too long for the model, instead of refusing them
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) local: LocalArgs,
}
