//! What was typed becomes what it means: [`ServeConfig`], [`BenchConfig`], [`BenchServeConfig`], resolved once.
//!
//! Owns: defaults, precedence (flag, variable, file, default), allowed ranges, names of models. Must not know: where text
//! comes from beyond the name it is shown under.
//!
//! Invariant: after `resolve` nothing else has a default, and every message names the flag, variable or key at fault.

mod artifact;
mod bench;
mod device;
mod export;
mod inspect;
mod local;
mod models;
mod values;

#[cfg(test)]
mod tests;

use crate::args::{Environment, File, Layer, ServeArgs};
pub(crate) use artifact::{Expected, VerifyConfig, compile_options};
pub(crate) use bench::{BenchConfig, BenchServeConfig, Pace};
pub(crate) use device::{DeviceChoice, DeviceConfig};
pub(crate) use export::ExportConfig;
pub(crate) use inspect::{DoctorConfig, PlanConfig};
use koma_engine::models::kernels::{Class, Isa, KvDtype};
use koma_engine::models::{Dtype, FetchOptions, Source};
pub(crate) use local::{ChatConfig, LocalConfig, ModelsConfig, RunConfig, RunTask};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use values::Values;

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Settings of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessConfig {
    pub(crate) threads: usize,
    pub(crate) isa: Isa,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
    pub(crate) fetch: FetchOptions,
    /// Whether colours are wanted where there is a terminal.
    pub(crate) color: bool,
}

/// Settings of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelConfig {
    pub(crate) name: String,
    pub(crate) source: Source,
    /// The source as it was given.
    pub(crate) root: String,
    pub(crate) dtype: Dtype,
    pub(crate) kv_dtype: KvDtype,
    /// Whether nobody asked for it.
    pub(crate) kv_auto: bool,
    /// None: a share of what is free.
    pub(crate) kv_cache_bytes: Option<usize>,
    /// None: the model's own.
    pub(crate) max_model_len: Option<usize>,
    /// Whether `max_model_len` stands in the model's own table: then more than the model can is an error.
    pub(crate) max_model_len_own: bool,
    pub(crate) max_running: usize,
    /// None: see [`ModelConfig::batch_tokens`].
    pub(crate) max_batch_tokens: Option<usize>,
    /// None: latency for encoders, throughput for decoders.
    pub(crate) class: Option<Class>,
    pub(crate) device: DeviceConfig,
}

/// All that `koma serve` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServeConfig {
    pub(crate) process: ProcessConfig,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) drain_timeout: Duration,
    /// None: the hub's own cache; dumps go to the system's temporary folder.
    pub(crate) data_dir: Option<PathBuf>,
    /// At least one; the first is the default. Names are distinct.
    pub(crate) models: Vec<ModelConfig>,
}

/// What is around the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Processors it may use.
    pub(crate) cores: usize,
    /// Where `SageMaker` puts models.
    pub(crate) sagemaker: PathBuf,
    /// Where to fetch models from, as other tools are told it.
    pub(crate) fetch: FetchOptions,
    /// Whether colours are wanted.
    pub(crate) color: bool,
}

impl ServeConfig {
    /// Reads flags, variables and the file.
    ///
    /// # Errors
    /// A message for the user: the first value that is wrong, with its place and what is allowed.
    pub(crate) fn resolve(
        args: &ServeArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let file = match args.config.as_deref().or_else(|| environment.config()) {
            Some(path) => Some((path, read_file(path)?)),
            None => None,
        };
        let mut flags = args.server.layer();
        flags.append(&mut args.model.layer());
        flags.append(&mut args.device.layer());
        flags.append(&mut args.machine.layer());
        let variables = environment.layer();
        let empty = Layer::new();
        let in_file = file.as_ref().map_or(&empty, |(_, file)| &file.settings);
        let values = Values::new(&[&flags, &variables, in_file]);

        let (given, in_sagemaker) = models::given(args, environment, file.as_ref(), around)?;
        let resolve_one = |given: &models::Given<'_>| {
            let layers = [
                &flags,
                &variables,
                given.settings.unwrap_or(&empty),
                in_file,
            ];
            model(given, &Values::new(&layers))
        };
        let models = given
            .iter()
            .map(resolve_one)
            .collect::<Result<Vec<_>, _>>()?;
        models::check_distinct(&models)?;
        device::check_one(&values, models.len())?;
        let default_host = if in_sagemaker { "0.0.0.0" } else { "127.0.0.1" };
        Ok(Self {
            process: process(&values, around)?,
            host: values
                .host("host")?
                .unwrap_or_else(|| default_host.to_owned()),
            port: values
                .number("port", 0, 65_535)?
                .map_or(8080, |port| port as u16),
            drain_timeout: Duration::from_secs(
                values.number("drain-timeout", 0, 3600)?.unwrap_or(25),
            ),
            data_dir: values.text("data-dir").map(PathBuf::from),
            models,
        })
    }

    /// For the log: all of it, and nothing secret, since there is no secret among the settings.
    pub(crate) fn describe(&self) -> Value {
        let models: Vec<Value> = self.models.iter().map(ModelConfig::describe).collect();
        json!({
            "host": self.host,
            "port": self.port,
            "threads": self.process.threads,
            "isa": self.process.isa.name(),
            "drain_timeout_seconds": self.drain_timeout.as_secs(),
            "data_dir": self.data_dir,
            "models": models,
        })
    }
}

impl ModelConfig {
    /// Most tokens of a step. A decoder's prompts come in chunks: a prompt of 2,048 tokens is read no slower in four, while
    /// buffers and the wait of requests that generate beside a prompt grow. An encoder takes each input whole.
    pub(crate) fn batch_tokens(&self, generates: bool) -> usize {
        let own = if generates { 512 } else { 2048 };
        self.max_batch_tokens.unwrap_or(own)
    }

    pub(crate) fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "source": self.root,
            "dtype": format!("{:?}", self.dtype).to_lowercase(),
            "kv_dtype": self.kv_dtype.name(),
            "kv_cache_bytes": self.kv_cache_bytes,
            "max_model_len": self.max_model_len,
            "max_running": self.max_running,
            "max_batch_tokens": self.max_batch_tokens,
            "class": self.class.map(|class| format!("{class:?}").to_lowercase()),
            "computed_by": self.device.describe(),
        })
    }
}

fn read_file(path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--config: {}: {error}", path.display()))?;
    File::parse(path, &text)
}

fn process(values: &Values<'_>, around: &Surroundings) -> Result<ProcessConfig, String> {
    Ok(ProcessConfig {
        threads: values
            .number("threads", 1, 1024)?
            .map_or(around.cores.max(1), |threads| threads as usize),
        isa: values.isa("isa")?.unwrap_or_else(Isa::detect),
        log_format: values
            .choice(
                "log-format",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            )?
            .unwrap_or(LogFormat::Text),
        log_filter: values
            .log_filter("log")?
            .unwrap_or_else(|| "info".to_owned()),
        fetch: fetch(values, around),
        color: around.color,
    })
}

/// A folder for data that is asked for holds the hub's cache too.
fn fetch(values: &Values<'_>, around: &Surroundings) -> FetchOptions {
    let mut fetch = around.fetch.clone();
    if let Some(folder) = values.text("data-dir").map(PathBuf::from) {
        fetch.hub.cache = Some(folder.join("hub"));
        fetch.data_dir = Some(folder);
    }
    fetch
}

fn model(given: &models::Given<'_>, values: &Values<'_>) -> Result<ModelConfig, String> {
    let (name, source) = models::identify(given)?;
    let dtypes = [
        ("auto", Dtype::Auto),
        ("f32", Dtype::F32),
        ("bf16", Dtype::Bf16),
        ("int8", Dtype::Int8),
        ("fp8", Dtype::Fp8),
    ];
    let dtype = values.choice("dtype", &dtypes)?.unwrap_or(Dtype::Auto);
    let kv_dtypes = [
        ("auto", None),
        ("f32", Some(KvDtype::F32)),
        ("bf16", Some(KvDtype::Bf16)),
        ("int8", Some(KvDtype::Int8)),
        ("f16", Some(KvDtype::F16)),
        ("fp8-e4m3", Some(KvDtype::Fp8)),
    ];
    let kv_dtype = values.choice("kv-dtype", &kv_dtypes)?.flatten();
    let exact = dtype == Dtype::F32;
    let count = |key, most| Ok::<_, String>(values.number(key, 1, most)?.map(|n| n as usize));
    let max_len = "max-model-len";
    let own = given.settings.and_then(|settings| settings.get(max_len));
    Ok(ModelConfig {
        name,
        source,
        root: given.source.clone(),
        dtype,
        kv_auto: kv_dtype.is_none(),
        kv_dtype: kv_dtype.unwrap_or(if exact { KvDtype::F32 } else { KvDtype::Bf16 }),
        kv_cache_bytes: values.size("kv-cache-memory")?,
        max_model_len: count(max_len, 1 << 24)?,
        max_model_len_own: own.is_some() && own == values.get(max_len),
        max_running: count("max-running", 65_536)?.unwrap_or(128),
        max_batch_tokens: count("max-batch-tokens", 1 << 20)?,
        class: given.class()?,
        device: DeviceConfig::resolve(values)?,
    })
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn detect(environment: &Environment) -> Self {
        Self {
            cores: koma_engine::Machine::detect().cores,
            sagemaker: PathBuf::from("/opt/ml/model"),
            fetch: environment.fetch(),
            color: environment.color(),
        }
    }
}
