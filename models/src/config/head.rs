//! What a classifier's outputs mean: `problem_type`, `id2label`, and the activation that sentence-transformers names.

use super::Json;
use crate::{Head, HeadKind, LoadError};
use std::path::Path;

/// Labels of a checkpoint at most.
const MAX_LABELS: usize = 1 << 20;

/// The activation of a cross-encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activation {
    Identity,
    Sigmoid,
}

/// Reads the head of a `*ForSequenceClassification` folder.
///
/// The task, as transformers' pipeline and sentence-transformers' `CrossEncoder` decide it:
/// - one label and a named activation (see below): a relevance score, whatever `problem_type` says.
/// - `problem_type` `regression`: the number itself; `multi_label_classification`: a sigmoid for each label.
/// - one label otherwise: a relevance score. Its activation is the one that is named (`sentence_transformers.activation_fn`
///   or `sbert_ce_default_activation_function` in config.json, `activation_fn` in `config_sentence_transformers.json`), else a
///   sigmoid, which is also what transformers' pipeline does with one label.
/// - several labels: softmax; a sigmoid for each if the named activation is one. `Identity` is what sentence-transformers has, and
///   writes, for all cross-encoders with several labels: whether it is named changes nothing, as in transformers' pipeline.
///
/// # Errors
/// [`LoadError::Config`] for an unknown problem type or activation, or labels that are not numbered from 0.
pub(crate) fn read(folder: &Path, config: &Json) -> Result<Head, LoadError> {
    let labels = labels(config)?;
    let activation = activation(folder, config)?;
    let several = if activation == Some(Activation::Sigmoid) {
        HeadKind::MultiLabel
    } else {
        HeadKind::SingleLabel
    };
    let kind = match config.find_str("problem_type")? {
        _ if labels.len() == 1 && activation.is_some() => HeadKind::Score {
            sigmoid: activation == Some(Activation::Sigmoid),
        },
        Some("regression") => HeadKind::Regression,
        Some("multi_label_classification") => HeadKind::MultiLabel,
        None | Some("single_label_classification") if labels.len() == 1 => {
            HeadKind::Score { sigmoid: true }
        }
        Some("single_label_classification") => HeadKind::SingleLabel,
        None => several,
        Some(other) => {
            let reason = format!(
                "`{other}` is unknown; known are single_label_classification, multi_label_classification, regression"
            );
            return Err(config.error("problem_type", reason));
        }
    };
    Ok(Head::labelled(kind, labels))
}

/// Reads the head of a `*ForTokenClassification` folder: its labels.
///
/// # Errors
/// [`LoadError::Config`] for labels that are not numbered from 0.
pub(crate) fn tokens(config: &Json) -> Result<Head, LoadError> {
    Ok(Head::labelled(HeadKind::Tokens, labels(config)?))
}

/// `id2label` in the order of its ids; without it `LABEL_i`, as many as `num_labels` says (2 if nothing does).
fn labels(config: &Json) -> Result<Vec<String>, LoadError> {
    const FIELD: &str = "id2label";
    let count = config.find_size("num_labels", 1..=MAX_LABELS)?;
    if config.value(FIELD).is_none() {
        let count = count.unwrap_or(2);
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    }
    let map = config.object(FIELD)?;
    if map.is_empty() || count.is_some_and(|n| n != map.len()) {
        let reason = format!("has {} labels, num_labels is {count:?}", map.len());
        return Err(config.error(FIELD, reason));
    }
    let mut labels = vec![None; map.len()];
    for (id, label) in map {
        let slot = id.parse::<usize>().ok().and_then(|i| labels.get_mut(i));
        match (slot, label.as_str()) {
            (Some(slot @ None), Some(label)) => *slot = Some(label.to_owned()),
            (_, None) => return Err(config.error(&format!("{FIELD}.{id}"), "expected a string")),
            _ => {
                let reason = format!("ids must be 0 to {}, each once", map.len() - 1);
                return Err(config.error(&format!("{FIELD}.{id}"), reason));
            }
        }
    }
    Ok(labels.into_iter().flatten().collect())
}

/// The activation that sentence-transformers wrote, in any of the three places that it used.
fn activation(folder: &Path, config: &Json) -> Result<Option<Activation>, LoadError> {
    if let Some(json) = Json::read_if_there(&folder.join("config_sentence_transformers.json"))?
        && let Some(activation) = named(&json, "activation_fn")?
    {
        return Ok(Some(activation));
    }
    if let Some(inner) = config.find_inner("sentence_transformers")?
        && let Some(activation) = named(&inner, "activation_fn")?
    {
        return Ok(Some(activation));
    }
    named(config, "sbert_ce_default_activation_function")
}

fn named(json: &Json, field: &str) -> Result<Option<Activation>, LoadError> {
    let Some(path) = json.find_str(field)? else {
        return Ok(None);
    };
    match path.rsplit('.').next() {
        Some("Identity") => Ok(Some(Activation::Identity)),
        Some("Sigmoid") => Ok(Some(Activation::Sigmoid)),
        _ => Err(json.error(
            field,
            format!("`{path}` is not supported; supported are Identity and Sigmoid"),
        )),
    }
}
