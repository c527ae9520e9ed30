//! What `koma chat`, `koma run` and `koma models` need, resolved from what was typed.

use super::values::Values;
use super::{ModelConfig, ProcessConfig, Surroundings, bench, fetch, model, models, process};
use crate::args::{ChatArgs, Environment, Layer, ModelsArgs, RunCommand, SamplingArgs, TextsArgs};
use koma_engine::models::Secret;
use koma_engine::{SamplingOptions, SamplingParams};
use std::path::PathBuf;

/// One model for the process alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalConfig {
    pub(crate) process: ProcessConfig,
    pub(crate) model: ModelConfig,
    /// As in [`super::ServeConfig`].
    pub(crate) data_dir: Option<PathBuf>,
}

/// All that `koma chat` needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatConfig {
    pub(crate) local: LocalConfig,
    pub(crate) system: Option<String>,
    pub(crate) sampling: SamplingOptions,
}

/// What is asked of a model once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RunTask {
    Classify {
        raw: bool,
        /// How tokens become entities; the route's own default if none.
        aggregation: Option<String>,
    },
    Rerank {
        raw: bool,
        top_n: Option<u32>,
    },
    Embed,
    Complete(Box<SamplingOptions>),
}

/// All that `koma run` needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunConfig {
    pub(crate) local: LocalConfig,
    pub(crate) task: RunTask,
    /// As typed: `-` stands for standard input.
    pub(crate) texts: Vec<String>,
    pub(crate) lines: bool,
    pub(crate) truncate: bool,
    pub(crate) json: bool,
}

/// All that `koma models` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelsConfig {
    /// The server to ask, without `/v1` and without a slash at the end.
    pub(crate) url: Option<String>,
    pub(crate) api_key: Option<Secret>,
    /// Cache folders of the hub's kind, each once.
    pub(crate) caches: Vec<PathBuf>,
    /// Folders for data, each once.
    pub(crate) data: Vec<PathBuf>,
    pub(crate) json: bool,
}

impl LocalConfig {
    /// Only warnings are logged unless something else is asked for: what such a command prints is for a person, and
    /// about one question.
    pub(super) fn resolve(
        source: &str,
        flags: &Layer,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let variables = environment.layer();
        let values = Values::new(&[flags, &variables]);
        let mut process = process(&values, around)?;
        if values.get("log").is_none() {
            "warn".clone_into(&mut process.log_filter);
        }
        Ok(Self {
            process,
            model: model(&models::from_text(source)?, &values)?,
            data_dir: values.text("data-dir").map(PathBuf::from),
        })
    }
}

impl ChatConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        args: &ChatArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        Ok(Self {
            local: LocalConfig::resolve(&args.source, &args.local.layer(), environment, around)?,
            system: args.system.clone().filter(|text| !text.is_empty()),
            sampling: sampling(&args.sampling)?,
        })
    }
}

impl RunConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// As [`super::ServeConfig::resolve`].
    pub(crate) fn resolve(
        command: &RunCommand,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let (texts, task) = match command {
            RunCommand::Classify {
                texts,
                raw,
                aggregation,
            } => {
                let (raw, aggregation) = (*raw, aggregation.clone());
                (texts, RunTask::Classify { raw, aggregation })
            }
            RunCommand::Rerank { texts, raw, top_n } => {
                let (raw, top_n) = (*raw, *top_n);
                (texts, RunTask::Rerank { raw, top_n })
            }
            RunCommand::Embed { texts } => (texts, RunTask::Embed),
            RunCommand::Complete {
                texts,
                sampling: asked,
            } => (texts, RunTask::Complete(Box::new(sampling(asked)?))),
        };
        check_texts(texts, &task)?;
        Ok(Self {
            local: LocalConfig::resolve(&texts.source, &texts.local.layer(), environment, around)?,
            task,
            texts: texts.texts.clone(),
            lines: texts.lines,
            truncate: texts.truncate,
            json: texts.json,
        })
    }
}

impl ModelsConfig {
    /// Reads flags and variables.
    ///
    /// # Errors
    /// If the URL is none.
    pub(crate) fn resolve(
        args: &ModelsArgs,
        environment: &Environment,
        around: &Surroundings,
    ) -> Result<Self, String> {
        let (flags, variables) = (args.layer(), environment.layer());
        let values = Values::new(&[&flags, &variables]);
        let (asked, usual) = (fetch(&values, around), &around.fetch);
        let both = |asked: Option<PathBuf>, usual: &Option<PathBuf>| {
            let mut folders: Vec<PathBuf> = asked.into_iter().chain(usual.clone()).collect();
            folders.dedup();
            folders
        };
        Ok(Self {
            url: args.url.as_deref().map(bench::base).transpose()?,
            api_key: environment.api_key().map(Secret::new),
            caches: both(asked.hub.cache, &usual.hub.cache),
            data: both(asked.data_dir, &usual.data_dir),
            json: args.json,
        })
    }
}

/// No text is empty, `-` is read once, `--lines` is about it, and a query has documents.
fn check_texts(texts: &TextsArgs, task: &RunTask) -> Result<(), String> {
    let (list, lines) = (&texts.texts, texts.lines);
    if list.iter().any(String::is_empty) {
        return Err("a TEXT is empty".to_owned());
    }
    if matches!(task, RunTask::Rerank { .. }) && list.len() == 1 && !lines {
        return Err("the first TEXT is the query; documents must follow it".to_owned());
    }
    match list.iter().filter(|text| *text == "-").count() {
        0 if lines => Err("--lines: is about standard input; give - as TEXT".to_owned()),
        0 | 1 => Ok(()),
        _ => Err("standard input can be read once: give - as TEXT only once".to_owned()),
    }
}

/// The options, with names and ranges checked as requests are; the flag is named.
fn sampling(args: &SamplingArgs) -> Result<SamplingOptions, String> {
    let options = SamplingOptions {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        seed: args.seed,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        repetition_penalty: args.repetition_penalty,
        stop: args.stop.clone(),
        ..SamplingOptions::default()
    };
    match SamplingParams::new(&options, usize::MAX) {
        Ok(_) => Ok(options),
        Err(error) => {
            let flag = error.field.replace('_', "-");
            Err(format!("--{flag}: {}", error.message))
        }
    }
}
