//! What was typed: flags, the environment, the file. The one place that reads the environment.
//!
//! Owns: names of flags, variables and file keys, help texts. Must not know: what a value means; that is `config`'s.
//!
//! Invariant: a setting is text and the place it came from until `config` reads it, so that each is read by one function
//! and every message names the place.

mod artifact;
mod bench;
mod device;
mod export;
mod file;
mod inspect;
mod local;
mod models;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use artifact::{
    AutoCastArg, CompileArgs, CostArgs, TargetArg, VerifyArgs, VerifyDeviceArg,
};
pub(crate) use bench::{BenchCommand, BenchServeArgs, Endpoint, Goodput, LoadArgs};
use clap::{Args, Parser, Subcommand};
pub(crate) use device::DeviceArgs;
pub(crate) use export::{ExportArgs, ExportCommand, InspectArgs, MakeArgs};
pub(crate) use file::{File, FileModel};
pub(crate) use inspect::{DoctorArgs, PlanArgs};
use koma_engine::models::{FetchOptions, HubOptions, S3Options, Secret};
pub(crate) use local::{ChatArgs, RunCommand, SamplingArgs, TextsArgs};
pub(crate) use models::ModelsArgs;
pub(crate) use shell::{CompletionsArgs, ManArgs};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The version, with the commit it was built from.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("KOMA_COMMIT"), ")");

const ABOUT: &str = "Serves a chatbot's own models side by side: chat, classify, embed, rerank.";

const SERVE_EXAMPLES: &str = "\
Examples:
  One chat model, named after its file:
    koma serve SmolLM2-135M-Instruct.Q4_1.gguf
  Four models under names of your choice; a request without `model` goes to the first that can do it:
    koma serve chat=chat.gguf embed=./all-MiniLM-L6-v2 intent=./intent rerank=./rerank
  From the Hugging Face hub, reachable from other machines:
    koma serve --host 0.0.0.0 HuggingFaceTB/SmolLM2-135M-Instruct
  From a file with settings for each model:
    koma serve --config koma.toml

Every setting can also be given as a variable (--max-model-len: KOMA_MAX_MODEL_LEN; models: KOMA_MODELS, separated by \
commas) or as a key of the file (max-model-len). A flag wins over a variable, a variable over the file.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "koma", version = VERSION, about = ABOUT, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve models over HTTP.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Talk to a chat model in this terminal.
    #[command(after_help = local::CHAT_EXAMPLES)]
    Chat(ChatArgs),
    /// Ask a model once.
    #[command(subcommand, after_help = local::RUN_EXAMPLES)]
    Run(RunCommand),
    /// List the models in the local caches, and those of a running server.
    #[command(after_help = models::EXAMPLES)]
    Models(ModelsArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Show what a model will need and how fast it will be, before it is loaded.
    Plan(PlanArgs),
    /// Show what this machine gives, what this process may use of it, and what to do about what is wrong.
    Doctor(DoctorArgs),
    /// Turn an encoder into modules for AWS Inferentia and Trainium.
    #[command(after_help = export::EXAMPLES)]
    Export(ExportArgs),
    /// Print completions for a shell.
    #[command(after_help = shell::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Print the manual.
    #[command(after_help = shell::MAN_EXAMPLES)]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Models: a folder, a .gguf or .tar.gz file, a hub id or a folder on S3, optionally named. Without any: /opt/ml/model if it is there.
    #[arg(value_name = "[NAME=]SOURCE")]
    pub(crate) sources: Vec<String>,

    /// File with settings and models
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// Settings of the server.
#[derive(Debug, Default, Args)]
pub(crate) struct ServerArgs {
    /// Address to listen on [default: 127.0.0.1; 0.0.0.0 with /opt/ml/model]
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long)]
    port: Option<String>,
    /// Folder for what Koma writes: downloads, records of steps that hung [default: the hub's cache, the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Seconds that running requests get to finish after SIGTERM [default: 25]
    #[arg(long, value_name = "SECONDS")]
    drain_timeout: Option<String>,
}

/// Settings of a model; as flags and variables for all models, in the file also for one.
#[derive(Debug, Default, Args)]
pub(crate) struct ModelArgs {
    /// Weights and activations: auto (as stored; encoders in bf16 where the processor multiplies it), f32 (exact), bf16, int8 (encoders only, made when a model is loaded), fp8 (products in e4m3 on GPUs of compute capability 8.9 or higher with cuBLASLt; made when a model is loaded, or as an FP8 checkpoint has them) [default: auto]
    #[arg(long, value_name = "auto|f32|bf16|int8|fp8")]
    dtype: Option<String>,
    /// Keys and values in the cache: auto (bf16; f32 with --dtype f32), f32, bf16, int8 (of each token and head; almost twice the tokens in the same memory, a little less exact); on GPUs also f16 and fp8-e4m3 (without a scale; twice the tokens) [default: auto]
    #[arg(long, value_name = "auto|f32|bf16|int8|f16|fp8-e4m3")]
    kv_dtype: Option<String>,
    /// Memory of each chat model's cache, such as 512M or 2GiB [default of serve and plan: a part of the memory that is free; else what is needed]
    #[arg(long, value_name = "SIZE")]
    kv_cache_memory: Option<String>,
    /// Most tokens of a request, prompt and output together [default: the model's own, of the two of some Phi-3 the shorter]
    #[arg(long, value_name = "N")]
    max_model_len: Option<String>,
    /// Most requests that run at once in a model [default: 128]
    #[arg(long, value_name = "N")]
    max_running: Option<String>,
    /// Most tokens computed in one step of a model [default: 512 where it generates, else 2048]
    #[arg(long, value_name = "N")]
    max_batch_tokens: Option<String>,
}

/// Settings of the process.
#[derive(Debug, Default, Args)]
pub(crate) struct MachineArgs {
    /// Threads that compute [default: one for each core of one memory node, as far as this process
    /// may use them]
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// CPU path: auto, portable, avx2, avxvnni, avx512 [default: auto]
    #[arg(long, value_name = "PATH")]
    isa: Option<String>,
    /// Form of the log [default: text]
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
    /// What to log, such as `warn` or `koma_engine=debug,info` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `--max-running`
    Flag(&'static str),
    /// `KOMA_MAX_RUNNING`
    Variable(String),
    /// A key of the file, `model "chat": max-running`
    File(PathBuf, String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(key) => write!(f, "--{key}"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, key) => write!(f, "{}: {key}", path.display()),
        }
    }
}

/// A value as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// What one place says: values by key (`max-running`).
pub(crate) type Layer = BTreeMap<&'static str, Typed>;

/// Keys of a model's settings: allowed per model in the file.
pub(crate) const MODEL_KEYS: [&str; 8] = [
    "dtype",
    "kv-dtype",
    "kv-cache-memory",
    "max-model-len",
    "max-running",
    "max-batch-tokens",
    "device",
    "neuron",
];
/// All other keys.
pub(crate) const PROCESS_KEYS: [&str; 11] = [
    "host",
    "port",
    "data-dir",
    "drain-timeout",
    "threads",
    "isa",
    "log-format",
    "log",
    "gpu-memory-utilization",
    "cuda-graphs",
    "neuron-library",
];

impl ServerArgs {
    pub(crate) fn layer(&self) -> Layer {
        layer([
            ("host", &self.host),
            ("port", &self.port),
            ("data-dir", &self.data_dir),
            ("drain-timeout", &self.drain_timeout),
        ])
    }
}

impl ModelArgs {
    pub(crate) fn layer(&self) -> Layer {
        layer([
            ("dtype", &self.dtype),
            ("kv-dtype", &self.kv_dtype),
            ("kv-cache-memory", &self.kv_cache_memory),
            ("max-model-len", &self.max_model_len),
            ("max-running", &self.max_running),
            ("max-batch-tokens", &self.max_batch_tokens),
        ])
    }
}

impl MachineArgs {
    pub(crate) fn layer(&self) -> Layer {
        layer([
            ("threads", &self.threads),
            ("isa", &self.isa),
            ("log-format", &self.log_format),
            ("log", &self.log),
        ])
    }
}

fn layer<const N: usize>(flags: [(&'static str, &Option<String>); N]) -> Layer {
    let given = flags
        .into_iter()
        .filter_map(|(key, text)| Some((key, text.clone()?)));
    given
        .map(|(key, text)| {
            let origin = Origin::Flag(key);
            (key, Typed { text, origin })
        })
        .collect()
}

/// How the variables begin that Koma reads: its own, those of the hub's and AWS's tools, where folders for caches are, and
/// whether colours are wanted, and the Neuron compiler (not its tools' flags).
const OURS: [&str; 7] = [
    "KOMA_",
    "HF_",
    "AWS_",
    "XDG_CACHE_HOME",
    "HOME",
    "NO_COLOR",
    "NEURON_CC",
];

/// The environment, read once.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The variables of this process that Koma reads. One that is not Unicode is read with replacement
    /// characters, and then refused by whoever reads its value.
    pub(crate) fn of_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        all.collect()
    }

    /// A variable that is set and not empty.
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// All settings.
    pub(crate) fn layer(&self) -> Layer {
        let keys = MODEL_KEYS.iter().chain(&PROCESS_KEYS);
        keys.filter_map(|key| {
            let name = variable(key);
            let text = self.get(&name)?.to_owned();
            let origin = Origin::Variable(name);
            Some((*key, Typed { text, origin }))
        })
        .collect()
    }

    /// The models of `KOMA_MODELS`.
    pub(crate) fn sources(&self) -> Vec<String> {
        let list = self.get("KOMA_MODELS").unwrap_or_default();
        let parts = list.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// The key that is shown to a server that is asked: `KOMA_API_KEY`.
    pub(crate) fn api_key(&self) -> Option<&str> {
        self.get("KOMA_API_KEY")
    }

    /// Whether colours are wanted where there is a terminal: not if `NO_COLOR` is set (no-color.org).
    pub(crate) fn color(&self) -> bool {
        self.get("NO_COLOR").is_none()
    }

    /// The Python that executes exports: `KOMA_PYTHON`.
    pub(crate) fn python(&self) -> Option<&Path> {
        self.get("KOMA_PYTHON").map(Path::new)
    }

    /// The Neuron compiler, where it is not on the path: `NEURON_CC`, which its own tools read too.
    pub(crate) fn neuron_cc(&self) -> Option<&Path> {
        self.get("NEURON_CC").map(Path::new)
    }

    /// The file of `KOMA_CONFIG`.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.get("KOMA_CONFIG").map(Path::new)
    }
}

impl Environment {
    /// Where to fetch models from, from the variables of the hub's and AWS's own tools. Files go to `HF_HUB_CACHE`, `HF_HOME/hub` or
    /// the user's folder for caches.
    pub(crate) fn fetch(&self) -> FetchOptions {
        let path = |name: &str| self.get(name).map(PathBuf::from);
        let home = || path("HOME").map(|home| home.join(".cache"));
        let caches = path("XDG_CACHE_HOME").or_else(home);
        let hub_home = path("HF_HOME").or_else(|| Some(caches.as_ref()?.join("huggingface")));
        let below = |name: &str| hub_home.as_ref().map(|folder| folder.join(name));
        let token_file =
            || std::fs::read_to_string(path("HF_TOKEN_PATH").or_else(|| below("token"))?).ok();
        let token = self.get("HF_TOKEN").map(str::to_owned).or_else(token_file);
        let token = token.map(|token| token.trim().to_owned());
        let is_on =
            |value: &str| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str());
        FetchOptions {
            data_dir: Some(caches.map_or_else(temporary_folder, |folder| folder.join("koma"))),
            hub: HubOptions {
                cache: path("HF_HUB_CACHE").or_else(|| below("hub")),
                endpoint: self.get("HF_ENDPOINT").map(str::to_owned),
                token: token.filter(|token| !token.is_empty()).map(Secret::new),
                offline: self.get("HF_HUB_OFFLINE").is_some_and(is_on),
            },
            s3: self.s3(),
        }
    }

    /// The variables of AWS's own tools.
    fn s3(&self) -> S3Options {
        let text = |name: &str| self.get(name).map(str::to_owned);
        let secret = |name: &str| self.get(name).map(Secret::new);
        let relative = self.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let relative = relative.map(|path| format!("http://169.254.170.2{path}"));
        let path = |name: &str| self.get(name).map(PathBuf::from);
        let instance = || {
            text("AWS_EC2_METADATA_SERVICE_ENDPOINT")
                .or_else(|| Some("http://169.254.169.254".to_owned()))
        };
        let disabled = self
            .get("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|v| v.eq_ignore_ascii_case("true"));
        S3Options {
            region: text("AWS_REGION").or_else(|| text("AWS_DEFAULT_REGION")),
            endpoint: text("AWS_ENDPOINT_URL_S3").or_else(|| text("AWS_ENDPOINT_URL")),
            access_key: text("AWS_ACCESS_KEY_ID"),
            secret_key: secret("AWS_SECRET_ACCESS_KEY"),
            session_token: secret("AWS_SESSION_TOKEN"),
            container: relative.or_else(|| text("AWS_CONTAINER_CREDENTIALS_FULL_URI")),
            container_token: secret("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
            container_token_file: path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
            web_identity: path("AWS_WEB_IDENTITY_TOKEN_FILE"),
            instance: if disabled { None } else { instance() },
        }
    }
}

/// The names alone: some values are secret.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let ours = variables
            .into_iter()
            .filter(|(name, _)| OURS.iter().any(|begin| name.starts_with(begin)));
        Self {
            variables: ours.collect(),
        }
    }
}

/// `max-running` is `KOMA_MAX_RUNNING`.
fn variable(key: &str) -> String {
    format!("KOMA_{}", key.replace('-', "_").to_uppercase())
}

/// Where to write what nobody gave a folder for.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::temp_dir().join("koma")
}
