//! The body and the reply of `/v1/embeddings`.

use super::inputs::{Inputs, inputs};
use super::{Admission, Fields, UsageReply, unserved};
use crate::ApiError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats.
    Base64,
}

/// Which of the model's prompts goes before the inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Prompting {
    /// The one that the model names for this; none if it names none.
    #[default]
    Usual,
    /// The one before queries (`input_type`).
    Query,
    /// The one before what is searched (`input_type`).
    Document,
    /// The one of this name (`prompt_name`).
    Named(String),
}

impl Prompting {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        let name = fields.string("prompt_name")?;
        let Some(raw) = fields.take("input_type") else {
            return Ok(name.map_or(Self::Usual, Self::Named));
        };
        match raw.string()?.as_str() {
            _ if name.is_some() => Err(raw.error("cannot be given beside prompt_name")),
            "query" => Ok(Self::Query),
            "passage" | "document" => Ok(Self::Document),
            _ => Err(raw.error("must be \"query\", \"passage\" or \"document\"")),
        }
    }
}

/// An embeddings request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EmbeddingsRequest {
    pub(crate) model: Option<String>,
    pub(crate) inputs: Inputs,
    pub(crate) encoding: Encoding,
    pub(crate) prompting: Prompting,
    /// `dimensions`: values of a vector, at most the model's own; all if absent.
    pub(crate) dimensions: Option<usize>,
    /// `normalize`: whether vectors have unit length; the model's own choice if absent.
    pub(crate) normalize: Option<bool>,
    pub(crate) admission: Admission,
}

impl EmbeddingsRequest {
    /// Reads `fields`; at most `limit` inputs.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        unserved::refuse(&mut fields, unserved::POOL)?;
        let dimensions = fields.in_range("dimensions", 1, i64::from(u32::MAX))?;
        let request = Self {
            model: fields.string("model")?,
            inputs: inputs(&mut fields, "input", limit)?,
            encoding: encoding(&mut fields)?,
            prompting: Prompting::parse(&mut fields)?,
            dimensions: dimensions.map(|size| usize::try_from(size).unwrap_or(usize::MAX)),
            normalize: fields.boolean("normalize")?,
            admission: Admission::parse(&mut fields)?,
        };
        fields.finish();
        Ok(request)
    }
}

fn encoding(fields: &mut Fields<'_>) -> Result<Encoding, ApiError> {
    match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64),
        Some(_) => Err(fields.error("encoding_format", "must be \"float\" or \"base64\"")),
    }
}

/// The reply.
#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingsReply {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: UsageReply,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    #[serde(rename = "embedding")]
    vector: Vector,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

impl EmbeddingsReply {
    pub(crate) fn new(
        model: String,
        rows: Vec<Vec<f32>>,
        encoding: Encoding,
        usage: UsageReply,
    ) -> Self {
        let data = rows.into_iter().enumerate();
        let data = data.map(|(index, row)| Embedding {
            object: "embedding",
            index,
            vector: Vector::new(row, encoding),
        });
        Self {
            object: "list",
            data: data.collect(),
            model,
            usage,
        }
    }
}

impl Vector {
    fn new(row: Vec<f32>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Float(row),
            Encoding::Base64 => {
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}
