//! Token classifiers of every family: logits, and entities as transformers' pipeline merges them.

use crate::decoders::same_bits;
use crate::encoders::{hidden_states, inputs};
use crate::open;
use koma_engine::text::{Aggregation, Entity, Tagged, entities};
use koma_models::{Dtype, HeadKind, Loaded};
use koma_tests::forward::{encode_rows, encoder};
use koma_tests::golden::{Case, ids, worst};
use serde_json::Value;

const CASES: [&str; 5] = [
    "bert_tokens",
    "distilbert_tokens",
    "roberta_tokens",
    "xlm_roberta_tokens",
    "modernbert_tokens",
];

/// Logits of each input, `[tokens, labels]`, all in one batch.
fn logits(case: &Case, loaded: &Loaded) -> Vec<Vec<f32>> {
    encode_rows(encoder(loaded), &inputs(case))
}

#[test]
fn logits_of_every_token_match_transformers() {
    for name in CASES {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let head = loaded.head.as_ref().unwrap();
        assert_eq!(head.kind, HeadKind::Tokens, "{name}");
        assert_eq!(head.width, 6, "{name}");
        for (i, got) in logits(&case, &loaded).into_iter().enumerate() {
            let want = &case.tensor(&format!("logits.{i}")).values;
            let off = worst(&got, want);
            assert!(off <= 1e-4, "{name}: input {i} is off by {off:e}");
            let alone = encode_rows(encoder(&loaded), &inputs(&case)[i..=i]);
            assert!(same_bits(&alone[0], &got), "{name}: input {i} alone");
        }
        hidden_states(&case, &loaded);
    }
}

/// The entities that the pipeline found in input `i`, scores apart.
fn expected(
    case: &Case,
    strategy: &str,
    i: usize,
) -> Vec<(String, Option<usize>, String, [usize; 2])> {
    let list = case.json["entities"][strategy][i].as_array().unwrap();
    let number = |value: &Value| value.as_u64().map(|n| n as usize);
    list.iter()
        .map(|entity| {
            let label = entity.get("entity").or(entity.get("entity_group"));
            (
                label.and_then(Value::as_str).unwrap().to_owned(),
                number(&entity["index"]),
                entity["word"].as_str().unwrap().to_owned(),
                ["start", "end"].map(|field| number(&entity[field]).unwrap()),
            )
        })
        .collect()
}

fn found(
    case: &Case,
    loaded: &Loaded,
    strategy: Aggregation,
    ignored: &[String],
) -> Vec<Vec<Entity>> {
    let head = loaded.head.as_ref().unwrap();
    let inputs = case.json["inputs"].as_array().unwrap();
    let rows = logits(case, loaded).into_iter().zip(inputs);
    rows.map(|(mut probabilities, input)| {
        let text = input["text"].as_str().unwrap();
        let tokens = loaded.tokenizer.locate(text, None).unwrap();
        assert_eq!(tokens.encoded.ids, ids(&input["ids"]), "{text}");
        for row in probabilities.chunks_exact_mut(head.width) {
            head.activate(row);
        }
        let tagged = Tagged {
            tokenizer: &loaded.tokenizer,
            labels: &head.labels,
            text,
            tokens: &tokens,
            probabilities: &probabilities,
        };
        entities(&tagged, strategy, ignored)
    })
    .collect()
}

#[test]
fn entities_match_the_pipeline() {
    let ignored = ["O".to_owned()];
    for name in CASES {
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        for (strategy, aggregation) in Aggregation::NAMED {
            let scores = &case.tensor(&format!("scores.{strategy}")).values;
            let mut scores = scores.iter();
            for (i, got) in found(&case, &loaded, aggregation, &ignored)
                .into_iter()
                .enumerate()
            {
                let shown: Vec<_> = got
                    .iter()
                    .map(|e| (e.label.clone(), e.index, e.word.clone(), [e.start, e.end]))
                    .collect();
                assert_eq!(shown, expected(&case, strategy, i), "{name} {strategy} {i}");
                for (entity, want) in got.iter().zip(&mut scores) {
                    let off = (entity.score - want).abs();
                    assert!(
                        off <= 1e-5,
                        "{name} {strategy} {i}: {entity:?} is off by {off:e}"
                    );
                }
            }
            assert_eq!(
                scores.len(),
                0,
                "{name} {strategy}: all scores were compared"
            );
        }
        // The control: each strategy matters.
        for (strategy, other) in Aggregation::NAMED.windows(2).map(|w| (w[0].1, w[1].1)) {
            let of = |strategy| found(&case, &loaded, strategy, &ignored);
            assert_ne!(of(strategy), of(other), "{name} {strategy:?} {other:?}");
        }
    }
}

/// The negative control of what is left out: outside of entities there is something.
#[test]
fn ignored_labels_matter() {
    let case = Case::read("bert_tokens");
    let loaded = open(&case.model(), Dtype::F32).unwrap();
    let of = |ignored: &[&str]| {
        let ignored: Vec<String> = ignored.iter().map(|label| (*label).to_owned()).collect();
        found(&case, &loaded, Aggregation::Simple, &ignored).concat()
    };
    let (all, inside) = (of(&[]), of(&["O"]));
    assert!(all.len() > inside.len());
    assert!(of(&["O", "PER"]).len() < inside.len());
    assert_eq!(
        of(&["I-PER"]).len(),
        all.len(),
        "merged entities have no I-"
    );
}

/// A text that is too long loses its end, and the places of what is left stay.
#[test]
fn texts_are_cut_with_their_places() {
    for name in CASES {
        let case = Case::read(name);
        let tokenizer = open(&case.model(), Dtype::F32).unwrap().tokenizer;
        let text = case.json["inputs"][2]["text"].as_str().unwrap();
        let (whole, cut) = (
            tokenizer.locate(text, None).unwrap(),
            tokenizer.locate(text, Some(9)).unwrap(),
        );
        assert_eq!(
            cut.encoded,
            tokenizer.encode_within(text, None, 9).unwrap(),
            "{name}"
        );
        assert_eq!(
            (cut.places.len(), cut.places[8].clone()),
            (9, None),
            "{name}"
        );
        assert_eq!(cut.places[..8], whole.places[..8], "{name}");
        assert!(tokenizer.locate(text, Some(1)).is_err(), "{name}");
    }
}
