//! Steps: what is asked for goes to the device at once, as a graph if it came before; and streams wait for each other.

use super::*;
use crate::cuda::Submitted;
use crate::{
    BlockTables, CacheGroup, Epilogue, GroupKind, HeadLayout, KvCache, KvDtype, Then, embed,
    gather_rows, linear, paged, rms_norm, rope_angles, write_kv,
};

const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 4,
    kv_heads: 1,
    k_dim: 8,
    v_dim: 8,
};
const WIDTH: usize = 16;

/// A layer of a decoder, small.
struct Model {
    table: PackedWeight,
    qkv: PackedWeight,
    out: PackedWeight,
    norm: Vec<f32>,
    rope: crate::RopeTable,
}

impl Model {
    fn new() -> Self {
        let mut random = Random::new(11);
        Self {
            table: random.weight(50, WIDTH, Format::F32),
            qkv: random.weight(LAYOUT.qkv_width(), WIDTH, Format::F32),
            out: random.weight(50, LAYOUT.out_width(), Format::Q8_0),
            norm: random.values(WIDTH),
            rope: crate::RopeTable {
                inv_freq: vec![1.0, 0.5, 0.25, 0.125],
                scale: 1.0,
                interleaved: false,
            },
        }
    }

    /// The same values in f32, which the processor multiplies as they are.
    fn exact() -> Self {
        let mut model = Self::new();
        let (rows, cols) = (model.out.rows(), model.out.cols());
        let mut values = vec![0.0; rows * cols];
        for (row, values) in values.chunks_exact_mut(cols).enumerate() {
            model.out.dequantize_row(row, values);
        }
        let out = PackedWeight::from_f32(rows, cols, Format::F32, &values);
        model.out = out.expect("a weight");
        model
    }

    /// Token `ids[i]` of request `i`, which has `lens[i]` before it, in blocks of its own; gives the logits.
    fn step(&self, cx: &Cx, cache: &mut KvCache, ids: &[u32], lens: &[u32]) -> Rows {
        cx.begin();
        let (mut x, mut normed) = (Rows::new(), Rows::new());
        embed(cx, ids, &self.table, &mut x);
        rms_norm(cx, &x, &self.norm, 1e-5, &mut normed);
        let mut qkv = Rows::new();
        linear(cx, &normed, &self.qkv, Epilogue::default(), &mut qkv);
        let mut angles = Rows::new();
        rope_angles(cx, lens, &self.rope, &mut angles);
        crate::rope(cx, &mut qkv, &LAYOUT, &angles, false);
        let mut tables = BlockTables::default();
        let (mut slots, mut kv_lens) = (Vec::new(), Vec::new());
        for (i, len) in lens.iter().enumerate() {
            let first = 20 * i as u32;
            tables.push((0..=len / 16).map(|block| first + block));
            slots.push((first + len / 16) * 16 + len % 16);
            kv_lens.push(len + 1);
        }
        write_kv(cx, &qkv, &mut cache.layer(0, 0), &slots);
        let cu_seqlens: Vec<u32> = (0..=ids.len() as u32).collect();
        let meta = crate::AttnMeta {
            cu_seqlens: &cu_seqlens,
            kv_lens: &kv_lens,
            tables: &tables,
        };
        let spec = super::super::attention::spec(LAYOUT, true, None);
        let mut attended = Rows::new();
        paged(cx, &qkv, &cache.layer(0, 0), &meta, &spec, &mut attended);
        let (mut logits, mut picked) = (Rows::new(), Rows::new());
        let then = Epilogue::then(Then::Tanh);
        linear(cx, &attended, &self.out, then, &mut logits);
        let all: Vec<u32> = (0..ids.len() as u32).rev().collect();
        gather_rows(cx, &logits, &all, &mut picked);
        // Read here, so that the next step does not.
        Rows::from_vec(picked.width(), picked.as_slice().to_vec())
    }
}

/// The logits of `count` steps of two requests, which differ in everything but their sizes.
fn run(cx: &Cx, count: u32) -> Vec<Rows> {
    // Weights go to one device: each run has its own.
    let model = if cx.is_on_device() {
        Model::new()
    } else {
        Model::exact()
    };
    let mut cache = cache_on(cx);
    let step = |n: u32| {
        let (ids, lens) = ([n % 50, (7 * n + 3) % 50], [n, n + 2]);
        model.step(cx, &mut cache, &ids, &lens)
    };
    (0..count).map(step).collect()
}

fn cache_on(cx: &Cx) -> KvCache {
    let kind = GroupKind::Full(LAYOUT);
    let group = CacheGroup { kind, layers: 1 };
    KvCache::on(cx, &[group], 64, 16, KvDtype::F32).expect("a cache")
}

#[track_caller]
fn same(what: &str, got: &[Rows], expected: &[Rows]) {
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let what = format!("{what}: step {i}");
        assert_bits(&what, got.as_slice(), expected.as_slice());
    }
}

#[test]
fn a_step_that_comes_again_is_replayed() {
    let plain = World::new();
    let expected = run(&World::new().cx.with_graphs(false), 20);
    let got = run(&plain.cx, 20);
    same("replayed", &got, &expected);
    let Submitted {
        one_by_one,
        captured,
        replayed,
    } = plain.cx.submitted();
    // Weights go there first; a table gets a place of another size when a second and a third block come.
    assert!(replayed >= 10, "{one_by_one} {captured} {replayed}");
    assert!((1..=4).contains(&captured), "{captured}");
    assert!(plain.device.count("cuGraphLaunch") >= 11);
    plain.good();
    // The numbers are right, not only the same.
    let mut cpu = run(&cx(Isa::Portable, 1), 20);
    for (got, expected) in got.iter().zip(&mut cpu) {
        assert_close("cpu", got.as_slice(), expected.as_slice(), 1e-4);
    }
    // Each step is another one.
    assert!(far(expected[3].as_slice(), expected[4].as_slice()) > 10);
}

#[test]
fn a_step_of_another_shape_is_not_replayed() {
    let (model, world) = (Model::new(), World::new());
    let mut cache = cache_on(&world.cx);
    for n in 0..5 {
        model.step(&world.cx, &mut cache, &[1, 2], &[n, n]);
    }
    let before = world.cx.submitted();
    assert!(before.replayed > 0);
    let three = model.step(&world.cx, &mut cache, &[1, 2, 3], &[9, 9, 9]);
    assert_eq!(world.cx.submitted().replayed, before.replayed);
    assert_eq!((three.rows(), three.width()), (3, 50));
    world.good();
}

/// Whichever stream is late or early, a step reads its own arrays. The control: streams that do not wait for each other.
#[test]
fn streams_wait_for_each_other() {
    let expected = run(&World::new().cx, 12);
    for hurry in 0..4 {
        for graphs in [true, false] {
            let world = World::with(&[("hurry", hurry)]);
            let cx = cx(Isa::Portable, 1).on(&world.gpu).expect("a stream");
            let got = run(&cx.with_graphs(graphs), 12);
            same(&format!("hurry {hurry}, graphs {graphs}"), &got, &expected);
        }
    }
    // Of numbers that nothing is looked up by.
    let angles = |cx: &Cx| {
        let table = Model::new().rope;
        let step = |n: u32| {
            cx.begin();
            let mut angles = Rows::new();
            rope_angles(cx, &[n, n + 1], &table, &mut angles);
            angles.as_slice().to_vec()
        };
        (0..4).flat_map(step).collect::<Vec<_>>()
    };
    let (good, deaf) = (World::new(), World::with(&[("deaf", 1)]));
    assert!(far(&angles(&deaf.cx), &angles(&good.cx)) > 8);
}

/// Where nothing can be captured, steps go on one by one; and nothing is left behind.
#[test]
fn a_capture_that_fails_costs_nothing_but_time() {
    let expected = run(&World::new().cx, 8);
    let world = World::with(&[("fail_capture", 1)]);
    let got = run(&world.cx, 8);
    same("without a graph", &got, &expected);
    let submitted = world.cx.submitted();
    assert_eq!((submitted.captured, submitted.replayed), (0, 0));
    world.good();
    let World { device, gpu, cx } = world;
    drop((cx, gpu));
    for what in ["graphs", "streams", "events", "pinned"] {
        assert_eq!(device.count(what), 0, "{what}");
    }
    let world = World::new();
    run(&world.cx, 8);
    assert!(world.device.count("graphs") > 0);
    let World { device, gpu, cx } = world;
    drop((cx, gpu));
    assert_eq!(device.count("graphs"), 0, "graphs go with their stream");
}

/// Arrays that have no room among those of a step have memory of their own; who never begins a step never runs out of room.
#[test]
fn large_arrays_and_endless_steps_find_room() {
    let world = World::new();
    let from = Random::new(3).rows(1 << 18, 1);
    // 6 MiB of rows to take, where a step's arrays have 4; and then many small ones.
    let large: Vec<u32> = (0..3 << 19).map(|i| (i * 7) % (1 << 18)).collect();
    let (mut got, mut small) = (Rows::new(), Rows::new());
    world.cx.begin();
    gather_rows(&world.cx, &from, &[5, 9], &mut small);
    gather_rows(&world.cx, &from, &large, &mut got);
    for i in [0, 1, 1 << 19, (3 << 19) - 1] {
        assert_eq!(got.row(i), from.row(large[i] as usize), "{i}");
    }
    assert_eq!(small.row(1), from.row(9));
    let before = world.gpu.memory().0;
    for n in 0..40u32 {
        // 256 KiB each.
        let rows: Vec<u32> = (0..1 << 16).map(|i| (i + n) % (1 << 18)).collect();
        gather_rows(&world.cx, &from, &rows, &mut small);
        assert_eq!(small.row(3), from.row(rows[3] as usize), "{n}");
    }
    world.good();
    assert!(
        world.gpu.memory().0 <= before + (2 << 20),
        "room is found again"
    );
}
