//! GGUF metadata: what its keys mean, and what is refused.

use super::message;
use crate::gguf::{GgufMeta, Value as Meta};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::gguf::known_pre;
use std::collections::HashMap;
use std::path::Path;

/// Metadata of a byte-level tokenizer with all bytes, two merges and a control token, changed by `pairs`.
fn meta(pairs: Vec<(&str, Option<Meta>)>) -> GgufMeta {
    let mut letters: Vec<String> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .map(String::from)
        .collect();
    letters.sort();
    let more = ["<|end|>", "<tool>", "ab", "Ġa", "Ġab"].map(str::to_owned);
    let tokens: Vec<String> = letters.into_iter().chain(more).collect();
    let types = (0..tokens.len()).map(|id| match id {
        256 => 3,
        257 => 4,
        _ => 1,
    });
    let merges = ["a b", "Ġ a", "Ġ ab"].map(str::to_owned);
    let mut values = HashMap::from([
        ("model", Meta::Str("gpt2".to_owned())),
        ("pre", Meta::Str("gpt-2".to_owned())),
        ("token_type", Meta::Ints(types.collect())),
        ("tokens", Meta::Strs(tokens)),
        ("merges", Meta::Strs(merges.to_vec())),
        ("bos_token_id", Meta::Int(256)),
        ("eos_token_id", Meta::Int(256)),
    ]);
    for (key, value) in pairs {
        match value {
            Some(value) => values.insert(key, value),
            None => values.remove(key),
        };
    }
    let values = values
        .into_iter()
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
    GgufMeta::new(Path::new("model.gguf"), values.collect())
}

fn pre(name: &str) -> (&'static str, Option<Meta>) {
    ("pre", Some(Meta::Str(name.to_owned())))
}

#[test]
fn each_pre_value_splits_as_its_models_do() {
    let words = |name: &str, text: &str| -> Vec<String> {
        let tokenizer = Tokenizer::from_gguf(&meta(vec![pre(name)])).unwrap();
        let splitter = tokenizer.inner.get_pre_tokenizer().unwrap();
        let mut split = tokenizers::PreTokenizedString::from(text);
        tokenizers::PreTokenizer::pre_tokenize(splitter, &mut split).unwrap();
        let original = tokenizers::OffsetReferential::Original;
        split
            .get_splits(original, tokenizers::OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| text[start..end].to_owned())
            .collect()
    };
    // What the `tokenizers` package makes of the patterns that the models' own files have.
    let text = "I'M  at 12345,\n\nok\t!";
    let mixed = "HelloWORLD's 漫画 $x+y 第12話/\r\n  .end";
    for (name, expected) in [
        ("gpt-2", "I|'|M| | at| 12345|,|\n|\n|ok|\t|!"),
        ("smollm", "I|'|M| | at| |1|2|3|4|5|,|\n|\n|ok|\t|!"),
        ("llama-bpe", "I|'M| | at| |123|45|,\n\n|ok|\t|!"),
        ("dbrx", "I|'M| | at| |123|45|,\n\n|ok|\t|!"),
        ("qwen2", "I|'M| | at| |1|2|3|4|5|,\n\n|ok|\t|!"),
        ("gpt-4o", "I'M| | at| |123|45|,\n\n|ok|\t|!"),
        ("tekken", "I|'M| | at| |1|2|3|4|5|,\n\n|ok|\t|!"),
        ("deepseek-v3", "I|'M| | at| |123|45|,\n\n|ok|\t|!"),
        ("deepseek-coder", "I|'|M| | at| |1|2|3|4|5|,|\n|\n|ok|\t!"),
        ("deepseek-llm", "I|'|M| | at| |1|2|3|4|5|,|\n|\n|ok|\t!"),
    ] {
        assert_eq!(words(name, text).join("|"), expected, "{name}");
    }
    for (name, expected) in [
        (
            "dbrx",
            "HelloWORLD|'s| 漫画| $|x|+y| 第|12|話|/\r\n| | .|end",
        ),
        (
            "gpt-4o",
            "Hello|WORLD's| 漫画| $|x|+y| 第|12|話|/\r\n| | .|end",
        ),
        (
            "tekken",
            "Hello|WORLD|'s| 漫画| $|x|+y| 第|1|2|話|/\r\n| | .|end",
        ),
        (
            "deepseek-v3",
            "HelloWORLD|'s| |漫画| $|x|+y| |第|12|話|/\r\n| | .|end",
        ),
        (
            "deepseek-coder",
            "HelloWORLD|'|s| |漫画| $|x|+|y| |第|1|2|話|/|\r|\n| | .|end",
        ),
        (
            "deepseek-llm",
            "HelloWORLD|'|s| |漫画| $|x|+|y| |第|1|2|話|/|\r|\n| | .|end",
        ),
    ] {
        assert_eq!(words(name, mixed).join("|"), expected, "{name}");
    }
    // Other names for the same.
    let same = [
        ("starcoder", "smollm"),
        ("llama3", "llama-bpe"),
        ("llama-v3", "llama-bpe"),
        ("falcon3", "llama-bpe"),
        ("pixtral", "llama-bpe"),
        ("midm-2.0", "llama-bpe"),
        ("smaug-bpe", "dbrx"),
        ("deepseek-r1-qwen", "qwen2"),
        ("llama4", "gpt-4o"),
    ];
    for (name, other) in same {
        for text in [text, mixed] {
            assert_eq!(words(name, text), words(other, text), "{name}");
        }
    }
    assert_eq!(
        known_pre().len(),
        same.len() + 10,
        "each name of the table is meant to be tested"
    );
}

#[test]
fn gguf_options_are_honoured() {
    let flag = |key: &'static str, value| (key, Some(Meta::Bool(value)));
    let (a, ab, space_ab, end) = (64, 258, 260, 256);
    let check = |pairs: Vec<(&str, Option<Meta>)>, text: &str, special: bool, expected: &[u32]| {
        let tokenizer = Tokenizer::from_gguf(&meta(pairs)).unwrap();
        let got = tokenizer.encode(text, special).unwrap();
        assert_eq!(got.ids, expected, "{text}");
    };
    check(vec![], "ab", true, &[ab]);
    check(vec![], "ab ab", true, &[ab, space_ab]);
    // Negative control: a tokenizer with a prefix space gives other ids.
    check(vec![flag("add_space_prefix", false)], "ab", true, &[ab]);
    check(
        vec![flag("add_space_prefix", true)],
        "ab",
        true,
        &[space_ab],
    );
    // Behind other patterns the library would put one before every word.
    for name in ["smollm", "llama-bpe"] {
        let error = message(Tokenizer::from_gguf(&meta(vec![
            pre(name),
            flag("add_space_prefix", true),
        ])));
        assert!(error.contains("add_space_prefix"), "{error}");
    }
    check(vec![flag("add_bos_token", true)], "ab", true, &[end, ab]);
    check(vec![flag("add_bos_token", true)], "ab", false, &[ab]);
    check(vec![flag("add_eos_token", true)], "ab", true, &[ab, end]);
    check(vec![pre("llama-bpe")], "ab", true, &[end, ab]);
    check(vec![pre("tekken")], "ab", true, &[end, ab]);
    check(vec![pre("dbrx")], "ab", true, &[ab]);
    check(
        vec![pre("llama-bpe"), flag("add_bos_token", false)],
        "ab",
        true,
        &[ab],
    );
    check(vec![], "a<|end|>a<tool>", true, &[a, end, a, 257]);
    check(
        vec![pre("qwen2")],
        "e\u{301}",
        true,
        &Tokenizer::from_gguf(&meta(vec![]))
            .unwrap()
            .encode("é", true)
            .unwrap()
            .ids,
    );

    let tokenizer = Tokenizer::from_gguf(&meta(vec![flag("add_bos_token", true)])).unwrap();
    let pair = tokenizer.encode_pair("ab", "a").unwrap();
    assert_eq!(
        (pair.ids, pair.type_ids),
        (vec![end, ab, end, a], vec![0, 0, 1, 1])
    );
    assert_eq!(tokenizer.decode(&[end, ab, 257], true), "ab<tool>");
    assert_eq!(tokenizer.decode(&[end, ab], false), "<|end|>ab");
}

#[test]
fn gguf_faults_name_the_key() {
    let text = |s: &str| Some(Meta::Str(s.to_owned()));
    let texts = |list: &[&str]| Some(Meta::Strs(list.iter().map(|s| (*s).to_owned()).collect()));
    for (key, value, expected) in [
        ("model", text("rwkv"), "`rwkv` is not supported"),
        ("model", None, "is missing"),
        (
            "pre",
            text("default"),
            "`default` is not known; known are smollm",
        ),
        ("pre", None, "is missing"),
        ("tokens", None, "is missing"),
        ("tokens", Some(Meta::Int(3)), "expected an array of strings"),
        ("tokens", texts(&["a", "b", "a"]), "`a` is there twice"),
        ("merges", None, "is missing"),
        ("merges", texts(&["a"]), "not two tokens"),
        ("merges", texts(&["a zz"]), "zz"),
        (
            "token_type",
            Some(Meta::Ints(vec![1])),
            "1 types for 261 tokens",
        ),
    ] {
        let error = message(Tokenizer::from_gguf(&meta(vec![(key, value)])));
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(
            error.contains(&format!("tokenizer.ggml.{key}")),
            "{error} names no key"
        );
    }
    for (id, expected) in [
        (None, "is missing"),
        (Some(Meta::Int(999)), "999 is not below 261"),
    ] {
        let pairs = vec![
            ("add_bos_token", Some(Meta::Bool(true))),
            ("bos_token_id", id),
        ];
        let error = message(Tokenizer::from_gguf(&meta(pairs)));
        assert!(
            error.contains("bos_token_id") && error.contains(expected),
            "{error}"
        );
    }
}

/// Metadata of three tokens of the kind `model`, changed by `pairs`.
fn tiny(model: &str, pairs: Vec<(&str, Option<Meta>)>) -> GgufMeta {
    let mut all = vec![
        ("model", Some(Meta::Str(model.to_owned()))),
        ("pre", None),
        ("merges", None),
        ("tokens", Some(texts(&["<unk>", "▁a", "b"]))),
        ("token_type", Some(Meta::Ints(vec![2, 1, 1]))),
        ("scores", Some(Meta::Floats(vec![0.0, -1.0, -2.0]))),
        ("unknown_token_id", Some(Meta::Int(0))),
        ("bos_token_id", Some(Meta::Int(0))),
        ("eos_token_id", Some(Meta::Int(0))),
    ];
    all.extend(pairs);
    meta(all)
}

fn texts(list: &[&str]) -> Meta {
    Meta::Strs(list.iter().map(|s| (*s).to_owned()).collect())
}

/// Without `value`, or with it, the tokenizer is refused for `expected` in the words of the key.
fn refused(model: &str, key: &'static str, value: impl Into<Option<Meta>>, expected: &str) {
    let error = message(Tokenizer::from_gguf(&tiny(
        model,
        vec![(key, value.into())],
    )));
    assert!(error.contains(expected), "{error} lacks {expected}");
    let key = format!("tokenizer.ggml.{key}");
    assert!(error.contains(&key), "{error} lacks {key}");
}

#[test]
fn faults_of_sentencepiece_name_the_key() {
    let ints = |list: &[i64]| Meta::Ints(list.to_vec());
    let check = |key, value: Meta, expected| refused("llama", key, value, expected);
    Tokenizer::from_gguf(&tiny("llama", vec![])).unwrap();
    refused("llama", "scores", None, "is missing");
    refused("llama", "token_type", None, "is missing");
    check(
        "pre",
        Meta::Str("tekken".to_owned()),
        "`tekken` is not known for this model",
    );
    check("scores", Meta::Floats(vec![0.0]), "1 values for 3 tokens");
    check(
        "scores",
        Meta::Floats(vec![0.0, f32::NAN, 0.0]),
        "NaN of token 1 is not finite",
    );
    check("token_type", ints(&[1, 1]), "2 values for 3 tokens");
    check("token_type", ints(&[2, 1, 7]), "token 2 is of type 7");
    check(
        "token_type",
        ints(&[2, 1, 6]),
        "token 2, `b`, is of the type of bytes",
    );
    check("unknown_token_id", Meta::Int(3), "3 is not below 3");
    check("bos_token_id", Meta::Int(3), "3 is not below 3");
    check(
        "tokens",
        texts(&["<unk>", "b", "b"]),
        "`b` is there twice, as 1 and as 2",
    );
    check(
        "remove_extra_whitespaces",
        Meta::Bool(true),
        "not supported for `llama`",
    );
    check(
        "precompiled_charsmap",
        ints(&[1]),
        "not supported for `llama`",
    );

    let bytes = ("tokens", Some(texts(&["<0x41>", "▁a", "b"])));
    let error = message(Tokenizer::from_gguf(&tiny(
        "llama",
        vec![bytes, ("token_type", Some(ints(&[6, 1, 1])))],
    )));
    assert!(
        error.contains("1 tokens for bytes, not 256 or none"),
        "{error}"
    );
    let without = Tokenizer::from_gguf(&tiny("llama", vec![("unknown_token_id", None)])).unwrap();
    let error = without.encode("é", false).unwrap_err();
    assert!(error.contains("has no unknown token"), "{error}");
}

#[test]
fn faults_of_wordpiece_name_the_key() {
    let check = |key, value: Meta, expected| refused("bert", key, value, expected);
    Tokenizer::from_gguf(&tiny("bert", vec![])).unwrap();
    refused("bert", "unknown_token_id", None, "is missing");
    refused("bert", "bos_token_id", None, "is missing");
    check(
        "pre",
        Meta::Str("tekken".to_owned()),
        "known are default, bert-bge",
    );
    check("seperator_token_id", Meta::Int(9), "9 is not below 3");
    check("token_type", Meta::Ints(vec![1]), "1 types for 3 tokens");
    check("tokens", texts(&["▁b", "▁b", "b"]), "`▁b` is there twice");
}
