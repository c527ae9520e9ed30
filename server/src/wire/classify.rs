//! The body and the reply of `/classify`.

use super::inputs::{Input, Inputs, inputs, text};
use super::{Admission, Cut, Fields, Kind, Raw, UsageReply, raw_scores, unserved};
use crate::ApiError;
use koma_engine::text::{Aggregation, Entity};
use serde::Serialize;

/// The field that says how tokens become entities.
pub(crate) const AGGREGATION: &str = "aggregation_strategy";
const IGNORED: &str = "ignore_labels";
/// Most labels that are left out.
const MAX_IGNORED: usize = 1024;

/// A classification request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassifyRequest {
    pub(crate) model: Option<String>,
    pub(crate) inputs: Inputs,
    /// Whether the model's own activation is left out; default no.
    pub(crate) raw: bool,
    /// What only token classifiers know.
    pub(crate) entities: EntityOptions,
    pub(crate) admission: Admission,
}

/// How tokens become entities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EntityOptions {
    /// `aggregation_strategy`; none if absent.
    pub(crate) aggregation: Option<Aggregation>,
    /// `ignore_labels`: entities that are left out; those of `O` if absent.
    pub(crate) ignored: Option<Vec<String>>,
}

impl EntityOptions {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        let aggregation = fields.take(AGGREGATION).map(|raw| {
            let name = raw.string()?;
            let found = Aggregation::NAMED.iter().find(|(known, _)| *known == name);
            let known = || Aggregation::NAMED.map(|(known, _)| known).join(", ");
            found.map_or_else(
                || Err(raw.error(format!("must be one of {}", known()))),
                |(_, strategy)| Ok(*strategy),
            )
        });
        let ignored = fields.take(IGNORED).map(|raw| {
            let labels = raw.list(MAX_IGNORED)?;
            labels.iter().map(Raw::string).collect()
        });
        Ok(Self {
            aggregation: aggregation.transpose()?,
            ignored: ignored.transpose()?,
        })
    }

    /// The first of its fields that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let aggregation = self.aggregation.map(|_| AGGREGATION);
        aggregation.or(self.ignored.as_ref().map(|_| IGNORED))
    }
}

impl ClassifyRequest {
    /// Reads `fields`; at most `limit` inputs. An entry of `input` that is a list of two strings is a pair.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        unserved::refuse(&mut fields, unserved::POOL)?;
        unserved::refuse(&mut fields, unserved::PROMPTS)?;
        let request = Self {
            model: fields.string("model")?,
            inputs: inputs_or_pairs(&mut fields, limit)?,
            raw: raw_scores(&mut fields)?,
            entities: EntityOptions::parse(&mut fields)?,
            admission: Admission::parse(&mut fields)?,
        };
        fields.finish();
        Ok(request)
    }
}

/// As [`inputs`], or all of them pairs.
fn inputs_or_pairs(fields: &mut Fields<'_>, limit: usize) -> Result<Inputs, ApiError> {
    let pairs = match fields.peek("input") {
        Some(raw) if raw.first_kind() == Some(Kind::Array) => {
            let entries = raw.list(limit)?;
            let is_pair = |entry: &Raw<'_>| entry.first_kind() == Some(Kind::String);
            entries.iter().any(is_pair).then_some((raw, entries))
        }
        _ => None,
    };
    let Some((raw, entries)) = pairs else {
        return inputs(fields, "input", limit);
    };
    fields.take("input");
    Ok(Inputs {
        field: raw.path().to_owned(),
        list: entries.iter().map(pair).collect::<Result<_, _>>()?,
        cut: Cut::parse(fields)?,
    })
}

fn pair(raw: &Raw<'_>) -> Result<Input, ApiError> {
    match raw.list(2)?.as_slice() {
        [first, second] => Ok(Input::Pair(text(first)?.into(), text(second)?)),
        _ => Err(raw.error("must be a pair: two strings")),
    }
}

/// The reply.
#[derive(Debug, Serialize)]
pub(crate) struct ClassifyReply {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<Classified>,
    usage: UsageReply,
}

/// What was found in one input.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Classified {
    /// Its classes.
    Whole {
        index: usize,
        /// The name of the class of the largest value; none for a model without names.
        label: Option<String>,
        probs: Vec<f32>,
        num_classes: usize,
    },
    /// Places in it.
    Parts {
        index: usize,
        entities: Vec<EntityReply>,
    },
}

/// An entity with the fields that transformers gives it.
#[derive(Debug, Serialize)]
pub(crate) struct EntityReply {
    /// The label of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<String>,
    /// The label of merged tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_group: Option<String>,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    word: String,
    /// First character of the input.
    start: usize,
    /// Behind the last character.
    end: usize,
}

impl From<Entity> for EntityReply {
    fn from(found: Entity) -> Self {
        let (entity, entity_group) = match found.index {
            Some(_) => (Some(found.label), None),
            None => (None, Some(found.label)),
        };
        Self {
            entity,
            entity_group,
            score: found.score,
            index: found.index,
            word: found.word,
            start: found.start,
            end: found.end,
        }
    }
}

impl ClassifyReply {
    pub(crate) fn new(
        id: String,
        created: u64,
        model: String,
        data: Vec<Classified>,
        usage: UsageReply,
    ) -> Self {
        Self {
            id,
            object: "list",
            created,
            model,
            data,
            usage,
        }
    }
}
