use super::*;
use crate::graph::eval::eval;
use crate::graph::{Binary, Op};
use crate::manifest::InputName;
use koma_models::{Head, HeadKind, LoadOptions, Source, architectures, blueprint};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) fn golden(name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    golden.join(name).join("model")
}

pub(crate) fn open(folder: &Path) -> Blueprint {
    blueprint(&Source::Folder(folder.to_owned()), &LoadOptions::default()).unwrap()
}

#[test]
fn what_can_be_exported_can_be_loaded() {
    let known: Vec<&str> = architectures().iter().map(|a| a.name).collect();
    for name in EXPORTABLE {
        assert!(known.contains(&name), "{name}");
    }
    assert!(EXPORTABLE.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn every_architecture_gives_a_graph_over_all_its_inputs() {
    use InputName::{AttentionMask, InputIds, TokenTypeIds};
    let (two, three) = (
        [InputIds, AttentionMask].as_slice(),
        [InputIds, AttentionMask, TokenTypeIds].as_slice(),
    );
    let cases = [
        ("distilbert_classify", two, 3),
        ("distilbert_multilabel", two, 0),
        ("distilbert_embed_mean", two, 0),
        ("bert_classify", three, 0),
        ("bert_cross", three, 1),
        ("bert_gelu_tanh", three, 0),
        ("bert_regression", three, 1),
        ("bert_embed_cls", three, 0),
        ("bert_embed_max", three, 0),
        ("bert_embed_last", three, 0),
        ("bert_embed_concat", three, 0),
        ("bert_embed_dense", three, 0),
        ("roberta_classify", two, 0),
        ("roberta_cross", two, 1),
        ("roberta_embed_mean", two, 0),
        ("xlm_roberta_classify", two, 0),
        ("xlm_roberta_embed_cls", two, 0),
    ];
    for (name, inputs, width) in cases {
        let model = open(&golden(name));
        let expected = model.head.as_ref().unwrap().width;
        assert!(width == 0 || width == expected, "{name}");
        for precision in [Precision::F32, Precision::Bf16] {
            let graph = graph(&model, precision).unwrap();
            assert!(graph.inputs().eq(inputs.iter().copied()), "{name}");
            let dims = &graph.node(graph.output).ty.dims;
            assert_eq!(dims[1].of((1, 1)), expected, "{name}");
            let converts = graph
                .nodes
                .iter()
                .any(|node| node.ty.elem == crate::graph::Elem::Bf16);
            assert_eq!(converts, precision == Precision::Bf16, "{name}");
            // Every weight of the checkpoint that the model uses is in it.
            let weights = graph
                .weights()
                .map(|(_, ty)| ty.fixed().iter().product::<usize>());
            assert_eq!(
                weights.sum::<usize>() as u64,
                model.identity.parameters,
                "{name}"
            );
            let read = graph
                .nodes
                .iter()
                .filter(|node| matches!(node.op, Op::Input(_)));
            assert_eq!(read.count(), inputs.len(), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_exported_is_refused_with_what_can() {
    let names = [
        "modernbert_classify",
        "bert_tokens",
        "llama",
        "modernbert_embed_mean",
    ];
    for name in names {
        let error = supported(&open(&golden(name))).unwrap_err().to_string();
        assert!(
            error.contains("cannot be exported; those that can are BertForMaskedLM"),
            "{error}"
        );
    }
    let quantized = Source::Folder(golden("quant_fp8"));
    let error = blueprint(&quantized, &LoadOptions::default())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("field `quantization_config`"),
        "{error}"
    );
}

/// Texts of a fixture that fit into a bucket, as its inputs in their order, and the rows that its reference gives.
struct Case {
    inputs: Vec<Vec<i32>>,
    expected: Vec<f32>,
    rows: usize,
}

const SEQ: usize = 24;

fn case(name: &str, padding: i32) -> Case {
    let folder = golden(name).parent().unwrap().to_owned();
    let json: Value =
        serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let rows = tensors
        .tensor("logits")
        .or_else(|_| tensors.tensor("embeddings"))
        .unwrap();
    let width = rows.shape()[1];
    let values: Vec<f32> = rows
        .data()
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let mut case = Case {
        inputs: vec![Vec::new(); 3],
        expected: Vec::new(),
        rows: 0,
    };
    for (i, text) in json["inputs"].as_array().unwrap().iter().enumerate() {
        let list = |key: &str| -> Vec<i32> {
            let numbers = text[key].as_array().unwrap().iter();
            numbers.map(|n| n.as_i64().unwrap() as i32).collect()
        };
        let ids = list("ids");
        if ids.len() > SEQ || case.rows == 3 {
            continue;
        }
        case.rows += 1;
        case.expected.extend(&values[i * width..(i + 1) * width]);
        let filled = |mut list: Vec<i32>, with| {
            list.resize(SEQ, with);
            list
        };
        case.inputs[1].extend(filled(vec![1; ids.len()], 0));
        case.inputs[0].extend(filled(ids, padding));
        case.inputs[2].extend(filled(list("type_ids"), 0));
    }
    // A row of nothing but padding, as batches that are not full have.
    for (input, with) in case.inputs.iter_mut().zip([padding, 0, 0]) {
        input.extend([with; SEQ]);
    }
    case
}

/// Largest difference between what the graph of a fixture computes, changed by `change`, and the reference.
fn off(name: &str, precision: Precision, change: &dyn Fn(&mut Graph, &mut Case)) -> f32 {
    let (mut rows, expected, head) = computed(name, precision, change);
    if matches!(head.kind, HeadKind::Embed { .. }) {
        rows.chunks_mut(head.width)
            .for_each(|row| head.activate(row));
    }
    let pairs = rows.iter().zip(&expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What the graph of a fixture computes, changed by `change`; the reference's rows; the model's head.
fn computed(
    name: &str,
    precision: Precision,
    change: &dyn Fn(&mut Graph, &mut Case),
) -> (Vec<f32>, Vec<f32>, Head) {
    let model = open(&golden(name));
    let mut graph = graph(&model, precision).unwrap();
    let padding = match model.spec.as_ref().unwrap().numbering {
        koma_models::spec::Positions::AfterPadding(padding) => padding as i32,
        koma_models::spec::Positions::Plain => 0,
    };
    let mut case = case(name, padding);
    change(&mut graph, &mut case);
    let weights: BTreeMap<String, Vec<f32>> = graph
        .weights()
        .map(|(name, ty)| {
            let pieces = model.tensors.values(name, &ty.fixed()).unwrap();
            (
                name.to_owned(),
                pieces.flat_map(|piece| piece.unwrap()).collect(),
            )
        })
        .collect();
    let rows = eval(&graph, (case.rows + 1, SEQ), &case.inputs, &weights);
    assert!(rows.iter().all(|x| x.is_finite()), "{name}");
    (rows, case.expected, model.head.unwrap())
}

/// Who asks for `normalize: false` gets the model's own vector.
#[test]
fn graphs_leave_the_length_of_a_vector_as_it_is() {
    for name in ["bert_embed_mean", "roberta_embed_mean"] {
        let (rows, expected, head) = computed(name, Precision::F32, &|_, _| ());
        assert_eq!(head.kind, HeadKind::Embed { normalize: true }, "{name}");
        let rows = rows.chunks(head.width);
        for (row, unit) in rows.zip(expected.chunks(head.width)) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() > 0.1, "{name}: {length}");
            let off = row.iter().zip(unit).map(|(a, b)| (a / length - b).abs());
            assert!(off.fold(0.0, f32::max) < 3e-5, "{name}");
        }
    }
}

/// Against Hugging Face's rows, in the arithmetic of one machine; other runtimes execute the files themselves.
#[test]
fn graphs_compute_what_the_reference_computes() {
    let names = [
        "distilbert_classify",
        "bert_classify",
        "bert_cross",
        "bert_gelu_tanh",
        "bert_embed_mean",
        "bert_embed_cls",
        "bert_embed_max",
        "bert_embed_last",
        "bert_embed_concat",
        "bert_embed_dense",
        "roberta_classify",
        "roberta_cross",
        "xlm_roberta_classify",
        "distilbert_embed_mean",
    ];
    for name in names {
        let off = off(name, Precision::F32, &|_, _| ());
        assert!(off < 3e-5, "{name}: {off}");
    }
    let bf16 = off("bert_cross", Precision::Bf16, &|_, _| ());
    assert!(bf16 > 1e-4 && bf16 < 5e-2, "{bf16}");
}

#[test]
fn what_is_under_the_mask_does_not_matter_and_all_else_does() {
    let name = "bert_cross";
    let changed = |change: &dyn Fn(&mut Graph, &mut Case)| off(name, Precision::F32, change);
    let under_mask = changed(&|_, case| {
        let (ids, rest) = case.inputs.split_at_mut(1);
        for (id, mask) in ids[0].iter_mut().zip(&rest[0]) {
            if *mask == 0 {
                *id = 7;
            }
        }
    });
    assert!(under_mask < 3e-5, "{under_mask}");
    let ignored_mask = changed(&|_, case| case.inputs[1].fill(1));
    assert!(ignored_mask > 1e-2, "{ignored_mask}");
    let no_segments = changed(&|_, case| case.inputs[2].fill(0));
    assert!(no_segments > 1e-2, "{no_segments}");
    let wrong_operation = changed(&|graph, _| {
        let mut nodes = graph.nodes.iter_mut();
        let sum = nodes.find(|node| node.op == Op::Binary(Binary::Add));
        sum.unwrap().op = Op::Binary(Binary::Sub);
    });
    assert!(wrong_operation > 1e-2, "{wrong_operation}");
}
