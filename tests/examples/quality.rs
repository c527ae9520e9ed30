//! Prints how far a model's probabilities of a text are from those of f32 on its dequantized weights, as JSON:
//! `cargo run --release -p koma-tests --example quality -- MODEL.gguf TEXT.txt [CHUNKS]`.
//!
//! One object for each kind of cache. `scripts/bench-quality` sets them beside llama.cpp's.

use koma_kernels::{Isa, KvDtype};
use koma_models::{Dtype, LoadOptions, Loaded, Source, load};
use koma_tests::forward::decoder;
use koma_tests::quality::{CHUNK, Quality, mean, perplexity, standard_error};
use serde_json::{Value, json};
use std::io::{Error, Write};

/// The schema of what is printed; a change that breaks readers takes the next number.
const SCHEMA: &str = "koma.quality/1";

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, text, chunks) = match arguments.as_slice() {
        [model, text] => (model, text, usize::MAX),
        [model, text, chunks] => (model, text, chunks.parse().map_err(Error::other)?),
        _ => return Err(Error::other("usage: quality MODEL TEXT [CHUNKS]")),
    };
    let (exact, served) = (open(model, Dtype::F32)?, open(model, Dtype::Auto)?);
    let text = std::fs::read_to_string(text)?;
    let ids = served.tokenizer.encode(&text, false);
    let ids = ids.map_err(Error::other)?.ids;
    if ids.len() < CHUNK {
        let found = ids.len();
        return Err(Error::other(format!(
            "{found} tokens are less than one chunk"
        )));
    }
    let caches = [
        ("f32", KvDtype::F32),
        ("bf16", KvDtype::Bf16),
        ("int8", KvDtype::Int8),
    ];
    let rows: Vec<Value> = caches
        .into_iter()
        .map(|(name, kv)| {
            let found = Quality::of(decoder(&exact), (decoder(&served), kv), &ids, chunks);
            row(name, &found)
        })
        .collect();
    let report = json!({
        "schema": SCHEMA,
        "format": served.identity.format,
        "isa": Isa::detect().name(),
        "tokens": ids.len() / CHUNK * CHUNK,
        "ids": ids,
        "rows": rows,
    });
    writeln!(std::io::stdout(), "{report}")
}

fn open(path: &str, dtype: Dtype) -> std::io::Result<Loaded> {
    let options = LoadOptions {
        name: "quality".to_owned(),
        dtype,
        ..LoadOptions::default()
    };
    let source = Source::parse(path).map_err(Error::other)?;
    load(&source, &options).map_err(Error::other)
}

fn row(cache: &str, found: &Quality) -> Value {
    json!({
        "cache": cache,
        "asked": found.divergence.len(),
        "perplexity": perplexity(&found.computed),
        "perplexity_f32": perplexity(&found.exact),
        "mean_divergence": mean(&found.divergence),
        "mean_divergence_error": standard_error(&found.divergence),
        "same_top": found.same_top as f64 / found.divergence.len() as f64,
    })
}
