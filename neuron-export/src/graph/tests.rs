use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

const B: Dim = Dim::Batch;
const S: Dim = Dim::Seq;

fn fixed(n: usize) -> Dim {
    Dim::Fixed(n)
}

fn inputs() -> (Builder, Value, Value) {
    let (b, inputs) = Builder::new(&[InputName::InputIds, InputName::AttentionMask]);
    (b, inputs[0], inputs[1])
}

#[test]
fn results_have_the_types_that_follow_from_the_operands() {
    let (mut b, ids, mask) = inputs();
    let table = b.weight("t", Elem::F32, &[9, 6]);
    let rows = b.gather(table, ids);
    assert_eq!(*b.ty(rows), Type::new(Elem::F32, &[B, S, fixed(6)]));
    let heads = b.reshape(rows, &[B, S, fixed(2), fixed(3)]);
    let scores = b.dot((heads, heads), (3, 3), &[(0, 0), (2, 2)]);
    assert_eq!(b.dims(scores), [B, fixed(2), S, S]);
    let zero = b.integer(0);
    let zero = b.broadcast(zero, &[B, S], &[]);
    let seen = b.compare(Compare::Ne, mask, zero);
    let seen = b.broadcast(seen, &[B, fixed(2), S, S], &[0, 3]);
    assert_eq!(b.ty(seen).elem, Elem::Pred);
    let chosen = b.select(seen, scores, scores);
    let mixed = b.dot((chosen, heads), (3, 1), &[(0, 0), (1, 2)]);
    assert_eq!(b.dims(mixed), [B, fixed(2), S, fixed(3)]);
    let back = b.transpose(mixed, &[0, 2, 1, 3]);
    let back = b.reshape(back, &[B, S, fixed(6)]);
    let sum = b.reduce(Reduction::Add, back, 1);
    assert_eq!(b.dims(sum), [B, fixed(6)]);
    let positions = b.slice(table, 0, (0, S));
    assert_eq!(b.dims(positions), [S, fixed(6)]);
    let both = b.concat(sum, sum);
    assert_eq!(b.dims(both), [B, fixed(12)]);
    let graph = b.finish(both);
    assert_eq!(graph.inputs().count(), 2);
    let weights: Vec<&str> = graph.weights().map(|(name, _)| name).collect();
    assert_eq!(weights, ["t"]);
}

#[test]
fn what_has_no_operands_is_there_once() {
    let (mut b, ..) = inputs();
    assert_eq!(b.real(1.0), b.real(1.0));
    assert_ne!(b.real(0.0), b.real(-0.0));
    assert_eq!(b.count(), b.count());
    let weight = b.weight("w", Elem::F32, &[2]);
    assert_eq!(b.weight("w", Elem::F32, &[2]), weight);
    assert_ne!(b.weight("w", Elem::Bf16, &[2]), weight);
}

/// Uses of builders that do not fit, each of which panics.
#[test]
fn operands_that_do_not_fit_are_refused() {
    type Misuse = fn(&mut Builder, Value, Value);
    let misuses: &[(&str, Misuse)] = &[
        ("add of two types", |b, ids, x| {
            _ = b.binary(Binary::Add, ids, x);
        }),
        ("exp of integers", |b, ids, _| _ = b.unary(Unary::Exp, ids)),
        ("compare", |b, ids, x| _ = b.compare(Compare::Eq, ids, x)),
        ("select by numbers", |b, _, x| _ = b.select(x, x, x)),
        ("broadcast of another size", |b, _, x| {
            _ = b.broadcast(x, &[B, S, fixed(5)], &[0, 1, 2]);
        }),
        ("broadcast out of order", |b, ids, _| {
            _ = b.broadcast(ids, &[S, B, fixed(2)], &[1, 0]);
        }),
        ("reshape to another size", |b, _, x| {
            _ = b.reshape(x, &[B, S, fixed(5)]);
        }),
        ("reshape that moves a symbol", |b, _, x| {
            _ = b.reshape(x, &[B, fixed(4), S]);
        }),
        ("transpose", |b, _, x| _ = b.transpose(x, &[0, 0, 1])),
        ("slice beyond the end", |b, _, x| {
            _ = b.slice(x, 2, (3, fixed(2)));
        }),
        ("slice of nothing", |b, _, x| {
            _ = b.slice(x, 2, (0, fixed(0)));
        }),
        ("dot over two sizes", |b, _, x| {
            _ = b.dot((x, x), (2, 1), &[(0, 0)]);
        }),
        ("dot of integers", |b, ids, _| {
            _ = b.dot((ids, ids), (1, 1), &[(0, 0)]);
        }),
        ("gather by reals", |b, _, x| _ = b.gather(x, x)),
        ("sum of integers", |b, ids, _| {
            _ = b.reduce(Reduction::Add, ids, 1);
        }),
        ("concat of two types", |b, ids, x| _ = b.concat(ids, x)),
        ("weight of integers", |b, _, _| {
            _ = b.weight("w", Elem::S32, &[1]);
        }),
    ];
    for (name, misuse) in misuses {
        let (mut b, ids, _) = inputs();
        let table = b.weight("t", Elem::F32, &[9, 4]);
        let x = b.gather(table, ids);
        let done = catch_unwind(AssertUnwindSafe(|| misuse(&mut b, ids, x)));
        assert!(done.is_err(), "{name}");
        let refused = catch_unwind(AssertUnwindSafe(|| b.finish(x)));
        assert!(refused.is_err(), "{name}: not one row per text");
    }
}
