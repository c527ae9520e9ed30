//! Deltas against the decoding of the whole, for every kind of decoder.

use super::super::testing::{byte_ids, bytes_and, tokenizer};
use super::Detokenizer;
use koma_models::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// What each id of `ids` brings, and the end.
fn deltas(tokenizer: &Arc<Tokenizer>, prompt: &[u32], ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer, prompt);
    let mut deltas: Vec<String> = ids
        .iter()
        .map(|&id| {
            let mut text = String::new();
            detokenizer.push(id, &mut text);
            text
        })
        .collect();
    let mut text = String::new();
    detokenizer.finish(&mut text);
    deltas.push(text);
    deltas
}

fn decoders() -> Vec<Value> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    vec![
        json!({"type": "Sequence", "decoders": [replace, fallback, fuse, strip]}),
        json!({"type": "Sequence", "decoders": [replace, fallback, fuse]}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        Value::Null,
    ]
}

#[test]
fn characters_come_whole() {
    let family = "👩\u{200D}👧";
    let tokenizer = bytes_and(&["ok"]);
    let text = format!("漫{family}");
    let got = deltas(&tokenizer, &[], &byte_ids(&text));
    let mut expected = Vec::new();
    for c in text.chars() {
        expected.extend(vec![String::new(); c.len_utf8() - 1]);
        expected.push(c.to_string());
    }
    expected.push(String::new());
    assert_eq!(got, expected);
}

#[test]
fn broken_characters_become_replacement_characters_once_certain() {
    let tokenizer = bytes_and(&["ok"]);
    let byte = |byte: u32| byte + 1;
    let ok = 257;
    for (ids, expected) in [
        (
            vec![byte(0xE6), byte(0xBC), ok],
            vec!["", "", "\u{FFFD}ok", ""],
        ),
        (vec![byte(0xE6), byte(0xBC)], vec!["", "", "\u{FFFD}"]),
        (vec![byte(0xFF), ok], vec!["\u{FFFD}", "ok", ""]),
        (
            vec![byte(0xE6), 0, byte(0xBC), byte(0xAB)],
            vec!["", "", "", "漫", ""],
        ),
        (vec![999, ok], vec!["", "ok", ""]),
    ] {
        assert_eq!(deltas(&tokenizer, &[], &ids), expected, "{ids:?}");
    }
}

#[test]
fn text_goes_on_after_its_prompt() {
    let tokens: Vec<String> = ["<s>", "▁Hi", "▁you", "<0xE6>", "<0xBC>", "<0xAB>"]
        .map(str::to_owned)
        .to_vec();
    let tokenizer = tokenizer(&tokens, &decoders()[0]);
    let whole = |prompt: &[u32], ids: &[u32]| deltas(&tokenizer, prompt, ids).concat();
    assert_eq!(whole(&[], &[1, 2]), "Hi you");
    assert_eq!(whole(&[0], &[1, 2]), "Hi you", "a special token is no text");
    assert_eq!(
        whole(&[0, 1], &[2]),
        " you",
        "a space after the prompt is kept"
    );
    assert_eq!(whole(&[1, 3, 4], &[5, 2]), "漫 you");
    assert_eq!(whole(&[1, 3, 4, 5], &[2]), " you");
}

proptest! {
    #[test]
    fn deltas_are_the_decoding_of_the_whole(
        ids in prop::collection::vec(0_u32..30, 0..24),
        which in 0_usize..6,
    ) {
        let pieces = [
            "<s>", "▁Hello", "▁", "wor", "▁▁x▁y", "##ing", ".", "n't", "漫画", "👩\u{200D}👧", "Ġthe", "é", "ã", "ģ", "Ĥ",
            "<0xE6>", "<0xBC>", "<0xAB>", "<0x20>", "<0xFF>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "Ċ", " a", "か",
        ];
        let tokens: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let tokenizer = tokenizer(&tokens, &decoders()[which]);
        let got = deltas(&tokenizer, &[], &ids).concat();
        prop_assert_eq!(got, tokenizer.decode(&ids, true));
    }
}
