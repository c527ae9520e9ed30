//! sentence-transformers folders: `modules.json` and the modules' own files. Read as data; nothing is imported or run.

use super::Json;
use crate::layers::pooling::{NAMED, Pooling};
use crate::{LoadError, Prompts};
use koma_kernels::Then;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

const MODULES: &str = "modules.json";
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";

/// The flags of older pooling files, in the order in which sentence-transformers puts their vectors side by side.
const FLAGS: [(&str, &str); 6] = [
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    (MEAN_FLAG, "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];
const MEAN_FLAG: &str = "pooling_mode_mean_tokens";

/// Widest vector of a Dense module.
const MAX_WIDTH: usize = 1 << 20;

/// What a folder says about making one vector of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Embedding {
    /// Vectors put side by side.
    pub(crate) poolings: Vec<Pooling>,
    /// Whether the tokens of a prompt take part in them.
    pub(crate) include_prompt: bool,
    /// What they go through then.
    pub(crate) dense: Vec<Dense>,
    pub(crate) normalize: bool,
}

/// A Dense module: `then(W x + b)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dense {
    /// Its folder inside of the model's.
    pub(crate) path: PathBuf,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    pub(crate) then: Then,
}

/// The modules of an embedder of `hidden` values: a transformer, a pooling, perhaps dense layers, perhaps a normalisation.
/// Without modules.json it is what sentence-transformers makes of a bare model: the mean, not normalised.
///
/// # Errors
/// [`LoadError::Config`] for any other module, by its name, or for options of these that are not implemented.
pub(crate) fn embedding(folder: &Path, hidden: usize) -> Result<Embedding, LoadError> {
    let mut embedding = Embedding {
        poolings: vec![Pooling::Mean],
        include_prompt: true,
        dense: Vec::new(),
        normalize: false,
    };
    let Some(modules) = modules(folder)? else {
        return Ok(embedding);
    };
    let [pooling, rest @ ..] = modules.as_slice() else {
        return Err(error(folder, "", "has no Pooling module".to_owned()));
    };
    if pooling.name != "Pooling" {
        return Err(unsupported(folder, pooling));
    }
    let config = Json::read(&folder.join(&pooling.path).join("config.json"))?;
    embedding.poolings = read_poolings(&config, hidden)?;
    embedding.include_prompt = config.bool_or("include_prompt", true)?;
    let mut width = hidden * embedding.poolings.len();
    for module in rest {
        match module.name.as_str() {
            "Dense" if !embedding.normalize => {
                let dense = read_dense(folder, &module.path, width)?;
                width = dense.outputs;
                embedding.dense.push(dense);
            }
            "Normalize" if !embedding.normalize => embedding.normalize = true,
            _ => return Err(unsupported(folder, module)),
        }
    }
    Ok(embedding)
}

/// Fails if the folder of a classifier, or of a model that generates, names modules beside the transformer, or a prompt that belongs before every text.
pub(crate) fn only_transformer(folder: &Path) -> Result<(), LoadError> {
    if let Some([module, ..]) = modules(folder)?.as_deref() {
        return Err(unsupported(folder, module));
    }
    match Json::read_if_there(&folder.join(SENTENCE_TRANSFORMERS))? {
        Some(json) if json.find_str("default_prompt_name")?.is_some() => {
            Err(json.error("default_prompt_name", "is supported for embedders only"))
        }
        _ => Ok(()),
    }
}

/// `max_seq_length` of `sentence_bert_config.json`, if it names one.
///
/// # Errors
/// [`LoadError::Config`] also if texts must be lower-cased before a tokenizer that does not do so itself.
pub(crate) fn max_length(
    folder: &Path,
    tokenizer: Option<&Json>,
) -> Result<Option<usize>, LoadError> {
    let Some(json) = Json::read_if_there(&folder.join("sentence_bert_config.json"))? else {
        return Ok(None);
    };
    let tokenizer_does = match tokenizer {
        Some(tokenizer) => tokenizer.bool_or("do_lower_case", false)?,
        None => false,
    };
    if json.bool_or("do_lower_case", false)? && !tokenizer_does {
        return Err(json.error(
            "do_lower_case",
            "is only supported where the tokenizer does it",
        ));
    }
    json.find_size("max_seq_length", 1..=1 << 50)
}

/// One entry of modules.json.
struct Module {
    /// Last part of its type.
    name: String,
    path: PathBuf,
}

/// The modules after the transformer, in order; none without modules.json.
fn modules(folder: &Path) -> Result<Option<Vec<Module>>, LoadError> {
    let path = folder.join(MODULES);
    if !path.is_file() {
        return Ok(None);
    }
    let Value::Array(list) = Json::read_value(&path)? else {
        return Err(error(folder, "", "expected a list".to_owned()));
    };
    let mut modules = Vec::with_capacity(list.len());
    for (i, entry) in list.iter().enumerate() {
        let text = |field: &str| {
            let value = entry.get(field).and_then(Value::as_str);
            value.ok_or_else(|| {
                error(
                    folder,
                    &format!("{i}.{field}"),
                    "expected a string".to_owned(),
                )
            })
        };
        let (kind, path) = (text("type")?, PathBuf::from(text("path")?));
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            let reason = format!("`{}` leads out of the folder", path.display());
            return Err(error(folder, &format!("{i}.path"), reason));
        }
        let name = kind.rsplit('.').next().unwrap_or(kind).to_owned();
        modules.push(Module { name, path });
    }
    match modules.first() {
        Some(first) if first.name == "Transformer" && first.path == Path::new("") => {
            modules.remove(0);
            Ok(Some(modules))
        }
        Some(first) => Err(unsupported(folder, first)),
        None => Err(error(folder, "", "the list is empty".to_owned())),
    }
}

fn error(folder: &Path, field: &str, reason: String) -> LoadError {
    LoadError::Config {
        path: folder.join(MODULES),
        field: if field.is_empty() { "[]" } else { field }.to_owned(),
        reason,
    }
}

fn unsupported(folder: &Path, module: &Module) -> LoadError {
    let reason = format!(
        "module `{}` (in `{}`) is not supported at this place; supported are Transformer (in the folder itself), then \
         Pooling, Dense (any number) and Normalize for embedders",
        module.name,
        module.path.display()
    );
    error(folder, "type", reason)
}

/// The prompts of `config_sentence_transformers.json`.
///
/// # Errors
/// [`LoadError::Config`] for a prompt that is no text, or a default that is not among them.
pub(crate) fn prompts(folder: &Path, include: bool) -> Result<Prompts, LoadError> {
    const DEFAULT: &str = "default_prompt_name";
    let mut prompts = Prompts {
        pooled: include,
        ..Prompts::default()
    };
    let Some(json) = Json::read_if_there(&folder.join(SENTENCE_TRANSFORMERS))? else {
        return Ok(prompts);
    };
    if json.value("prompts").is_some() {
        for (name, text) in json.object("prompts")? {
            let wrong = || json.error(&format!("prompts.{name}"), "expected a string");
            // Null stands for the empty one.
            let text = match text {
                Value::Null => "",
                text => text.as_str().ok_or_else(wrong)?,
            };
            prompts.named.insert(name.clone(), text.to_owned());
        }
    }
    prompts.default = json.find_str(DEFAULT)?.map(str::to_owned);
    match &prompts.default {
        Some(name) if !prompts.named.contains_key(name) => {
            let reason = format!("`{name}` is not among the prompts");
            Err(json.error(DEFAULT, reason))
        }
        _ => Ok(prompts),
    }
}

/// Reads poolings: `pooling_mode` by name or names, or one flag for each mode in older files.
fn read_poolings(config: &Json, hidden: usize) -> Result<Vec<Pooling>, LoadError> {
    for field in ["embedding_dimension", "word_embedding_dimension"] {
        if config
            .find_size(field, 1..=hidden)?
            .is_some_and(|n| n != hidden)
        {
            return Err(config.error(field, format!("the model has {hidden}")));
        }
    }
    if let Some(value) = config.value("pooling_mode") {
        let names = match value {
            Value::Array(list) if !list.is_empty() => list.as_slice(),
            value => std::slice::from_ref(value),
        };
        let named =
            |name: &Value| by_name(config, "pooling_mode", name.as_str().unwrap_or_default());
        return names.iter().map(named).collect();
    }
    let mut on = Vec::new();
    for (field, name) in FLAGS {
        // The mean is on where no file says otherwise.
        let alone = field == MEAN_FLAG && config.value(field).is_none();
        if config.bool_or(field, alone)? {
            on.push((field, alone, name));
        }
    }
    if on.len() > 1 && on.iter().any(|(_, alone, _)| *alone) {
        let reason =
            "must be said where another mode is on: releases differ in what they take it for";
        return Err(config.error(MEAN_FLAG, reason));
    }
    if on.is_empty() {
        return Err(config.error("pooling_mode", "no mode is on"));
    }
    on.iter()
        .map(|(field, _, name)| by_name(config, field, name))
        .collect()
}

fn by_name(config: &Json, field: &str, name: &str) -> Result<Pooling, LoadError> {
    let found = NAMED.iter().find(|(known, _)| *known == name);
    found.map(|(_, pooling)| *pooling).ok_or_else(|| {
        let known = NAMED.map(|(known, _)| known).join(", ");
        let reason = format!("`{name}` is not supported; supported are {known}");
        config.error(field, reason)
    })
}

/// Reads a Dense module behind vectors of `width` values.
fn read_dense(folder: &Path, path: &Path, width: usize) -> Result<Dense, LoadError> {
    const ACTIVATION: &str = "activation_function";
    let config = Json::read(&folder.join(path).join("config.json"))?;
    let pooled = Value::from("sentence_embedding");
    config.expect_only("module_input_name", &pooled)?;
    config.expect_only("module_output_name", &pooled)?;
    config.expect_only("use_residual", &Value::from(false))?;
    let inputs = config.size("in_features", 1..=MAX_WIDTH)?;
    if inputs != width {
        let reason = format!("is {inputs}, but the vectors before it have {width} values");
        return Err(config.error("in_features", reason));
    }
    let named = config.find_str(ACTIVATION)?;
    let then = match named.map(|path| path.rsplit('.').next().unwrap_or(path)) {
        None | Some("Tanh") => Then::Tanh,
        Some("Identity") => Then::Store,
        Some("ReLU") => Then::Relu,
        Some("GELU") => Then::GeluErf,
        Some(other) => {
            let reason =
                format!("`{other}` is not supported; supported are Tanh, Identity, ReLU, GELU");
            return Err(config.error(ACTIVATION, reason));
        }
    };
    Ok(Dense {
        path: path.to_owned(),
        inputs,
        outputs: config.size("out_features", 1..=MAX_WIDTH)?,
        bias: config.bool_or("bias", true)?,
        then,
    })
}
