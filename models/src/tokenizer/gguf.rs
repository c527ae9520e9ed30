//! A tokenizer from the metadata of a GGUF file.
//!
//! Owns: the table of `tokenizer.ggml.pre` values, whose patterns are those of llama.cpp's converter and of the models'
//! own `tokenizer.json`. A value that is not in the table is an error: a wrong pattern gives wrong ids without a sound.

use super::Tokenizer;
use crate::LoadError;
use crate::gguf::GgufMeta;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

/// Token types of the format: role markers and the like.
const CONTROL: i64 = 3;
/// Token types of the format: matched whole in the text, but ordinary text.
const USER_DEFINED: i64 = 4;

/// How text is split before byte pairs are merged.
struct Pre {
    /// Values of `tokenizer.ggml.pre` it goes by.
    names: &'static [&'static str],
    split: Splitting,
    /// Canonical composition first.
    nfc: bool,
    /// A word that is in the vocabulary is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Whether a begin token is added where the file does not say.
    add_bos: bool,
}

enum Splitting {
    /// GPT-2's pattern.
    Gpt2,
    /// Digits one by one, then GPT-2's pattern.
    DigitsGpt2,
    /// A pattern of its own.
    Pattern(&'static str),
}

const TABLE: [Pre; 4] = [
    Pre {
        names: &["smollm", "starcoder"],
        split: Splitting::DigitsGpt2,
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["gpt-2"],
        split: Splitting::Gpt2,
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Splitting::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    Pre {
        names: &["qwen2"],
        split: Splitting::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
];

impl Tokenizer {
    /// The tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    /// [`LoadError::Config`] naming the key that is missing, wrong or not supported.
    pub fn from_gguf(meta: &GgufMeta) -> Result<Self, LoadError> {
        let model: &str = meta.get(MODEL)?;
        if model != "gpt2" {
            return Err(meta.error(
                MODEL,
                format!("`{model}` is not supported; supported is gpt2 (byte-level BPE)"),
            ));
        }
        let pre = find_pre(meta)?;
        let tokens: &[String] = meta.get(TOKENS)?;

        let mut inner = Inner::new(byte_pairs(meta, tokens, pre)?);
        let failed = |key: &str, e: tokenizers::Error| meta.error(key, e.to_string());
        if pre.nfc {
            inner
                .with_normalizer(Some(NFC))
                .map_err(|e| failed(PRE, e))?;
        }
        let add_space = meta.find(ADD_SPACE)?.unwrap_or(false);
        inner.with_pre_tokenizer(Some(
            pre_tokenizer(&pre.split, add_space).map_err(|e| failed(PRE, e))?,
        ));
        inner.with_decoder(Some(ByteLevel::default()));
        inner
            .add_tokens(added_tokens(meta, tokens)?)
            .map_err(|e| failed(TYPES, e))?;
        if let Some(template) = template(meta, tokens, pre.add_bos)? {
            inner.with_post_processor(Some(template));
        }
        Self::new(inner, meta.path())
    }
}

fn find_pre(meta: &GgufMeta) -> Result<&'static Pre, LoadError> {
    let name: &str = meta.get(PRE)?;
    TABLE
        .iter()
        .find(|pre| pre.names.contains(&name))
        .ok_or_else(|| {
            let known = known_pre().join(", ");
            meta.error(PRE, format!("`{name}` is not known; known are {known}"))
        })
}

/// All names in the table.
pub(super) fn known_pre() -> Vec<&'static str> {
    TABLE.iter().flat_map(|pre| pre.names).copied().collect()
}

fn byte_pairs(meta: &GgufMeta, tokens: &[String], pre: &Pre) -> Result<BPE, LoadError> {
    let mut vocab = Vocab::default();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = vocab.insert(token.clone(), id as u32) {
            let reason = format!("`{token}` is there twice, as {other} and as {id}");
            return Err(meta.error(TOKENS, reason));
        }
    }
    let merges: &[String] = meta.get(MERGES)?;
    let merges: Vec<_> = merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(meta.error(MERGES, format!("`{merge}` is not two tokens"))),
        })
        .collect::<Result<_, _>>()?;
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|e| meta.error(MERGES, e.to_string()))
}

fn pre_tokenizer(split: &Splitting, add_space: bool) -> tokenizers::Result<PreTokenizerWrapper> {
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(add_space, false, use_regex));
    let sequence = |first| PreTokenizerWrapper::from(Sequence::new(first));
    Ok(match split {
        Splitting::Gpt2 => bytes(true),
        Splitting::DigitsGpt2 => sequence(vec![Digits::new(true).into(), bytes(true)]),
        Splitting::Pattern(pattern) => {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
            sequence(vec![split.into(), bytes(false)])
        }
    })
}

/// Tokens that are matched whole in the text: control tokens are special, user-defined ones are not.
fn added_tokens(meta: &GgufMeta, tokens: &[String]) -> Result<Vec<AddedToken>, LoadError> {
    let Some(types) = meta.find::<&[i64]>(TYPES)? else {
        return Ok(Vec::new());
    };
    if types.len() != tokens.len() {
        let reason = format!("{} types for {} tokens", types.len(), tokens.len());
        return Err(meta.error(TYPES, reason));
    }
    let matched = tokens
        .iter()
        .zip(types)
        .filter(|(token, kind)| matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty());
    Ok(matched
        .map(|(token, kind)| AddedToken::from(token.as_str(), *kind == CONTROL).normalized(false))
        .collect())
}

/// What adds the begin and end tokens; none if neither is added.
fn template(
    meta: &GgufMeta,
    tokens: &[String],
    add_bos: bool,
) -> Result<Option<TemplateProcessing>, LoadError> {
    let bos = meta.find(ADD_BOS)?.unwrap_or(add_bos);
    let eos = meta.find(ADD_EOS)?.unwrap_or(false);
    let mut special = Vec::new();
    for (wanted, name, key) in [(bos, "BOS", BOS), (eos, "EOS", EOS)] {
        if wanted {
            let id: u32 = meta.get(key)?;
            let token = tokens
                .get(id as usize)
                .ok_or_else(|| meta.error(key, format!("{id} is not below {}", tokens.len())))?;
            let token = SpecialToken::new(name.to_owned(), vec![id], vec![token.clone()])
                .map_err(|e| meta.error(key, e.to_string()))?;
            special.push(token);
        }
    }
    if special.is_empty() {
        return Ok(None);
    }
    let around = |text: &str, segment: u8| {
        let begin = bos.then(|| format!("BOS:{segment}"));
        let end = eos.then(|| format!("EOS:{segment}"));
        let parts = [begin, Some(format!("{text}:{segment}")), end];
        parts.into_iter().flatten().collect::<Vec<_>>()
    };
    let mut template = TemplateProcessing::builder();
    let failed = |reason: String| meta.error(ADD_BOS, reason);
    template.try_single(around("$A", 0)).map_err(failed)?;
    template
        .try_pair([around("$A", 0), around("$B", 1)].concat())
        .map_err(failed)?;
    template.special_tokens(special);
    let template = template.build().map_err(|e| failed(e.to_string()))?;
    Ok(Some(template))
}
