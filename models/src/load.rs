//! [`load`]: from a [`Source`] to a [`Loaded`] model.

use crate::config::Json;
use crate::config::chat::TokenFiles;
use crate::config::modules;
use crate::gguf::GgufMeta;
use crate::registry::{self, Architecture, Built, Checkpoint, Kind};
use crate::source::{self, Found};
use crate::weights::{Contents, Scheme, Weights};
use crate::{
    Blueprint, ChatAssets, Device, Dtype, Identity, LoadError, LoadOptions, Loaded, Model, Outline,
    Source, Tensors, Tokenizer,
};
use koma_kernels::{Format, Isa, StandIns};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Loads a model: finds its files, builds its architecture, checks that every tensor was used.
///
/// Nothing in a model folder is executed; a `code/` folder (`SageMaker`'s place for scripts) is ignored with a warning.
///
/// # Errors
/// See [`LoadError`]; each names the file, field or tensor.
pub fn load(source: &Source, options: &LoadOptions) -> Result<Loaded, LoadError> {
    match source::fetch(source, options)? {
        Found::Folder(folder) => {
            let (checkpoint, architecture) = open_folder(&folder, options)?;
            Ok(load_folder(&folder, (checkpoint, architecture), options)?.0)
        }
        Found::Gguf(path) => load_gguf(&path, options),
    }
}

/// `source` on this machine: a folder or a GGUF file. What is not there yet is fetched or unpacked; after that nobody is asked
/// for it again.
///
/// # Errors
/// As [`load`] would say it.
pub fn local(source: &Source, options: &LoadOptions) -> Result<Source, LoadError> {
    Ok(match source::fetch(source, options)? {
        Found::Folder(folder) => Source::Folder(folder),
        Found::Gguf(path) => Source::Gguf(path),
    })
}

/// The folder on this machine that `source` is loaded from; none for a GGUF file. What is not on this machine is fetched first.
///
/// # Errors
/// As [`load`] would say it.
pub fn folder(source: &Source, options: &LoadOptions) -> Result<Option<PathBuf>, LoadError> {
    match source::fetch(source, options)? {
        Found::Folder(folder) => Ok(Some(folder)),
        Found::Gguf(_) => Ok(None),
    }
}

/// A model of a folder as data, and its weights by name. What is not on this machine is fetched first. Everything that [`load`]
/// checks is checked, but for the contents of the weights, which are not read.
///
/// # Errors
/// As [`load`]; for a GGUF file, and for quantized weights.
pub fn blueprint(source: &Source, options: &LoadOptions) -> Result<Blueprint, LoadError> {
    let folder = match source::fetch(source, options)? {
        Found::Folder(folder) => folder,
        Found::Gguf(path) => {
            let reason = "is a GGUF file; a Hugging Face folder is needed".to_owned();
            return Err(LoadError::File { path, reason });
        }
    };
    let (mut checkpoint, architecture) = open_folder(&folder, options)?;
    let json = checkpoint.folder()?.1;
    if Scheme::read(&json)?.is_some() {
        let reason =
            "quantized weights have no values of their own; give the model they were made from";
        return Err(json.error("quantization_config", reason));
    }
    checkpoint.weights.contain(Contents::None);
    let (loaded, checkpoint) = load_folder(&folder, (checkpoint, architecture), options)?;
    let spec = match &loaded.model {
        Model::Encoder(encoder) => encoder.spec(),
        Model::Decoder(_) => None,
    };
    let padding = match &spec {
        Some(spec) => json.find_size("pad_token_id", 0..=spec.sizes.vocab - 1)?,
        None => None,
    };
    Ok(Blueprint {
        spec,
        identity: loaded.identity,
        limits: loaded.limits,
        head: loaded.head,
        tensors: Tensors(checkpoint.weights),
        padding: padding.unwrap_or(0) as u32,
        folder,
    })
}

/// What [`load`] would give, from the heads of the files alone: what a budget asks before anything is loaded. What is
/// not on this machine is fetched first.
///
/// The architecture is built as ever, over weights that have shapes and no values, so whatever is wrong with configuration,
/// names, shapes and types is an error already here.
///
/// # Errors
/// As [`load`], but for the contents of the weights and the tokenizer, which are not read.
pub fn outline(source: &Source, options: &LoadOptions) -> Result<Outline, LoadError> {
    Ok(without_values(source, options, Contents::None)?.0)
}

/// The model over weights with values of no meaning ([`StandIns`]): it can run, to know how long a forward takes.
///
/// # Errors
/// As [`outline`].
pub fn rehearsal(
    source: &Source,
    options: &LoadOptions,
    stand_ins: StandIns,
) -> Result<Model, LoadError> {
    Ok(without_values(source, options, Contents::StandIns(stand_ins))?.1)
}

fn without_values(
    source: &Source,
    options: &LoadOptions,
    contents: Contents,
) -> Result<(Outline, Model), LoadError> {
    let (mut checkpoint, (architecture, _, build)) = match source::fetch(source, options)? {
        Found::Folder(folder) => open_folder(&folder, options)?,
        Found::Gguf(path) => open_gguf(&path, options)?,
    };
    checkpoint.weights.contain(contents);
    // What there is to warn of is said by the load that follows.
    let quiet = tracing::subscriber::NoSubscriber::default();
    let built = tracing::subscriber::with_default(quiet, || build(&mut checkpoint))?;
    let outline = Outline {
        architecture: architecture.to_owned(),
        format: checkpoint.weights.format(),
        parameters: checkpoint.weights.parameters(),
        limits: built.limits,
        cache_groups: built.model.cache_groups(),
        weight_bytes: checkpoint.weights.memory(),
    };
    Ok((outline, built.model))
}

/// The tokenizer of `source` alone.
///
/// # Errors
/// As [`load`] would say it.
pub fn tokenizer(source: &Source, options: &LoadOptions) -> Result<Tokenizer, LoadError> {
    match source::fetch(source, options)? {
        Found::Folder(folder) => Tokenizer::from_file(&folder.join("tokenizer.json")),
        Found::Gguf(path) => Tokenizer::from_gguf(&Weights::gguf(&path, options)?.0),
    }
}

/// Opens a folder's weights and finds its architecture.
fn open_folder(
    folder: &Path,
    options: &LoadOptions,
) -> Result<(Checkpoint, Architecture), LoadError> {
    let json = Json::read(&folder.join("config.json"))?;
    let names = json.find_array("architectures")?.unwrap_or_default();
    let Some(name) = names.first().and_then(Value::as_str) else {
        return Err(json.error(
            "architectures",
            "expected a list with the name of an architecture",
        ));
    };
    let architecture = registry::find(name)?;
    check_int8(folder, architecture.1, options)?;
    check_fp8(folder, options)?;
    if architecture.1 == Kind::Decoder {
        // An embedder that was made of a model which generates: its text would be nonsense.
        modules::only_transformer(folder)?;
    }
    let scheme = Scheme::read(&json)?;
    let fast = options.isa == Some(Isa::Avx512) && architecture.1 != Kind::Decoder;
    let mut options = options.clone();
    if fast && options.dtype == Dtype::Auto && scheme.is_none() {
        options.dtype = Dtype::Bf16;
    }
    let mut checkpoint = Checkpoint {
        kind: architecture.1,
        gguf: None,
        weights: Weights::folder(folder, &options)?,
        folder: Some((folder.to_owned(), json.clone())),
        max_len: options.max_len,
    };
    checkpoint.weights.named(named_dtype(&json)?);
    checkpoint.weights.quantized_by(scheme);
    Ok((checkpoint, architecture))
}

/// Refuses [`Dtype::Int8`] for what generates.
fn check_int8(path: &Path, kind: Kind, options: &LoadOptions) -> Result<(), LoadError> {
    if kind != Kind::Decoder || options.dtype != Dtype::Int8 {
        return Ok(());
    }
    let reason = "is a model that generates, and dtype int8 is for encoders (classifiers, rerankers, embedders); use a GGUF file in Q8_0 or Q4_0, a quantized checkpoint (GPTQ, AWQ, compressed-tensors), or dtype bf16";
    Err(LoadError::File {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Refuses [`Dtype::Fp8`] where nothing multiplies it.
fn check_fp8(path: &Path, options: &LoadOptions) -> Result<(), LoadError> {
    if options.dtype != Dtype::Fp8 {
        return Ok(());
    }
    let refused = |reason| {
        let path = path.to_owned();
        Err(LoadError::File { path, reason })
    };
    #[cfg(feature = "cuda")]
    if let Some(upload) = &options.upload {
        return match upload.gpu().check_fp8() {
            Ok(()) => Ok(()),
            Err(error) => refused(format!("cannot be computed with dtype fp8: {error}")),
        };
    }
    refused(
        "cannot be computed with dtype fp8 by the CPU: products of FP8 need an NVIDIA GPU of compute capability 8.9 or higher (--device cuda:N) and cuBLASLt; use dtype auto, bf16 or, for encoders, int8"
            .to_owned(),
    )
}

/// Builds what [`open_folder`] opened.
fn load_folder(
    folder: &Path,
    (mut checkpoint, (architecture, kind, build)): (Checkpoint, Architecture),
    options: &LoadOptions,
) -> Result<(Loaded, Checkpoint), LoadError> {
    if folder.join("code").is_dir() {
        tracing::warn!(folder = %folder.display(), "the folder `code` in it is ignored: nothing in a model folder is run");
    }
    let json = checkpoint.folder()?.1;
    if json.value("auto_map").is_some() {
        tracing::warn!(folder = %folder.display(), "`auto_map` of config.json is ignored: nothing in a model folder is run");
    }
    let (built, tokenizer) = rayon::join(
        || build(&mut checkpoint),
        || Tokenizer::from_file(&folder.join("tokenizer.json")),
    );
    let mut built = built?;
    checkpoint.weights.finish(built.ignorable)?;
    let tokenizer = tokenizer?;
    let files = TokenFiles::read(folder)?;
    if tokenizer.vocab_size() > built.limits.vocab {
        return Err(LoadError::Tokenizer {
            path: folder.join("tokenizer.json"),
            reason: format!(
                "has ids up to {}, but vocab_size of config.json is {}",
                tokenizer.vocab_size() - 1,
                built.limits.vocab
            ),
        });
    }
    if let Some(segments) = built.segments {
        check_segments(&tokenizer, segments).map_err(|reason| LoadError::Tokenizer {
            path: folder.join("tokenizer.json"),
            reason,
        })?;
    }
    let chat = if kind == Kind::Decoder {
        files.chat(folder, &json, &tokenizer, built.limits.vocab)?
    } else {
        let named = modules::max_length(folder, files.tokenizer.as_ref())?;
        let limit = match named {
            Some(limit) => Some(limit),
            None => files.max_length()?,
        };
        built.limits.max_len = built.limits.max_len.min(limit.unwrap_or(usize::MAX));
        ChatAssets::default()
    };
    let weights = &checkpoint.weights;
    let loaded = assemble(built, architecture, tokenizer, chat, weights, options)?;
    Ok((loaded, checkpoint))
}

/// The precision that config.json names, in either spelling, with or without `torch.` before it.
fn named_dtype(json: &Json) -> Result<Option<Format>, LoadError> {
    for field in ["dtype", "torch_dtype"] {
        let Some(name) = json.find_str(field)? else {
            continue;
        };
        return match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" | "float" | "float64" | "double" => Ok(Some(Format::F32)),
            "bfloat16" => Ok(Some(Format::Bf16)),
            "float16" | "half" => Ok(Some(Format::F16)),
            _ => {
                let reason = format!(
                    "`{name}` is not supported; supported are float64, float32, bfloat16, float16"
                );
                Err(json.error(field, reason))
            }
        };
    }
    Ok(None)
}

/// Fails if the template of the tokenizer gives a text or a pair a segment that the model has no row for.
fn check_segments(tokenizer: &Tokenizer, segments: usize) -> Result<(), String> {
    for encoded in [
        tokenizer.encode("a", true)?,
        tokenizer.encode_pair("a", "a")?,
    ] {
        let most = encoded.type_ids.into_iter().max().unwrap_or(0);
        if most as usize >= segments {
            return Err(format!(
                "`post_processor` gives tokens the type id {most}, but type_vocab_size of config.json is {segments}"
            ));
        }
    }
    Ok(())
}

/// Opens a GGUF file's weights and finds its architecture.
fn open_gguf(path: &Path, options: &LoadOptions) -> Result<(Checkpoint, Architecture), LoadError> {
    let (meta, weights) = Weights::gguf(path, options)?;
    let architecture = registry::find_gguf(&meta)?;
    check_int8(path, architecture.1, options)?;
    check_fp8(path, options)?;
    let checkpoint = Checkpoint {
        kind: architecture.1,
        weights,
        gguf: Some(Arc::new(meta)),
        folder: None,
        max_len: options.max_len,
    };
    Ok((checkpoint, architecture))
}

fn load_gguf(path: &Path, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (mut checkpoint, (architecture, _, build)) = open_gguf(path, options)?;
    let meta = Arc::clone(checkpoint.gguf.as_ref().expect("open_gguf gives it"));
    let (tokens, rows) = (gguf_tokens(&meta)?, checkpoint.weights.rows(EMBEDDING)?);
    // Before a tokenizer is made of them: a head may have far more tokens than a model has.
    if tokens.len() != rows {
        let reason = format!("{} tokens for {rows} rows of the embedding", tokens.len());
        return Err(meta.error(TOKENS, reason));
    }
    let chat = gguf_chat(&meta, tokens)?;
    let (tokenizer, built) = rayon::join(|| Tokenizer::from_gguf(&meta), || build(&mut checkpoint));
    let (tokenizer, built) = (tokenizer?, built?);
    checkpoint.weights.finish(built.ignorable)?;
    assemble(
        built,
        architecture,
        tokenizer,
        chat,
        &checkpoint.weights,
        options,
    )
}

/// Of a GGUF file: its tokens, their types, and the tensor that has a row for each.
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const EMBEDDING: &str = "token_embd.weight";
/// Types of tokens that are matched whole: control tokens, and what a user defined.
const MATCHED: [i64; 2] = [3, 4];

/// Ends of turns and texts. A GGUF file names one of them by a key, and models have more (their `generation_config.json` lists
/// them); llama.cpp finds them by their text, too.
const ENDS: [&str; 12] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

fn gguf_tokens(meta: &GgufMeta) -> Result<&[String], LoadError> {
    meta.get(TOKENS)
}

/// Template, tokens and end ids of a GGUF file.
fn gguf_chat(meta: &GgufMeta, tokens: &[String]) -> Result<ChatAssets, LoadError> {
    let types: &[i64] = meta.find(TYPES)?.unwrap_or_default();
    let vocab = tokens.len();
    let id = |key: &str| match meta.find::<u32>(key)? {
        Some(id) if id as usize >= vocab => {
            Err(meta.error(key, format!("{id} is not below the vocabulary's {vocab}")))
        }
        found => Ok(found),
    };
    let text = |id: Option<u32>| id.map_or_else(String::new, |id| tokens[id as usize].clone());
    let bos = id("tokenizer.ggml.bos_token_id")?;
    let eos = id("tokenizer.ggml.eos_token_id")?;
    let mut eos_ids: Vec<u32> = eos.into_iter().collect();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        eos_ids.extend(id(key)?.filter(|id| !eos_ids.contains(id)));
    }
    for (id, token) in tokens.iter().enumerate() {
        // Such a text may also be an ordinary token, made of the bytes of a tag.
        let whole = types.get(id).is_none_or(|kind| MATCHED.contains(kind));
        let id = id as u32;
        if whole && ENDS.contains(&token.as_str()) && !eos_ids.contains(&id) {
            eos_ids.push(id);
        }
    }
    Ok(ChatAssets {
        template: meta
            .find::<&str>("tokenizer.chat_template")?
            .map(str::to_owned),
        bos_token: text(bos),
        eos_token: text(eos),
        eos_ids,
    })
}

/// What computes a model that was loaded with these.
fn device(options: &LoadOptions) -> Device {
    #[cfg(feature = "cuda")]
    if let Some(upload) = &options.upload {
        return Device::Cuda(Arc::clone(upload.gpu()));
    }
    let _ = options;
    Device::Cpu
}

fn assemble(
    built: Built,
    architecture: &str,
    tokenizer: Tokenizer,
    chat: ChatAssets,
    weights: &Weights,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    Ok(Loaded {
        model: built.model,
        tokenizer: Arc::new(tokenizer),
        identity: Identity {
            name: options.name.clone(),
            architecture: architecture.to_owned(),
            format: weights.format(),
            parameters: weights.parameters(),
            weights_hash: weights.hash()?,
        },
        limits: built.limits,
        chat,
        head: built.head,
        weight_bytes: weights.memory(),
        device: device(options),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value as Meta;

    /// Files name one end by a key, `eos`; the others, and what they are called in a folder, are those of the models.
    #[test]
    fn a_text_ends_where_its_tokens_say() {
        let control = |text: &'static str| (text, 3);
        let check = |tokens: &[(&str, i64)], expected: &[u32]| {
            let texts = tokens.iter().map(|(text, _)| (*text).to_owned()).collect();
            let types = tokens.iter().map(|(_, kind)| *kind).collect();
            let pairs = [
                (TOKENS, Meta::Strs(texts)),
                (TYPES, Meta::Ints(types)),
                ("tokenizer.ggml.eos_token_id", Meta::Int(0)),
            ];
            let values = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            let meta = GgufMeta::new(Path::new("x.gguf"), values);
            let chat = gguf_chat(&meta, gguf_tokens(&meta).unwrap()).unwrap();
            assert_eq!(chat.eos_ids, expected, "{tokens:?}");
        };
        // Gemma, Qwen, Llama 3, Phi-3, DeepSeek.
        check(
            &[
                control("<eos>"),
                control("<end_of_turn>"),
                ("end_of_turn", 1),
            ],
            &[0, 1],
        );
        check(&[control("<|im_end|>"), control("<|endoftext|>")], &[0, 1]);
        check(
            &[
                control("<|eot_id|>"),
                control("<|end_of_text|>"),
                control("<|eom_id|>"),
            ],
            &[0, 1, 2],
        );
        check(
            &[
                control("<|endoftext|>"),
                ("</s>", 4),
                control("<|end|>"),
                control("<|user|>"),
            ],
            &[0, 1, 2],
        );
        check(
            &[
                control("<|EOT|>"),
                control("<｜end▁of▁sentence｜>"),
                control("<EOT>"),
            ],
            &[0, 1, 2],
        );
        // A tag in a vocabulary of byte pairs is text.
        check(&[control("<|eot_id|>"), ("</s>", 1), ("<eos>", 1)], &[0]);
    }
}
