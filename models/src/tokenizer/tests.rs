//! Tokenizers against the golden fixtures, the library's own decoder and tables of odd files.

mod gguf;
mod pieces;

use super::{Encoded, Tokenizer};
use crate::LoadError;
use crate::gguf::Gguf;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(path)
}

fn case(name: &str) -> Value {
    let bytes = std::fs::read(golden(name).join("case.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A folder with `tokenizer` as its tokenizer.json and the other files as they are given.
fn load(tokenizer: &Value, files: &[(&str, Value)]) -> Result<Tokenizer, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    if !tokenizer.is_null() {
        std::fs::write(&path, tokenizer.to_string()).unwrap();
    }
    for (name, value) in files {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    Tokenizer::from_file(&path)
}

fn message(result: Result<Tokenizer, LoadError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

/// A byte-pair tokenizer without merges.
fn bpe(tokens: &[&str], decoder: &Value) -> Value {
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        .map(|(i, t)| ((*t).to_owned(), json!(i)))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder,
        "added_tokens": [{"id": 0, "content": tokens[0], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

#[test]
fn encoders_give_the_ids_of_transformers() {
    let mut inputs = 0;
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("bert_") && !name.starts_with("distilbert_") {
            continue;
        }
        let tokenizer = Tokenizer::from_file(&golden(&name).join("model/tokenizer.json")).unwrap();
        for input in case(&name)["inputs"].as_array().unwrap() {
            let text = input["text"].as_str().unwrap();
            let encoded = match input["pair"].as_str() {
                Some(pair) => tokenizer.encode_pair(text, pair).unwrap(),
                None => tokenizer.encode(text, true).unwrap(),
            };
            assert_eq!(encoded.ids, ids(&input["ids"]), "{name}: {text}");
            assert_eq!(encoded.type_ids, ids(&input["type_ids"]), "{name}: {text}");
            check_decode(&tokenizer, &encoded.ids);
            inputs += 1;
        }
        let long = &case(&name)["too_long"];
        if let Some(text) = long["text"].as_str() {
            let got = tokenizer.encode(text, true).unwrap().ids.len();
            assert_eq!(
                got as u64,
                long["tokens"].as_u64().unwrap(),
                "{name}: cut or padded"
            );
        }
    }
    assert!(inputs > 50, "only {inputs} inputs found");
}

#[test]
fn gguf_files_give_the_ids_of_the_reference() {
    for file in case("gguf_blocks")["files"].as_array().unwrap() {
        let name = file["file"].as_str().unwrap();
        let path = golden("gguf_blocks").join(name);
        let gguf = Gguf::parse(&path, &std::fs::read(&path).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf.meta).unwrap();
        for text in file["tokenizer"].as_array().unwrap() {
            let expected = ids(&text["ids"]);
            let text = text["text"].as_str().unwrap();
            assert_eq!(
                tokenizer.encode(text, false).unwrap().ids,
                expected,
                "{name}: {text}"
            );
            assert_eq!(tokenizer.decode(&expected, false), text, "{name}");
            check_decode(&tokenizer, &expected);
            let with_begin = tokenizer.encode(text, true).unwrap().ids;
            let begin = usize::from(file["add_bos"].as_bool().unwrap());
            assert_eq!(with_begin.len(), expected.len() + begin, "{name}: {text}");
        }
        assert_eq!(
            tokenizer.token_bytes(1),
            Some(&b""[..]),
            "a special token has no bytes"
        );
        assert!(tokenizer.is_special(1));
    }
}

#[test]
fn texts_are_cut_as_transformers_cuts_them() {
    for name in ["bert_embed_mean", "bert_embed_cls", "distilbert_embed_mean"] {
        let tokenizer = Tokenizer::from_file(&golden(name).join("model/tokenizer.json")).unwrap();
        let case = case(name);
        let limit = case["limit"].as_u64().unwrap() as usize;
        let text = case["too_long"]["text"].as_str().unwrap();
        let cut = tokenizer.encode_within(text, None, limit).unwrap();
        assert_eq!(cut.ids, ids(&case["too_long"]["truncated_ids"]), "{name}");
        assert_eq!(cut.type_ids, vec![0; limit], "{name}");
        let whole = tokenizer.encode("manga", true).unwrap();
        assert_eq!(
            tokenizer.encode_within("manga", None, limit).unwrap(),
            whole
        );
    }
}

#[test]
fn the_longer_text_of_a_pair_is_cut_first() {
    let tokenizer = Tokenizer::from_file(&golden("bert_cross/model/tokenizer.json")).unwrap();
    let text = |words: usize| vec!["manga"; words].join(" ");
    for (first, second, max_len, expected) in [
        (3, 4, 10, (3, 4)),
        (3, 9, 10, (3, 4)),
        (9, 3, 10, (4, 3)),
        (9, 9, 10, (3, 4)),
        (9, 8, 10, (4, 3)),
        (9, 0, 10, (7, 0)),
        (2, 2, 3, (0, 0)),
    ] {
        let cut = tokenizer
            .encode_within(&text(first), Some(&text(second)), max_len)
            .unwrap();
        let second_segment = cut.type_ids.iter().filter(|t| **t == 1).count();
        let got = (cut.ids.len() - second_segment - 2, second_segment - 1);
        assert_eq!(got, expected, "{first} and {second} words in {max_len}");
        let ends = tokenizer.encode_pair("", "").unwrap().ids;
        assert_eq!((cut.ids[0], cut.ids[cut.ids.len() - 1]), (ends[0], ends[2]));
    }
    let error = tokenizer.encode_within("a", Some("b"), 2).unwrap_err();
    assert!(error.contains("3 special tokens"), "{error}");
    let whole = tokenizer.encode_pair("manga", "story").unwrap();
    assert_eq!(
        tokenizer.encode_within("manga", Some("story"), 64).unwrap(),
        whole
    );
}

#[test]
fn prompts_keep_their_end() {
    let encoded = Encoded {
        ids: vec![1, 2, 3],
        type_ids: vec![0, 0, 0],
    };
    for (count, expected) in [(0, &[][..]), (2, &[2, 3]), (3, &[1, 2, 3]), (9, &[1, 2, 3])] {
        let mut cut = encoded.clone();
        cut.keep_last(count);
        assert_eq!(
            (cut.ids.as_slice(), cut.type_ids.len()),
            (expected, expected.len())
        );
    }
}

/// Our text of `ids` is the library's.
fn check_decode(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip in [false, true] {
        assert_eq!(
            tokenizer.decode(ids, skip),
            tokenizer.inner.decode(ids, skip).unwrap(),
            "{ids:?}"
        );
    }
}

#[test]
fn every_kind_of_decoder_is_followed() {
    let sequence = |decoders: Value| json!({"type": "Sequence", "decoders": decoders});
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let fallback = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let pieces = [
        "<s>",
        "▁Hello",
        "▁",
        "wor",
        "ld",
        "<0xE6>",
        "<0xBC>",
        "<0xAB>",
        "<0x20>",
        "▁▁x▁y",
        "##ing",
        ".",
        "n't",
        "漫画",
        "Ġthe",
        "é",
        "<0x2>",
    ];
    let decoders = [
        sequence(json!([replace, fallback, fuse, strip])),
        sequence(json!([replace, fallback, fuse])),
        sequence(
            json!([fallback, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]),
        ),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        Value::Null,
    ];
    for decoder in decoders {
        let tokenizer = load(&bpe(&pieces, &decoder), &[]).unwrap();
        for first in 0..pieces.len() as u32 {
            for second in 0..pieces.len() as u32 {
                let broken = |id| (5..8).contains(&id);
                if !broken(first) && !broken(second) {
                    check_decode(&tokenizer, &[0, first, second, 3, 1, second]);
                }
            }
        }
        check_decode(&tokenizer, &[5, 6, 7, 1]);
        check_decode(&tokenizer, &[0, 1, 5, 6, 7]);
    }
}

#[test]
fn invalid_bytes_become_replacement_characters() {
    let decoder =
        json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
    let tokenizer = load(
        &bpe(&["<s>", "<0xE6>", "<0xBC>", "<0xAB>", "a"], &decoder),
        &[],
    )
    .unwrap();
    for (ids, text) in [
        (&[1, 2, 3][..], "漫"),
        (&[1, 2, 4], "\u{FFFD}a"),
        (&[2, 4, 3], "\u{FFFD}a\u{FFFD}"),
        (&[1, 0, 2, 3], "漫"),
        (&[9, 4], "a"),
    ] {
        assert_eq!(tokenizer.decode(ids, true), text, "{ids:?}");
    }
    assert_eq!(tokenizer.token_bytes(1), Some(&[0xE6][..]));
    assert_eq!(tokenizer.token_bytes(9), None);
}

#[test]
fn byte_letters_cover_every_byte() {
    let tokenizer = {
        let letters: Vec<String> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .map(String::from)
            .collect();
        let letters: Vec<&str> = std::iter::once("<s>")
            .chain(letters.iter().map(String::as_str))
            .collect();
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        load(&bpe(&letters, &decoder), &[]).unwrap()
    };
    let mut bytes: Vec<u8> = (1..257)
        .flat_map(|id| tokenizer.token_bytes(id).unwrap().to_vec())
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    for id in 1..257 {
        check_decode(&tokenizer, &[id]);
    }
}

#[test]
fn files_beside_the_tokenizer_count() {
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let file = bpe(&["<s>", "<", "e", ">", "<e>", "x"], &decoder);
    let plain = load(&file, &[]).unwrap();
    assert_eq!(plain.encode("x<e>", false).unwrap().ids, [5, 1, 2, 3]);
    let names = [
        (
            "tokenizer_config.json",
            json!({"eos_token": "<e>", "pad_token": "<absent>"}),
        ),
        (
            "special_tokens_map.json",
            json!({"eos_token": {"content": "<e>", "lstrip": false}}),
        ),
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"4": {"content": "<e>", "special": true}}}),
        ),
        (
            "tokenizer_config.json",
            json!({"additional_special_tokens": ["<e>"]}),
        ),
    ];
    for file_beside in names {
        let tokenizer = load(&file, std::slice::from_ref(&file_beside)).unwrap();
        assert_eq!(
            tokenizer.encode("x<e>", false).unwrap().ids,
            [5, 4],
            "{file_beside:?}"
        );
        assert!(tokenizer.is_special(4), "{file_beside:?}");
        assert_eq!(tokenizer.vocab_size(), 6, "{file_beside:?}");
        // An added token that its own file does not call special.
        let mut added = file.clone();
        let more = json!({"id": 4, "content": "<e>", "single_word": false, "lstrip": true, "rstrip": false,
            "normalized": false, "special": false});
        added["added_tokens"].as_array_mut().unwrap().push(more);
        assert!(!load(&added, &[]).unwrap().is_special(4));
        let marked = load(&added, std::slice::from_ref(&file_beside)).unwrap();
        assert!(marked.is_special(4), "{file_beside:?}");
        let token = &marked.inner.get_added_tokens_decoder()[&4];
        assert!(token.lstrip, "{file_beside:?}");
    }
}

/// What transformers 5 makes of a normalizer that lower-cases nothing.
/// Gemma 3's tokenizer has a token for images; its text-only models have no row for it.
#[test]
fn added_tokens_without_a_row_are_left_out() {
    let mut tokenizer = bpe(&["<s>", "a", "b"], &json!({"type": "Fuse"}));
    let mut image = tokenizer["added_tokens"][0].clone();
    image["id"] = json!(3);
    image["content"] = json!("<image>");
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(image);
    for (config, len) in [
        (json!({"vocab_size": 3}), 3),
        (json!({"text_config": {"vocab_size": 3}}), 3),
        (json!({"vocab_size": 4}), 4),
        (json!({}), 4),
    ] {
        let loaded = load(&tokenizer, &[("config.json", config.clone())]).unwrap();
        assert_eq!(loaded.vocab_size(), len, "{config}");
        assert_eq!(loaded.id("<image>").is_some(), len == 4, "{config}");
    }
}

/// Beside a `tokenizer.json`, transformers 5 does not look at the flags about begin and end tokens: its template alone counts.
#[test]
fn flags_about_begin_and_end_tokens_do_not_count() {
    let case = case("turns");
    let rows = case["flags"].as_array().unwrap();
    let mut begins = 0;
    for row in rows {
        let file = golden("turns").join(row["file"].as_str().unwrap());
        let file = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let config = row["tokenizer_config"].clone();
        let beside = [
            ("tokenizer_config.json", config),
            ("config.json", json!({"model_type": row["model_type"]})),
        ];
        let tokenizer = load(&file, &beside).unwrap();
        let got = tokenizer.encode(row["text"].as_str().unwrap(), true);
        let expected = ids(&row["ids"]);
        begins += usize::from(expected[0] == 1);
        assert_eq!(got.unwrap().ids, expected, "{beside:?}");
    }
    assert_eq!((rows.len(), begins), (30, 15));
}

#[test]
fn bert_classes_have_defaults() {
    let model = golden("bert_classify/model");
    let bytes = std::fs::read(model.join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&bytes).unwrap();
    let text = "WHERE is My order";
    let lower = load(&file, &[]).unwrap().encode(text, true).unwrap();
    file["normalizer"]["lowercase"] = json!(false);
    let kept = load(&file, &[]).unwrap().encode(text, true).unwrap();
    assert_ne!(kept, lower);
    for (tokenizer, model, expected) in [
        (
            json!({"tokenizer_class": "BertTokenizer"}),
            json!({}),
            &lower,
        ),
        (
            json!({"tokenizer_class": "DistilBertTokenizerFast"}),
            json!({}),
            &lower,
        ),
        (json!({}), json!({"model_type": "bert"}), &lower),
        (json!({}), json!({"model_type": "distilbert"}), &lower),
        (
            json!({}),
            json!({"model_type": "llama", "tokenizer_class": "BertTokenizer"}),
            &lower,
        ),
        (
            json!({"do_lower_case": false}),
            json!({"model_type": "bert"}),
            &kept,
        ),
        (
            json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
            json!({"model_type": "bert"}),
            &kept,
        ),
        (
            json!({"tokenizer_class": "TokenizersBackend"}),
            json!({"model_type": "bert"}),
            &kept,
        ),
    ] {
        let files = [("tokenizer_config.json", tokenizer), ("config.json", model)];
        let got = load(&file, &files).unwrap().encode(text, true).unwrap();
        assert_eq!(got, *expected, "{files:?}");
    }
}

#[test]
fn texts_are_cut_on_the_side_that_the_files_name() {
    let model = golden("bert_classify/model");
    let bytes = std::fs::read(model.join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&bytes).unwrap();
    let side = |side: &str| ("tokenizer_config.json", json!({"truncation_side": side}));
    let check = |file: &Value, beside: &[(&str, Value)], left: bool| {
        let tokenizer = load(file, beside).unwrap();
        let whole = tokenizer
            .encode("where is my order of manga", true)
            .unwrap()
            .ids;
        let (first, last) = (whole[0], whole[whole.len() - 1]);
        let kept = if left {
            &whole[whole.len() - 3..whole.len() - 1]
        } else {
            &whole[1..3]
        };
        let cut = tokenizer.encode_within("where is my order of manga", None, 4);
        assert_eq!(cut.unwrap().ids, [&[first], kept, &[last]].concat());
    };
    check(&file, &[], false);
    check(&file, &[side("right")], false);
    check(&file, &[side("left")], true);
    file["truncation"] =
        json!({"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    check(&file, &[], true);
    check(&file, &[side("right")], false);
    let error = message(load(&file, &[side("middle")]));
    assert!(error.contains("truncation_side"), "{error}");
}

/// Whether a text begins with a space, and whether places hold it, is what `tokenizer_config.json` says, and no if it is silent.
#[test]
fn roberta_options_beside_the_tokenizer_win() {
    let model = golden("roberta_tokens/model");
    let bytes = std::fs::read(model.join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&bytes).unwrap();
    let locate = |file: &Value, config: Value, text: &str| {
        let tokenizer = load(file, &[("tokenizer_config.json", config)]).unwrap();
        let located = tokenizer.locate(text, None).unwrap();
        (located.encoded.ids, located.places)
    };
    let class = || json!({"tokenizer_class": "RobertaTokenizerFast"});
    let spaced = json!({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true});
    let (plain, with) = (
        locate(&file, class(), "manga"),
        locate(&file, spaced, "manga"),
    );
    assert_ne!(plain.0, with.0);
    assert_eq!(with.0, locate(&file, class(), " manga").0);
    assert_eq!(with.1[1].clone().map(|place| place.start), Some(0));
    let untrimmed = json!({"tokenizer_class": "RobertaTokenizer", "trim_offsets": false});
    let first = |config| {
        locate(&file, config, " manga").1[1]
            .clone()
            .map(|place| place.start)
    };
    assert_eq!((first(class()), first(untrimmed)), (Some(1), Some(0)));

    file["pre_tokenizer"]["add_prefix_space"] = json!(true);
    assert_eq!(locate(&file, class(), "manga").0, plain.0);
    assert_eq!(
        locate(&file, json!({}), "manga").0,
        with.0,
        "no class, no say"
    );
    let wrong = json!({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": 1});
    let error = message(load(&file, &[("tokenizer_config.json", wrong)]));
    assert!(error.contains("add_prefix_space"), "{error}");
}

#[test]
fn bert_options_beside_the_tokenizer_win() {
    let model = golden("bert_classify/model");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(model.join(name)).unwrap()).unwrap()
    };
    let (mut file, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    let lower = config["do_lower_case"].as_bool().unwrap();
    let expected = load(&file, &[("tokenizer_config.json", config.clone())]).unwrap();
    file["normalizer"]["lowercase"] = json!(!lower);
    let text = "WHERE is My order";
    let overridden = load(&file, &[("tokenizer_config.json", config)]).unwrap();
    assert_eq!(overridden.encode(text, true), expected.encode(text, true));
    // Negative control: without the file beside it, the normalizer of tokenizer.json goes.
    assert_ne!(
        load(&file, &[]).unwrap().encode(text, true),
        expected.encode(text, true)
    );
}

#[test]
fn what_cannot_be_reproduced_is_refused() {
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let good = bpe(&["<s>", "a"], &decoder);
    let mut dropout = good.clone();
    dropout["model"]["dropout"] = json!(0.1);
    let mut ctc = good.clone();
    ctc["decoder"] =
        json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": true});
    let mut strip = good.clone();
    strip["decoder"] = json!({"type": "Strip", "content": "x", "start": 1, "stop": 0});
    let mut large = good.clone();
    large["model"]["vocab"]["b"] = json!(4_000_000_000_u32);
    let mecab = json!({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"});
    for (file, beside, expected) in [
        (&dropout, vec![], "dropout"),
        (&ctc, vec![], "CTC"),
        (&strip, vec![], "Strip"),
        (&large, vec![], "4000000000"),
        (&json!({"version": "1.0"}), vec![], "tokenizer.json"),
        (
            &good,
            vec![("tokenizer_config.json", mecab.clone())],
            "mecab",
        ),
        (
            &Value::Null,
            vec![("tokenizer_config.json", mecab)],
            "mecab",
        ),
        (
            &good,
            vec![
                (
                    "config.json",
                    json!({"tokenizer_class": "BertJapaneseTokenizer"}),
                ),
                (
                    "tokenizer_config.json",
                    json!({"word_tokenizer_type": "sudachi"}),
                ),
            ],
            "sudachi",
        ),
        (
            &Value::Null,
            vec![("vocab.txt", json!("a"))],
            "slow tokenizer (vocab.txt)",
        ),
        (
            &Value::Null,
            vec![("spiece.model", json!("a"))],
            "slow tokenizer (spiece.model)",
        ),
        (&Value::Null, vec![], "there is no tokenizer.json"),
    ] {
        let error = message(load(file, &beside));
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(error.contains("tokenizer.json"), "{error} names no file");
    }
    load(&good, &[]).unwrap();
}

/// Older BERT folders have their words in `vocab.txt` alone. What transformers makes of it is what it makes of both files.
#[test]
fn words_in_lines_do_for_bert() {
    let mut inputs = 0;
    for name in [
        "bert_classify",
        "bert_tokens",
        "vocab_txt",
        "vocab_txt_cased",
    ] {
        let from = golden(name).join(if name.starts_with("bert") {
            "model"
        } else {
            "files"
        });
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "vocab.txt",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "config.json",
        ] {
            if from.join(file).exists() {
                std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
            }
        }
        let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.json")).unwrap();
        for input in case(name)["inputs"].as_array().unwrap() {
            let text = input["text"].as_str().unwrap();
            let encoded = match input["pair"].as_str() {
                Some(pair) => tokenizer.encode_pair(text, pair).unwrap(),
                None => tokenizer.encode(text, true).unwrap(),
            };
            assert_eq!(encoded.ids, ids(&input["ids"]), "{name}: {text}");
            if let Some(types) = input.get("type_ids") {
                assert_eq!(encoded.type_ids, ids(types), "{name}: {text}");
            }
            check_decode(&tokenizer, &encoded.ids);
            inputs += 1;
        }
        assert!(tokenizer.is_special(tokenizer.id("[CLS]").unwrap()));
        assert_eq!(tokenizer.unknown(), tokenizer.id("[UNK]"));
    }
    assert!(inputs > 40, "{inputs}");
}

#[test]
fn words_in_lines_lack_what_is_needed() {
    for (words, class, expected) in [
        ("[UNK]\n[CLS]\na", "BertTokenizer", "has no `[SEP]`"),
        ("[CLS]\n[SEP]\na", "BertTokenizer", "has no `[UNK]`"),
        (
            "[UNK]\n[CLS]\n[SEP]",
            "RobertaTokenizer",
            "slow tokenizer (vocab.txt)",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.txt"), words).unwrap();
        let config = json!({"tokenizer_class": class}).to_string();
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let error = message(Tokenizer::from_file(&folder.path().join("tokenizer.json")));
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

/// Files of gigabytes are refused by their size, before they are read.
#[test]
fn files_that_are_too_large_are_named() {
    let decoder = json!({"type": "Fuse"});
    for (name, size) in [
        ("tokenizer.json", 257u64 << 20),
        ("tokenizer_config.json", 65 << 20),
        ("special_tokens_map.json", 65 << 20),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, bpe(&["<s>", "a"], &decoder).to_string()).unwrap();
        // A hole in the file.
        let large = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.path().join(name))
            .unwrap();
        large.set_len(size).unwrap();
        let error = message(Tokenizer::from_file(&path));
        assert!(
            error.contains(name) && error.contains("more than"),
            "{error}"
        );
    }
}

#[test]
fn tokenizers_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
}
