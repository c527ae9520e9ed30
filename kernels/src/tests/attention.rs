//! Attention over a cache and inside packed sequences.

use super::*;
use crate::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, GroupKind, HeadLayout, KvCache, KvDtype, KvLayer,
    paged, reference, varlen, varlen_one, write_kv,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Query heads, key heads, values of a key, values of a value.
pub(super) const LAYOUTS: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1),
    (3, 1, 5, 7),
    (4, 2, 16, 16),
    (9, 3, 64, 64),
    (6, 2, 33, 20),
    (2, 2, 80, 100),
    (60, 1, 8, 24),
];

pub(super) fn layout(
    (q_heads, kv_heads, k_dim, v_dim): (usize, usize, usize, usize),
) -> HeadLayout {
    HeadLayout {
        q_heads,
        kv_heads,
        k_dim,
        v_dim,
    }
}

pub(super) fn spec(layout: HeadLayout, causal: bool, window: Option<usize>) -> AttnSpec {
    AttnSpec {
        layout,
        scale: (layout.k_dim as f32).sqrt().recip(),
        causal,
        window,
        cap: None,
        halves: false,
    }
}

/// The same with the products capped.
pub(super) fn capped(spec: AttnSpec) -> AttnSpec {
    AttnSpec {
        cap: Some(0.75),
        ..spec
    }
}

/// A cache with whole requests in it, at scattered blocks, and everything else NaN.
pub(super) struct World {
    kv: KvCache,
    pub(super) requests: Vec<Request>,
    size: usize,
}

pub(super) struct Request {
    /// All its tokens.
    qkv: Rows,
    pub(super) table: Vec<u32>,
}

impl World {
    fn new(layout: HeadLayout, lens: &[usize], size: usize, dtype: KvDtype) -> Self {
        Self::on(&cx(Isa::Portable, 2), layout, lens, (size, dtype))
    }

    /// The same, where `cx` keeps caches.
    pub(super) fn on(
        cx: &Cx,
        layout: HeadLayout,
        lens: &[usize],
        (size, dtype): (usize, KvDtype),
    ) -> Self {
        let mut random = Random::new((layout.k_dim * 7 + size) as u64);
        let used: usize = lens.iter().map(|len| len.div_ceil(size)).sum();
        let group = CacheGroup {
            kind: GroupKind::Full(layout),
            layers: 1,
        };
        let mut kv = KvCache::on(cx, &[group], used + 3, size, dtype).expect("a small cache");
        let all: Vec<u32> = (0..((used + 3) * size) as u32).collect();
        let width = layout.qkv_width();
        let nan = Rows::from_vec(width, vec![f32::NAN; all.len() * width]);
        write_kv(cx, &nan, &mut kv.layer(0, 0), &all);
        let mut free: Vec<u32> = (0..used as u32 + 3).collect();
        let requests = lens.iter().map(|&len| {
            let blocks = len.div_ceil(size);
            let table: Vec<u32> = (0..blocks)
                .map(|_| free.swap_remove(random.below(free.len())))
                .collect();
            let qkv = random.rows(len, width);
            let slots: Vec<u32> = (0..len)
                .map(|t| table[t / size] * size as u32 + (t % size) as u32)
                .collect();
            write_kv(cx, &qkv, &mut kv.layer(0, 0), &slots);
            Request { qkv, table }
        });
        let requests = requests.collect();
        Self { kv, requests, size }
    }

    /// Rounds all queries; keys and values stay as they were written.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn round_queries(&mut self, layout: &HeadLayout, round: impl Fn(f32) -> f32) {
        for request in &mut self.requests {
            for r in 0..request.qkv.rows() {
                let queries = &mut request.qkv.row_mut(r)[..layout.q_heads * layout.k_dim];
                for v in queries {
                    *v = round(*v);
                }
            }
        }
    }

    /// Changes token `t` of request `i` with its queries, and writes it.
    #[cfg(feature = "cuda-emu")]
    pub(super) fn change(&mut self, cx: &Cx, (i, t): (usize, usize), change: impl Fn(&mut [f32])) {
        let request = &mut self.requests[i];
        change(request.qkv.row_mut(t));
        let row = request.qkv.row(t).to_vec();
        let slot = request.table[t / self.size] * self.size as u32 + (t % self.size) as u32;
        let row = Rows::from_vec(row.len(), row);
        write_kv(cx, &row, &mut self.kv.layer(0, 0), &[slot]);
    }

    /// Attention of `rows` of each request, as one step that has computed up to the end of these.
    pub(super) fn step(
        &mut self,
        cx: Option<&Cx>,
        spec: &AttnSpec,
        part: &[(usize, std::ops::Range<usize>)],
    ) -> Rows {
        self.step_by(spec, part, |qkv, kv, meta, out| match cx {
            Some(cx) => paged(cx, qkv, kv, meta, spec, out),
            None => reference::paged(qkv, kv, meta, spec, out),
        })
    }

    /// The same, by `attend`.
    pub(super) fn step_by(
        &mut self,
        spec: &AttnSpec,
        part: &[(usize, std::ops::Range<usize>)],
        attend: impl Fn(&Rows, &KvLayer<'_>, &AttnMeta<'_>, &mut Rows),
    ) -> Rows {
        let width = spec.layout.qkv_width();
        let (mut data, mut cu, mut lens) = (Vec::new(), vec![0], Vec::new());
        let mut tables = BlockTables::default();
        for (i, rows) in part {
            let request = &self.requests[*i];
            for r in rows.clone() {
                data.extend_from_slice(request.qkv.row(r));
            }
            cu.push(cu[cu.len() - 1] + rows.len() as u32);
            lens.push(rows.end as u32);
            let blocks = rows.end.div_ceil(self.size);
            // What no query of this step sees has been freed.
            let first = spec
                .window
                .map_or(0, |w| (rows.start + 1).saturating_sub(w));
            let block = |b: usize| {
                if (b + 1) * self.size <= first {
                    BlockTables::FREED
                } else {
                    request.table[b]
                }
            };
            tables.push((0..blocks).map(block));
        }
        let qkv = Rows::from_vec(width, data);
        let meta = AttnMeta {
            cu_seqlens: &cu,
            kv_lens: &lens,
            tables: &tables,
        };
        let mut out = Rows::new();
        attend(&qkv, &self.kv.layer(0, 0), &meta, &mut out);
        out
    }
}

pub(super) const WINDOWS: [Option<usize>; 4] = [None, Some(1), Some(7), Some(100)];

#[test]
fn paged_agrees_with_the_naive_body() {
    for heads in LAYOUTS {
        for (size, dtype) in [
            (16, KvDtype::F32),
            (16, KvDtype::Bf16),
            (48, KvDtype::Bf16),
            (48, KvDtype::F32),
            (16, KvDtype::Int8),
            (48, KvDtype::Int8),
        ] {
            let layout = layout(heads);
            let mut world = World::new(layout, &[1, 70, 64, 65, 600, 15], size, dtype);
            let step = [
                (0, 0..1),
                (1, 60..70),
                (2, 0..64),
                (3, 64..65),
                (4, 599..600),
                (5, 3..15),
            ];
            let plain = WINDOWS.map(|window| spec(layout, true, window));
            for spec in [
                plain[0],
                plain[1],
                plain[2],
                plain[3],
                capped(plain[0]),
                capped(plain[2]),
            ] {
                let expected = world.step(None, &spec, &step);
                for isa in isas() {
                    let got = world.step(Some(&cx(isa, 3)), &spec, &step);
                    let what = format!("{isa:?} {size} {dtype:?} {spec:?}");
                    let bound = match dtype {
                        // The others only devices have.
                        KvDtype::F32 | KvDtype::F16 | KvDtype::Fp8 => 1e-5,
                        KvDtype::Bf16 => 1.0 / 128.0, // exponentials, rounded by up to 1/512 of them, times values of up to 4
                        KvDtype::Int8 => 1.0 / 1024.0, // exponentials, to 1e-4 of them and 1/64516 of the largest of a tile
                    };
                    assert_close(&what, got.as_slice(), expected.as_slice(), bound);
                }
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_in_any_company() {
    const LEN: usize = 1200;
    for (heads, dtype) in [
        ((9, 3, 64, 64), KvDtype::Bf16),
        ((9, 3, 64, 64), KvDtype::Int8),
        ((3, 1, 5, 7), KvDtype::F32),
        ((3, 1, 5, 7), KvDtype::Int8),
    ] {
        let layout = layout(heads);
        let mut world = World::new(layout, &[LEN, 40, 700], 16, dtype);
        let plain = |window| spec(layout, true, window);
        for spec in [plain(None), plain(Some(300)), capped(plain(Some(300)))] {
            for isa in isas() {
                let cx = cx(isa, 3);
                let whole = world.step(Some(&cx), &spec, &[(0, 0..LEN)]);
                let mut compare =
                    |what: &str, cx: &Cx, rows: std::ops::Range<usize>, others: bool| {
                        let mut step = vec![(0, rows.clone())];
                        if others {
                            step.insert(0, (1, 39..40));
                            step.push((2, 600..700));
                        }
                        let out = world.step(Some(cx), &spec, &step);
                        let skip = usize::from(others);
                        for (i, r) in rows.enumerate() {
                            assert_bits(
                                &format!("{isa:?} {spec:?} {what} row {r}"),
                                out.row(skip + i),
                                whole.row(r),
                            );
                        }
                    };
                for r in [0, 63, 64, 511, 512, 513, 1100, LEN - 1] {
                    compare("alone", &cx, r..r + 1, false);
                    compare("in a batch", &cx, r..r + 1, true);
                }
                for chunk in [29, 64, 100, 777] {
                    for start in (0..LEN).step_by(chunk) {
                        compare("chunked", &cx, start..LEN.min(start + chunk), chunk == 100);
                    }
                }
                compare("one thread", &super::cx(isa, 1), 0..LEN, false);
                compare("many threads", &super::cx(isa, 9), LEN - 2..LEN, false);
            }
        }
    }
}

#[test]
fn a_freed_block_that_is_needed_is_noticed() {
    // The control for the tests above, in which freed blocks go unread.
    let layout = layout((1, 1, 8, 8));
    let mut world = World::new(layout, &[64], 16, KvDtype::F32);
    world.requests[0].table[1] = BlockTables::FREED;
    let spec = spec(layout, true, None);
    let run = AssertUnwindSafe(|| world.step(Some(&cx(Isa::Portable, 1)), &spec, &[(0, 63..64)]));
    assert!(catch_unwind(run).is_err());
}

#[test]
fn sequences_that_share_rows_are_refused() {
    let layout = layout((1, 1, 8, 8));
    let spec = spec(layout, false, None);
    let qkv = Random::new(3).rows(4, layout.qkv_width());
    for (cu, good) in [
        (&[0, 2, 4][..], true),
        (&[0, 0, 4], true),
        (&[1, 4], false),
        (&[0, 3, 2, 4], false),
        (&[0, 5, 4], false),
    ] {
        let run = || varlen(&cx(Isa::Portable, 2), &qkv, cu, &spec, &mut Rows::new());
        assert_eq!(catch_unwind(AssertUnwindSafe(run)).is_ok(), good, "{cu:?}");
        let mut kv = KvCache::new(
            &[CacheGroup {
                kind: GroupKind::Full(layout),
                layers: 1,
            }],
            4,
            16,
            KvDtype::F32,
        )
        .expect("memory");
        let mut tables = BlockTables::default();
        (1..cu.len()).for_each(|i| tables.push([i as u32 - 1]));
        let kv_lens = vec![4; cu.len() - 1];
        let meta = AttnMeta {
            cu_seqlens: cu,
            kv_lens: &kv_lens,
            tables: &tables,
        };
        let cx = cx(Isa::Portable, 2);
        let layer = kv.layer(0, 0);
        let run = || paged(&cx, &qkv, &layer, &meta, &spec, &mut Rows::new());
        assert_eq!(catch_unwind(AssertUnwindSafe(run)).is_ok(), good, "{cu:?}");
    }
}

#[test]
fn varlen_agrees_with_the_naive_body() {
    let cu = [0u32, 1, 1, 17, 81, 82, 250];
    for heads in LAYOUTS {
        let layout = layout(heads);
        let qkv = Random::new(31).rows(250, layout.qkv_width());
        for causal in [false, true] {
            for window in WINDOWS {
                let spec = spec(layout, causal, window);
                let mut expected = Rows::new();
                reference::varlen(&qkv, &cu, &spec, &mut expected);
                for isa in isas() {
                    let mut got = Rows::new();
                    varlen(&cx(isa, 3), &qkv, &cu, &spec, &mut got);
                    let what = format!("{isa:?} {heads:?} {causal} {window:?}");
                    assert_close(&what, got.as_slice(), expected.as_slice(), 1e-5);
                }
            }
        }
    }
}

/// Rounding to bf16 is all that halves may cost, and they are the same bits for a sequence alone.
#[test]
fn varlen_in_halves_agrees_with_the_naive_body_of_rounded_rows() {
    let cu = [0u32, 1, 1, 17, 81, 82, 250];
    for heads in LAYOUTS {
        let layout = layout(heads);
        let qkv = Random::new(31).rows(250, layout.qkv_width());
        let round = |v: &f32| half::bf16::from_f32(*v).to_f32();
        let rounded = qkv.as_slice().iter().map(round).collect();
        let rounded = Rows::from_vec(layout.qkv_width(), rounded);
        for (causal, window) in [(false, None), (false, Some(7)), (true, None)] {
            let exact = spec(layout, causal, window);
            let halves = AttnSpec {
                halves: true,
                ..exact
            };
            let (mut expected, mut got, mut other) = (Rows::new(), Rows::new(), Rows::new());
            for isa in isas() {
                varlen(&cx(isa, 3), &qkv, &cu, &halves, &mut got);
                varlen(&cx(isa, 2), &qkv, &cu, &exact, &mut other);
                let what = format!("{isa:?} {heads:?} {causal} {window:?}");
                if isa < Isa::Avx512 {
                    assert_bits(&what, got.as_slice(), other.as_slice());
                    continue;
                }
                assert_ne!(got.as_slice(), other.as_slice(), "{what}: not rounded");
                reference::varlen(&rounded, &cu, &exact, &mut expected);
                assert_close(&what, got.as_slice(), expected.as_slice(), 1.0 / 64.0);
                for bounds in cu.windows(2) {
                    let rows = bounds[0] as usize..bounds[1] as usize;
                    let values = rows.clone().flat_map(|r| qkv.row(r).to_vec()).collect();
                    let alone = Rows::from_vec(layout.qkv_width(), values);
                    let len = rows.len() as u32;
                    varlen(&cx(isa, 1), &alone, &[0, len], &halves, &mut other);
                    for (i, r) in rows.enumerate() {
                        assert_bits(&what, other.row(i), got.row(r));
                    }
                }
            }
        }
    }
}

#[test]
fn a_window_reaches_to_both_sides_across_splits() {
    let layout = layout((2, 1, 8, 8));
    let qkv = Random::new(5).rows(1100, layout.qkv_width());
    let cu = [0, 1100];
    let spec = spec(layout, false, Some(65));
    let mut expected = Rows::new();
    reference::varlen(&qkv, &cu, &spec, &mut expected);
    for isa in isas() {
        let run = |spec: &AttnSpec| {
            let mut got = Rows::new();
            varlen(&cx(isa, 3), &qkv, &cu, spec, &mut got);
            got
        };
        let what = format!("{isa:?}");
        assert_close(&what, run(&spec).as_slice(), expected.as_slice(), 1e-5);
        // The control: looking back only is something else.
        let back = run(&AttnSpec {
            causal: true,
            ..spec
        });
        let apart = |r: usize| (back.row(r)[0] - expected.row(r)[0]).abs();
        assert!(apart(600) > 1e-3 && apart(1099) < 1e-5, "{isa:?}");
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_any_company() {
    let layout = layout((4, 2, 20, 20));
    let cu = [0u32, 33, 40, 640];
    let qkv = Random::new(8).rows(640, layout.qkv_width());
    for (isa, window) in isas().flat_map(|i| [(i, None), (i, Some(65))]) {
        let spec = spec(layout, false, window);
        let mut whole = Rows::new();
        varlen(&cx(isa, 3), &qkv, &cu, &spec, &mut whole);
        for bounds in cu.windows(2) {
            let rows = bounds[0] as usize..bounds[1] as usize;
            let data = rows.clone().flat_map(|r| qkv.row(r).to_vec()).collect();
            let alone = Rows::from_vec(layout.qkv_width(), data);
            let mut out = Rows::new();
            varlen(
                &cx(isa, 1),
                &alone,
                &[0, rows.len() as u32],
                &spec,
                &mut out,
            );
            for (i, r) in rows.enumerate() {
                assert_bits(&format!("{isa:?} row {r}"), out.row(i), whole.row(r));
            }
        }
    }
}

#[test]
fn one_query_of_a_sequence_has_the_bits_that_it_has_among_all() {
    let layout = layout((4, 2, 20, 20));
    let cu = [0u32, 33, 40, 41, 1241];
    let qkv = Random::new(9).rows(1241, layout.qkv_width());
    let all = isas().flat_map(|i| [(i, None, false), (i, Some(65), false), (i, None, true)]);
    for (isa, window, halves) in all {
        let spec = AttnSpec {
            halves,
            ..spec(layout, false, window)
        };
        let (mut whole, mut some) = (Rows::new(), Rows::new());
        varlen(&cx(isa, 3), &qkv, &cu, &spec, &mut whole);
        for rows in [[0, 33, 40, 41], [32, 35, 40, 1240], [7, 39, 40, 600]] {
            for threads in [1, 3] {
                varlen_one(&cx(isa, threads), &qkv, (&cu, &rows), &spec, &mut some);
                assert_eq!((some.rows(), some.width()), (4, layout.out_width()));
                for (i, row) in rows.into_iter().enumerate() {
                    let what = format!("{isa:?} {window:?} {halves} row {row}");
                    assert_bits(&what, some.row(i), whole.row(row as usize));
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "varlen: queries")]
fn a_query_of_another_sequence_is_refused() {
    let layout = layout((2, 1, 8, 8));
    let qkv = Rows::from_vec(layout.qkv_width(), vec![0.0; 5 * layout.qkv_width()]);
    let (cx, spec) = (cx(Isa::Portable, 1), spec(layout, false, None));
    varlen_one(&cx, &qkv, (&[0, 3, 5], &[1, 2]), &spec, &mut Rows::new());
}

#[test]
fn scores_that_overflow_stay_in_their_row() {
    let layout = layout((2, 1, 16, 16));
    let spec = spec(layout, true, None);
    let clean = Random::new(12).rows(70, layout.qkv_width());
    for isa in isas() {
        let run = |qkv: &Rows| {
            let mut out = Rows::new();
            varlen(&cx(isa, 2), qkv, &[0, 70], &spec, &mut out);
            out
        };
        let expected = run(&clean);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut qkv = clean.clone();
            qkv.row_mut(66)[3] = bad; // in the query of head 0
            let got = run(&qkv);
            assert!(
                got.row(66)[..16].iter().all(|v| v.is_nan()),
                "{isa:?} {bad}"
            );
            for r in (0..70).filter(|r| *r != 66) {
                assert_bits("another row", got.row(r), expected.row(r));
            }
        }
        // Large but finite: the softmax must not overflow.
        let mut qkv = clean.clone();
        for v in qkv.as_mut_slice() {
            *v *= 1e4;
        }
        assert!(
            run(&qkv).as_slice().iter().all(|v| v.is_finite()),
            "{isa:?}"
        );
    }
}

#[test]
fn nothing_in_is_nothing_out() {
    let layout = layout((2, 1, 16, 16));
    let spec = spec(layout, true, None);
    let mut qkv = Rows::new();
    qkv.reset(0, layout.qkv_width());
    let mut out = Rows::new();
    varlen(&cx(Isa::detect(), 2), &qkv, &[0], &spec, &mut out);
    assert_eq!((out.rows(), out.width()), (0, 32));
    let mut world = World::new(layout, &[5], 16, KvDtype::F32);
    let out = world.step(Some(&cx(Isa::detect(), 2)), &spec, &[(0, 0..5), (0, 5..5)]);
    assert_eq!(out.rows(), 5);
}
