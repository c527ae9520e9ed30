//! Pooling: each mode by hand, and over many texts.

use super::*;
use crate::{Pooling, pool};

/// All modes, in the order of their declaration.
pub(super) const MODES: [Pooling; 6] = [
    Pooling::Cls,
    Pooling::Max,
    Pooling::Mean,
    Pooling::MeanSqrtLen,
    Pooling::WeightedMean,
    Pooling::Last,
];

/// Widths, lengths of texts, and how many of their first tokens take no part.
pub(super) const CASES: [(usize, &[u32], &[u32]); 5] = [
    (1, &[1], &[]),
    (5, &[3, 1, 9], &[]),
    (64, &[4, 70, 2], &[3, 0, 1]),
    (257, &[33, 8], &[0, 7]),
    (768, &[12, 5, 1, 40], &[]),
];

/// Where the texts of a case end.
pub(super) fn ends(lens: &[u32]) -> Vec<u32> {
    let sums = lens.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    [0].into_iter().chain(sums).collect()
}

#[test]
fn each_way_of_pooling_by_hand() {
    let hidden = Rows::from_vec(2, vec![1.0, -4.0, 3.0, 0.0, 5.0, 2.0, 9.0, 8.0]);
    let half = 3f32.sqrt();
    let cases: [(Pooling, [f32; 4], [f32; 2]); 6] = [
        (Pooling::Cls, [1.0, -4.0, 9.0, 8.0], [3.0, 0.0]),
        (Pooling::Max, [5.0, 2.0, 9.0, 8.0], [5.0, 2.0]),
        (Pooling::Mean, [3.0, -2.0 / 3.0, 9.0, 8.0], [4.0, 1.0]),
        (
            Pooling::MeanSqrtLen,
            [9.0 / half, -2.0 / half, 9.0, 8.0],
            [8.0 / 2f32.sqrt(), 2.0 / 2f32.sqrt()],
        ),
        (
            Pooling::WeightedMean,
            [22.0 / 6.0, 2.0 / 6.0, 9.0, 8.0],
            [21.0 / 5.0, 6.0 / 5.0],
        ),
        (Pooling::Last, [5.0, 2.0, 9.0, 8.0], [5.0, 2.0]),
    ];
    let cx = cx(Isa::Portable, 1);
    for (mode, all, without_first) in cases {
        let mut out = Rows::new();
        pool(&cx, &[mode], &hidden, (&[0, 3, 4], &[]), &mut out);
        assert_eq!(out.as_slice(), all, "{mode:?}");
        let two = [Pooling::Cls, mode];
        pool(&cx, &two, &hidden, (&[0, 3, 4], &[1, 0]), &mut out);
        let first = [&[3.0, 0.0], &without_first[..]].concat();
        assert_eq!(out.row(0), first, "{mode:?}");
        assert_eq!(out.row(1), [9.0, 8.0, all[2], all[3]], "{mode:?}");
    }
}

#[test]
fn pooling_agrees_with_the_naive_body() {
    for (width, lens, skips) in CASES {
        let ends = ends(lens);
        let tokens = ends[lens.len()] as usize;
        let hidden = Random::new(width as u64).rows(tokens, width);
        let (mut got, mut expected) = (Rows::new(), Rows::new());
        let cx = cx(Isa::Portable, 1);
        pool(&cx, &MODES, &hidden, (&ends, skips), &mut got);
        reference::pool(&MODES, &hidden, (&ends, skips), &mut expected);
        let what = format!("{width} {lens:?}");
        assert_close(&what, got.as_slice(), expected.as_slice(), 3e-6);
    }
}

#[test]
#[should_panic(expected = "a text without a token")]
fn a_text_of_which_nothing_takes_part_is_a_bug() {
    let hidden = Rows::from_vec(1, vec![1.0, 2.0]);
    let mut out = Rows::new();
    let cx = cx(Isa::Portable, 1);
    pool(
        &cx,
        &[Pooling::Mean],
        &hidden,
        (&[0, 1, 2], &[0, 1]),
        &mut out,
    );
}
