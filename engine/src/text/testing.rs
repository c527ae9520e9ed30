//! Small tokenizers for the tests of this layer.

use koma_models::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

/// A tokenizer of these tokens with this decoder; token 0 is special.
pub(super) fn tokenizer(tokens: &[String], decoder: &Value) -> Arc<Tokenizer> {
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        .map(|(i, token)| (token.clone(), json!(i)))
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder,
        "added_tokens": [{"id": 0, "content": tokens[0], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    Arc::new(Tokenizer::from_file(&path).unwrap())
}

/// Token 0 is special, 1 to 256 are the bytes 0 to 255, then come `words`; spaces are spaces.
pub(super) fn bytes_and(words: &[&str]) -> Arc<Tokenizer> {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = words.iter().map(|word| (*word).to_owned());
    let tokens: Vec<String> = std::iter::once("<s>".to_owned())
        .chain(bytes)
        .chain(words)
        .collect();
    tokenizer(
        &tokens,
        &json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}),
    )
}

/// Ids of the bytes of `text` in [`bytes_and`].
pub(super) fn byte_ids(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| u32::from(byte) + 1).collect()
}
