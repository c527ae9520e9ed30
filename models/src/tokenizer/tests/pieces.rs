//! `SentencePiece` and `WordPiece` vocabularies against the libraries that made them (`golden/pieces`).

use super::{case, check_decode, golden, ids};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;

fn open(file: &str) -> Tokenizer {
    let path = golden("pieces").join(file);
    let bytes = std::fs::read(&path).unwrap();
    if Path::new(file).extension().is_some_and(|e| e == "json") {
        return Tokenizer::from_json(&bytes).unwrap();
    }
    Tokenizer::from_gguf(&Gguf::parse(&path, &bytes).unwrap().meta).unwrap()
}

/// Each file of `golden/pieces` that `wanted` takes, with its tokenizer.
fn files(wanted: impl Fn(&str) -> bool) -> Vec<(String, Tokenizer, Value)> {
    let case = case("pieces");
    let named = case["files"].as_array().unwrap().iter();
    let files: Vec<_> = named
        .map(|file| (file["file"].as_str().unwrap().to_owned(), file))
        .filter(|(name, _)| wanted(name))
        .map(|(name, file)| (name.clone(), open(&name), file["rows"].clone()))
        .collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn byte_pairs_of_gguf_files_are_those_of_sentencepiece() {
    for (name, tokenizer, rows) in files(|name| name.starts_with("llama") && name.ends_with("gguf"))
    {
        for row in rows.as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let expected = ids(&row["ids"]);
            let got = tokenizer.encode(text, false).unwrap().ids;
            assert_eq!(got, expected, "{name}: {text:?}");
            let with_begin = tokenizer.encode(text, true).unwrap().ids;
            assert_eq!(
                with_begin,
                [&[1], &expected[..]].concat(),
                "{name}: {text:?}"
            );
            check_decode(&tokenizer, &expected);
            // Where every byte has a token, nothing is lost.
            if let Some(decoded) = row["decoded"].as_str()
                && name != "llama_unknown.gguf"
            {
                assert_eq!(
                    tokenizer.decode(&expected, true),
                    decoded,
                    "{name}: {text:?}"
                );
            }
        }
    }
}

/// The library's byte pairs rank pairs, so they cannot say that two pieces are equally good and the left one goes first.
#[test]
fn merges_by_rank_would_not_do() {
    let (ours, library) = (open("llama_equal.gguf"), open("llama2.json"));
    let rows = files(|name| name == "llama_equal.gguf").remove(0).2;
    let texts = rows.as_array().unwrap().iter();
    let other = texts.filter(|row| {
        let text = row["text"].as_str().unwrap();
        ours.encode(text, true).unwrap() != library.encode(text, true).unwrap()
    });
    assert!(other.count() > 5);
}

#[test]
fn word_pieces_of_gguf_files_are_those_of_the_library() {
    for (name, tokenizer, rows) in files(|name| name.starts_with("bert")) {
        for row in rows.as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let got = match row["pair"].as_str() {
                Some(pair) => tokenizer.encode_pair(text, pair).unwrap(),
                None => tokenizer.encode(text, true).unwrap(),
            };
            assert_eq!(got.ids, ids(&row["ids"]), "{name}: {text:?}");
            assert_eq!(got.type_ids, ids(&row["type_ids"]), "{name}: {text:?}");
            check_decode(&tokenizer, &got.ids);
        }
    }
    let (lower, cased) = (open("bert.gguf"), open("bert_cased.gguf"));
    let first = |tokenizer: &Tokenizer| tokenizer.encode("Where", false).unwrap().ids;
    assert_ne!(first(&lower), first(&cased), "control");
    assert!(lower.is_special(2) && !lower.is_special(5));
}

#[test]
fn folders_with_pieces_give_the_ids_of_the_library() {
    for (name, tokenizer, rows) in files(|name| !name.ends_with("gguf")) {
        for row in rows.as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let expected = ids(&row["ids"]);
            assert_eq!(
                tokenizer.encode(text, true).unwrap().ids,
                expected,
                "{name}: {text:?}"
            );
            let decoded = row["decoded"].as_str().unwrap();
            assert_eq!(
                tokenizer.decode(&expected, true),
                decoded,
                "{name}: {text:?}"
            );
            check_decode(&tokenizer, &expected);
        }
    }
}

/// A stream of tokens holds back what is not yet whole; its bytes one after another are the text.
#[test]
fn byte_tokens_of_one_letter_come_one_by_one() {
    let tokenizer = open("llama.gguf");
    let ids = tokenizer.encode("🙂", false).unwrap().ids;
    assert_eq!(ids.len(), 5, "a space and four bytes");
    let mut bytes = Vec::new();
    let mut first = true;
    for (i, id) in ids.iter().enumerate() {
        first &= !tokenizer.append(*id, first, &mut bytes);
        assert_eq!(std::str::from_utf8(&bytes).is_ok(), i == 0 || i == 4, "{i}");
    }
    assert_eq!(bytes, "🙂".as_bytes());
}

/// Phi-3's role markers swallow the space behind them: a chat turn has other ids without.
#[test]
fn role_markers_of_phi3_swallow_the_space_behind_them() {
    let path = golden("turns/phi3.gguf");
    let meta = Gguf::parse(&path, &std::fs::read(&path).unwrap())
        .unwrap()
        .meta;
    let gguf = Tokenizer::from_gguf(&meta).unwrap();
    let folder = Tokenizer::from_json(&std::fs::read(golden("turns/phi3.json")).unwrap()).unwrap();
    for row in case("turns")["phi3"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        for (name, tokenizer) in [("gguf", &gguf), ("folder", &folder)] {
            let got = tokenizer.encode(text, true).unwrap().ids;
            assert_eq!(got, ids(&row["ids"]), "{name}: {text:?}");
        }
    }
}
