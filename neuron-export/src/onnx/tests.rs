//! Structure alone; that the numbers are right, `tests/export` shows by executing models.

use super::ops::{equation, meet};
use super::*;
use crate::graph::{Binary, Builder, Compare, Reduction};
use crate::manifest::InputName;
use crate::proto::{Content, Reader};
use std::io::{self, Cursor};

/// The fields `path[0]`, and in each of them `path[1]`, and so on: bytes of spans.
fn find(bytes: &[u8], path: &[u32]) -> Vec<Vec<u8>> {
    let Some((first, rest)) = path.split_first() else {
        return vec![bytes.to_vec()];
    };
    let mut reader = Reader::new(Cursor::new(bytes)).unwrap();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(field) = reader.field(&mut at, bytes.len() as u64).unwrap() {
        if let (true, Content::Span(from, to)) = (field.number == *first, field.content) {
            found.extend(find(&bytes[from as usize..to as usize], rest));
        }
    }
    found
}

fn texts(bytes: &[u8], path: &[u32]) -> Vec<String> {
    let found = find(bytes, path).into_iter();
    found.map(|text| String::from_utf8(text).unwrap()).collect()
}

/// The model of a graph, weights full of zeros.
fn bytes(graph: &Graph) -> Vec<u8> {
    let mut out = Vec::new();
    let message = model(graph, "logits", None);
    let zeros = &mut |values: &Values, out: &mut dyn io::Write| {
        out.write_all(&vec![0; values.bytes() as usize])
    };
    message.write::<io::Error>(&mut out, zeros).unwrap();
    assert_eq!(out.len() as u64, message.len());
    out
}

const B: Dim = Dim::Batch;
const S: Dim = Dim::Seq;

fn fixed(n: usize) -> Dim {
    Dim::Fixed(n)
}

/// Words, positions, a mask, products with a matrix and between heads.
fn graph() -> Graph {
    let (mut b, inputs) = Builder::new(&[InputName::InputIds, InputName::AttentionMask]);
    let words = b.weight("words", Elem::F32, &[9, 6]);
    let places = b.weight("places", Elem::F32, &[20, 6]);
    let x = b.gather(words, inputs[0]);
    let places = b.slice(places, 0, (0, S));
    let places = b.broadcast(places, &[B, S, fixed(6)], &[1, 2]);
    let x = b.binary(Binary::Add, x, places);
    let matrix = b.weight("matrix", Elem::F32, &[6, 6]);
    let y = b.dot((x, matrix), (2, 1), &[]);
    let heads = b.reshape(y, &[B, S, fixed(2), fixed(3)]);
    let scores = b.dot((heads, heads), (3, 3), &[(0, 0), (2, 2)]);
    let zero = b.integer(0);
    let zero = b.broadcast(zero, &[B, S], &[]);
    let keep = b.compare(Compare::Ne, inputs[1], zero);
    let keep = b.broadcast(keep, &[B, fixed(2), S, S], &[0, 3]);
    let low = b.full(-1e9, &[B, fixed(2), S, S]);
    let scores = b.select(keep, scores, low);
    let most = b.reduce(Reduction::Max, scores, 3);
    let most = b.reduce(Reduction::Add, most, 2);
    b.finish(most)
}

#[test]
fn a_graph_becomes_nodes_that_broadcast_by_themselves() {
    let bytes = bytes(&graph());
    let ops = texts(&bytes, &[7, 1, 4]);
    let expected = "Cast Cast Gather Shape Slice Add Transpose MatMul Reshape Einsum Equal Not Unsqueeze Where \
        ReduceMax ReduceSum Identity";
    assert_eq!(ops, expected.split_whitespace().collect::<Vec<_>>());
    // Of the only attribute that is a text.
    assert_eq!(texts(&bytes, &[7, 1, 5, 4]), ["adbc,aebc->abde"]);
    let initializers = texts(&bytes, &[7, 5, 8]);
    for weight in ["words", "places", "matrix"] {
        assert!(initializers.iter().any(|name| name == weight), "{weight}");
    }
    assert_eq!(texts(&bytes, &[7, 11, 1]), ["input_ids", "attention_mask"]);
    assert_eq!(texts(&bytes, &[7, 12, 1]), ["logits"]);
    // Both inputs, and the output's first dimension.
    let names = texts(&bytes, &[7, 11, 2, 1, 2, 1, 2]);
    assert_eq!(names, ["batch", "sequence", "batch", "sequence"]);
    assert_eq!(texts(&bytes, &[7, 12, 2, 1, 2, 1, 2]), ["batch"]);
    // Names of values are each made once.
    let mut made = texts(&bytes, &[7, 1, 2]);
    made.sort();
    let count = made.len();
    made.dedup();
    assert_eq!(made.len(), count);
}

#[test]
fn what_does_not_broadcast_gets_its_values_written_out() {
    let (mut b, inputs) = Builder::new(&[InputName::InputIds, InputName::AttentionMask]);
    let mask = b.convert(inputs[1], Elem::F32);
    let row = b.weight("row", Elem::F32, &[3]);
    let rows = b.broadcast(row, &[B, S, fixed(3)], &[2]);
    // A product of repeated rows: the operator has no broadcasting of its own.
    let sum = b.dot((mask, rows), (1, 1), &[(0, 0)]);
    let ops = texts(&bytes(&b.finish(sum)), &[7, 1, 4]);
    let expected = "Cast Cast Cast Shape Shape Concat Expand Einsum Identity";
    assert_eq!(ops, expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn weights_outside_are_told_by_their_places() {
    let outside = Outside {
        file: "w.safetensors",
        start: 100,
    };
    let (mut bytes, message) = (Vec::new(), model(&graph(), "logits", Some(&outside)));
    let none = &mut |values: &Values, _: &mut dyn io::Write| {
        Err(io::Error::other(format!("{} is inside", values.name)))
    };
    message.write::<io::Error>(&mut bytes, none).unwrap();
    let entries: Vec<(String, String)> = texts(&bytes, &[7, 5, 13, 1])
        .into_iter()
        .zip(texts(&bytes, &[7, 5, 13, 2]))
        .collect();
    let of = |key: &str| -> Vec<&str> {
        let entries = entries.iter().filter(|(k, _)| k == key);
        entries.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(of("location"), ["w.safetensors"; 3]);
    // 9 x 6, 20 x 6 and 6 x 6 values of four bytes.
    assert_eq!(of("offset"), ["100", "316", "796"]);
    assert_eq!(of("length"), ["216", "480", "144"]);
}

#[test]
fn equations_name_batch_sum_and_what_is_left() {
    assert_eq!(
        equation((4, 4), &[(0, 0), (2, 2)], (3, 3)),
        "adbc,aebc->abde"
    );
    assert_eq!(equation((2, 3), &[(0, 0)], (1, 1)), "ab,abc->ac");
    assert_eq!(equation((2, 2), &[], (0, 1)), "ab,ca->bc");
}

#[test]
fn shapes_meet_at_the_last_axis() {
    assert_eq!(meet(&[B, S, fixed(6)], &[fixed(6)]), [B, S, fixed(6)]);
    assert_eq!(
        meet(&[B, ONE, ONE, S], &[fixed(2), S, ONE]),
        [B, fixed(2), S, S]
    );
    assert_eq!(meet(&[], &[]), []);
}
