//! A tokenizer from the metadata of a GGUF file.
//!
//! Owns: which kinds there are, the begin and end tokens, and the table of `tokenizer.ggml.pre` values, whose patterns are those of llama.cpp's converter and of the models'
//! own `tokenizer.json`. A value that is not in the table is an error: a wrong pattern gives wrong ids without a sound.
//!
//! Invariant: memory is bounded before the vocabulary is indexed ([`MAX_TOKENS`], [`MAX_MATCHED`]).

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

/// Tokens at most: four times the largest vocabularies.
const MAX_TOKENS: usize = 1 << 20;
/// Tokens that are matched whole at most: ten times as many as models have. The automaton that finds them takes hundreds of bytes
/// for each, and more for long ones.
const MAX_MATCHED: usize = 1 << 16;
/// Tokens of Phi-3 after which a space stays; the others that are matched whole swallow it.
const PHI3_KEEPS_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

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
/// Letters and punctuation are lists of their own here.
const DEEPSEEK_LLM: &[&str] = &[
    r"[\r\n]",
    r"\s?[A-Za-z\x{00B5}\x{00C0}-\x{00D6}\x{00D8}-\x{00F6}\x{00F8}-\x{01BA}\x{01BC}-\x{01BF}\x{01C4}-\x{0293}\x{0295}-\x{02AF}\x{0370}-\x{0373}\x{0376}\x{0377}\x{037B}-\x{037D}\x{037F}\x{0386}\x{0388}-\x{038A}\x{038C}\x{038E}-\x{03A1}\x{03A3}-\x{03F5}\x{03F7}-\x{0481}\x{048A}-\x{052F}\x{0531}-\x{0556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
    r"\s+$",
    r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+",
    r"\p{N}",
];
const DEEPSEEK_CODER: &[&str] = &[
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+",
    r"\p{N}",
];

const TABLE: [Pre; 10] = [
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
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "pixtral",
            "midm-2.0",
        ],
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
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Splitting::Patterns(QWEN2),
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["gpt-4o", "llama4"],
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
        names: &["deepseek-llm"],
        split: Splitting::Patterns(DEEPSEEK_LLM),
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
        if tokens.len() > MAX_TOKENS {
            let reason = format!("{} tokens, more than {MAX_TOKENS}", tokens.len());
            return Err(meta.error(TOKENS, reason));
        }
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
    if add_space && !matches!(pre.split, Splitting::Gpt2) {
        let reason = format!(
            "true is not supported where `{PRE}` splits words by more than GPT-2's pattern"
        );
        return Err(meta.error(ADD_SPACE, reason));
    }
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
    let strips = strips_right(meta)?;
    let special = |kind: i64| matches!(kind, CONTROL | UNKNOWN_TYPE);
    let all = tokens.iter().zip(types(meta, tokens)?);
    let matched = all
        .filter(|(token, kind)| (special(**kind) || **kind == USER_DEFINED) && !token.is_empty());
    let count = matched.clone().count();
    if count > MAX_MATCHED {
        let reason = format!("{count} tokens are matched whole, more than {MAX_MATCHED}");
        return Err(meta.error(TYPES, reason));
    }
    let added = matched.map(|(token, kind)| {
        let strips = strips && !PHI3_KEEPS_SPACE.contains(&token.as_str());
        AddedToken::from(token.as_str(), special(*kind))
            .normalized(false)
            .rstrip(strips)
    });
    Ok(added.collect())
}

/// Whether tokens that are matched whole swallow the space behind them. A file does not say it; the `tokenizer.json` of Phi-3
/// does, and llama.cpp goes by the model's name.
fn strips_right(meta: &GgufMeta) -> Result<bool, LoadError> {
    let phi3 = meta.find::<&str>("general.architecture")? == Some("phi3");
    Ok(phi3 && meta.get::<&str>(MODEL)? == "llama")
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
