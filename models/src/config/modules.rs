//! sentence-transformers folders: `modules.json` and the modules' own files. Read as data; nothing is imported or run.

use super::Json;
use crate::LoadError;
use crate::layers::pooling::Pooling;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

const MODULES: &str = "modules.json";

/// The flags of older pooling files: name, mode, what holds if the flag is absent.
const FLAGS: [(&str, &str, bool); 6] = [
    ("pooling_mode_cls_token", "cls", false),
    ("pooling_mode_mean_tokens", "mean", true),
    ("pooling_mode_max_tokens", "max", false),
    ("pooling_mode_lasttoken", "lasttoken", false),
    (
        "pooling_mode_mean_sqrt_len_tokens",
        "mean_sqrt_len_tokens",
        false,
    ),
    ("pooling_mode_weightedmean_tokens", "weightedmean", false),
];

/// What a folder says about making one vector of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Embedding {
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
}

/// The modules of an embedder of `hidden` values: a transformer, a pooling, perhaps a normalisation. Without modules.json
/// it is what sentence-transformers makes of a bare model: the mean, not normalised.
///
/// # Errors
/// [`LoadError::Config`] for any other module, by its name, or for a pooling that is not implemented.
pub(crate) fn embedding(folder: &Path, hidden: usize) -> Result<Embedding, LoadError> {
    let Some(modules) = modules(folder)? else {
        return Ok(Embedding {
            pooling: Pooling::Mean,
            normalize: false,
        });
    };
    let [pooling, rest @ ..] = modules.as_slice() else {
        return Err(error(folder, "", "has no Pooling module".to_owned()));
    };
    if pooling.name != "Pooling" {
        return Err(unsupported(folder, pooling));
    }
    let normalize = match rest {
        [] => false,
        [module] if module.name == "Normalize" => true,
        [normalize, module, ..] if normalize.name == "Normalize" => {
            return Err(unsupported(folder, module));
        }
        [module, ..] => return Err(unsupported(folder, module)),
    };
    default_prompt(folder)?;
    let config = Json::read(&folder.join(&pooling.path).join("config.json"))?;
    Ok(Embedding {
        pooling: read_pooling(&config, hidden)?,
        normalize,
    })
}

/// Fails if a classifier's folder names modules beside the transformer.
pub(crate) fn only_transformer(folder: &Path) -> Result<(), LoadError> {
    match modules(folder)?.as_deref() {
        Some([module, ..]) => Err(unsupported(folder, module)),
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
         Pooling and Normalize for embedders",
        module.name,
        module.path.display()
    );
    error(folder, "type", reason)
}

/// A prompt that the library would put before every text changes every vector.
fn default_prompt(folder: &Path) -> Result<(), LoadError> {
    match Json::read_if_there(&folder.join("config_sentence_transformers.json"))? {
        Some(json) if json.find_str("default_prompt_name")?.is_some() => {
            Err(json.error("default_prompt_name", "default prompts are not supported"))
        }
        _ => Ok(()),
    }
}

/// Reads a pooling: `pooling_mode` by name, or one flag for each mode in older files (where the mean is on unless said
/// otherwise).
fn read_pooling(config: &Json, hidden: usize) -> Result<Pooling, LoadError> {
    for field in ["embedding_dimension", "word_embedding_dimension"] {
        if config
            .find_size(field, 1..=hidden)?
            .is_some_and(|n| n != hidden)
        {
            return Err(config.error(field, format!("the model has {hidden}")));
        }
    }
    if let Some(value) = config.value("pooling_mode") {
        return match value {
            Value::String(name) => by_name(config, "pooling_mode", name),
            Value::Array(list) if list.len() == 1 => {
                by_name(config, "pooling_mode", list[0].as_str().unwrap_or_default())
            }
            _ => Err(config.error("pooling_mode", "expected the name of one mode")),
        };
    }
    let mut on = Vec::new();
    for (field, name, default) in FLAGS {
        if config.bool_or(field, default)? {
            on.push((field, name));
        }
    }
    match on.as_slice() {
        [(field, name)] => by_name(config, field, name),
        [] => Err(config.error("pooling_mode", "no mode is on")),
        [_, (field, _), ..] => Err(config.error(field, "several modes at once are not supported")),
    }
}

fn by_name(config: &Json, field: &str, name: &str) -> Result<Pooling, LoadError> {
    match name {
        "cls" => Ok(Pooling::Cls),
        "mean" => Ok(Pooling::Mean),
        "max" => Ok(Pooling::Max),
        "lasttoken" => Ok(Pooling::Last),
        other => {
            let reason =
                format!("`{other}` is not supported; supported are cls, mean, max, lasttoken");
            Err(config.error(field, reason))
        }
    }
}
