//! A tokenizer from the metadata of a GGUF file.
//!
//! Owns: which kinds there are, the begin and end tokens, and the table of `tokenizer.ggml.pre` values, whose patterns are those of llama.cpp's converter and of the models'
//! own `tokenizer.json`. A value that is not in the table is an error: a wrong pattern gives wrong ids without a sound.

mod sentencepiece;
mod wordpiece;

use super::Tokenizer;
use super::words::Inner;
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
use tokenizers::{AddedToken, SplitDelimiterBehavior};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
/// As the format spells it.
const SEP: &str = "tokenizer.ggml.seperator_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

/// Token types of the format: what stands for unknown text.
const UNKNOWN_TYPE: i64 = 2;
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
    /// At the matches of these patterns, one after the other.
    Patterns(&'static [&'static str]),
}

/// Of Llama 3, and models that took it over.
const LLAMA3: &[&str] = &[
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
const QWEN2: &[&str] = &[
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
/// Of o200k, which Phi-4-mini took over.
const GPT_4O: &[&str] = &[
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
/// Of Mistral Nemo.
const TEKKEN: &[&str] = &[
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
const DEEPSEEK_CODER: &[&str] = &[
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+",
    r"\p{N}",
];

const TABLE: [Pre; 9] = [
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
        split: Splitting::Patterns(LLAMA3),
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    Pre {
        names: &["dbrx", "smaug-bpe"],
        split: Splitting::Patterns(LLAMA3),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["qwen2"],
        split: Splitting::Patterns(QWEN2),
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["gpt-4o"],
        split: Splitting::Patterns(GPT_4O),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["tekken"],
        split: Splitting::Patterns(TEKKEN),
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    Pre {
        names: &["deepseek-v3"],
        split: Splitting::Patterns(DEEPSEEK_V3),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["deepseek-coder"],
        split: Splitting::Patterns(DEEPSEEK_CODER),
        nfc: false,
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
        let tokens: &[String] = meta.get(TOKENS)?;
        let mut inner = match meta.get::<&str>(MODEL)? {
            "gpt2" => {
                let pre = find_pre(meta)?;
                let mut inner = byte_level(meta, tokens, pre)?;
                add_template(&mut inner, meta, tokens, pre.add_bos)?;
                inner
            }
            "llama" => {
                other_pre(meta, &["default"])?;
                let mut inner = sentencepiece::read(meta)?;
                add_template(&mut inner, meta, tokens, true)?;
                inner
            }
            "bert" => {
                other_pre(
                    meta,
                    &["default", "bert-bge", "bert-bge-large", "jina-v2-en"],
                )?;
                wordpiece::read(meta)?
            }
            other => {
                let reason = format!(
                    "`{other}` is not supported; supported are gpt2 (byte-level BPE), llama (SentencePiece), bert (WordPiece)"
                );
                return Err(meta.error(MODEL, reason));
            }
        };
        inner
            .add_tokens(added_tokens(meta, tokens)?)
            .map_err(|e| meta.error(TYPES, e.to_string()))?;
        Self::new(inner, meta.path())
    }
}

fn byte_level(meta: &GgufMeta, tokens: &[String], pre: &Pre) -> Result<Inner, LoadError> {
    let mut inner = Inner::new(byte_pairs(meta, tokens, pre)?.into());
    let failed = |e: tokenizers::Error| meta.error(PRE, e.to_string());
    if pre.nfc {
        inner.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    let add_space = meta.find(ADD_SPACE)?.unwrap_or(false);
    inner.with_pre_tokenizer(Some(pre_tokenizer(&pre.split, add_space).map_err(failed)?));
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

/// Fails for a way to split that is none of `known`: where words are not split by a pattern it says nothing, or something
/// that is not known here.
fn other_pre(meta: &GgufMeta, known: &[&str]) -> Result<(), LoadError> {
    match meta.find::<&str>(PRE)? {
        Some(name) if !known.contains(&name) => {
            let known = known.join(", ");
            let reason = format!("`{name}` is not known for this model; known are {known}");
            Err(meta.error(PRE, reason))
        }
        _ => Ok(()),
    }
}

/// The text of token `id`, which `key` names.
fn token<'a>(
    meta: &GgufMeta,
    key: &str,
    tokens: &'a [String],
    id: u32,
) -> Result<&'a String, LoadError> {
    let found = tokens.get(id as usize);
    found.ok_or_else(|| meta.error(key, format!("{id} is not below {}", tokens.len())))
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
        Splitting::Patterns(patterns) => {
            let split = |pattern: &&str| {
                let pattern = SplitPattern::Regex((*pattern).to_owned());
                Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(Into::into)
            };
            let mut parts = patterns
                .iter()
                .map(split)
                .collect::<tokenizers::Result<Vec<_>>>()?;
            parts.push(bytes(false));
            sequence(parts)
        }
    })
}

/// Types of the tokens; empty where the file has none.
fn types<'a>(meta: &'a GgufMeta, tokens: &[String]) -> Result<&'a [i64], LoadError> {
    let types = meta.find::<&[i64]>(TYPES)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        let reason = format!("{} types for {} tokens", types.len(), tokens.len());
        return Err(meta.error(TYPES, reason));
    }
    Ok(types)
}

/// Tokens that are matched whole in the text: control and unknown tokens are special, user-defined ones are not.
fn added_tokens(meta: &GgufMeta, tokens: &[String]) -> Result<Vec<AddedToken>, LoadError> {
    let added = |(token, kind): (&String, &i64)| {
        let special = matches!(*kind, CONTROL | UNKNOWN_TYPE);
        let matched = (special || *kind == USER_DEFINED) && !token.is_empty();
        matched.then(|| AddedToken::from(token.as_str(), special).normalized(false))
    };
    let all = tokens.iter().zip(types(meta, tokens)?);
    Ok(all.filter_map(added).collect())
}

/// What adds the begin and end tokens, if one of them is added. `add_bos`: whether a begin token is, where the file does
/// not say.
fn add_template(
    inner: &mut Inner,
    meta: &GgufMeta,
    tokens: &[String],
    add_bos: bool,
) -> Result<(), LoadError> {
    let bos = meta.find(ADD_BOS)?.unwrap_or(add_bos);
    let eos = meta.find(ADD_EOS)?.unwrap_or(false);
    let mut special = Vec::new();
    for (wanted, name, key) in [(bos, "BOS", BOS), (eos, "EOS", EOS)] {
        if wanted {
            let id: u32 = meta.get(key)?;
            let token = token(meta, key, tokens, id)?;
            let token = SpecialToken::new(name.to_owned(), vec![id], vec![token.clone()])
                .map_err(|e| meta.error(key, e.to_string()))?;
            special.push(token);
        }
    }
    if special.is_empty() {
        return Ok(());
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
    inner.with_post_processor(Some(template));
    Ok(())
}
