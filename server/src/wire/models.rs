//! The reply of `/v1/models`.

use crate::{ServedModel, Slot};
use koma_engine::models::HeadKind;
use serde::Serialize;

/// All models, in the order they were named.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelCard>,
}

/// One model. Of a model that does not answer yet only the name is known.
#[derive(Debug, Serialize)]
pub(crate) struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: Option<String>,
    parent: Option<String>,
    max_model_len: Option<usize>,
    koma: Facts,
}

/// What other servers do not tell.
#[derive(Debug, Serialize)]
struct Facts {
    /// `ready`, `loading` or `failed`.
    state: &'static str,
    #[serde(flatten)]
    ready: Option<ReadyFacts>,
}

#[derive(Debug, Serialize)]
struct ReadyFacts {
    /// What computes it: `cpu` or `neuron`.
    device: &'static str,
    /// What it can be asked, as in error messages.
    tasks: Vec<&'static str>,
    architecture: String,
    format: String,
    parameters: u64,
    weights_hash: String,
    weight_bytes: usize,
    labels: Option<Vec<String>>,
    /// Values of an embedder's vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    /// Names of an embedder's prompts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    prompts: Vec<String>,
}

impl ModelCard {
    pub(crate) fn new(name: &str, slot: &Slot) -> Self {
        let (state, model) = match slot {
            Slot::Loading => ("loading", None),
            Slot::Failed(_) => ("failed", None),
            Slot::Ready(model) => ("ready", Some(model)),
        };
        Self {
            id: name.to_owned(),
            object: "model",
            created: model.map_or(0, |m| m.created),
            owned_by: "koma",
            root: model.map(|m| m.root.clone()),
            parent: None,
            max_model_len: model.map(|m| m.handle.info().limits.max_len),
            koma: Facts {
                state,
                ready: model.map(|m| ReadyFacts::new(m)),
            },
        }
    }
}

impl ReadyFacts {
    fn new(model: &ServedModel) -> Self {
        let info = model.handle.info();
        let head = info.head.as_ref();
        let labels = head.map(|head| head.labels.clone());
        let embedder = head.filter(|head| matches!(head.kind, HeadKind::Embed { .. }));
        Self {
            device: info.device.name(),
            tasks: info.tasks.iter().map(|task| task.name()).collect(),
            architecture: info.identity.architecture.clone(),
            format: info.identity.format.clone(),
            parameters: info.identity.parameters,
            weights_hash: info.identity.weights_hash.clone(),
            weight_bytes: info.weight_bytes,
            labels: labels.filter(|labels| !labels.is_empty()),
            dimensions: embedder.map(|head| head.width),
            prompts: embedder.map_or_else(Vec::new, |head| {
                head.prompts.named.keys().cloned().collect()
            }),
        }
    }
}
