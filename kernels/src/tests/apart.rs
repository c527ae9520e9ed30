//! Parts of work that run apart, each on one thread.

use super::*;
use crate::{Epilogue, linear};

/// Each part has the bits that it has when the whole team computes it alone, in one region; states belong to one thread at a time.
#[test]
fn parts_are_what_the_team_would_make_of_each() {
    const PARTS: usize = 13;
    let mut random = Random::new(31);
    let weight = random.weight(70, 64, Format::Bf16);
    let parts: Vec<Rows> = (0..PARTS).map(|i| random.rows(1 + i * 5, 64)).collect();
    for threads in [1, 2, 5] {
        let cx = cx(Isa::detect(), threads);
        let expected: Vec<Rows> = parts
            .iter()
            .map(|x| {
                let mut out = Rows::new();
                linear(&cx, x, &weight, Epilogue::default(), &mut out);
                out
            })
            .collect();
        let before = cx.team().stats().regions;
        let mut outputs: Vec<Rows> = (0..PARTS).map(|_| Rows::new()).collect();
        let mut states = vec![(0, false); threads];
        cx.apart(&mut states, &mut outputs, &|part, cx, (ran, busy), out| {
            assert!(!std::mem::replace(busy, true), "one at a time");
            assert_eq!(cx.threads(), 1);
            linear(cx, &parts[part], &weight, Epilogue::default(), out);
            (*ran, *busy) = (*ran + 1, false);
        });
        assert_eq!(cx.team().stats().regions, before + 1, "one region in all");
        assert_eq!(states.iter().map(|(ran, _)| ran).sum::<usize>(), PARTS);
        for (i, (got, expected)) in outputs.iter().zip(&expected).enumerate() {
            assert_bits(&format!("part {i}"), got.as_slice(), expected.as_slice());
        }
    }
}
