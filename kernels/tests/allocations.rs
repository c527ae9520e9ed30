//! A step that has been seen before allocates nothing, on any thread.

use koma_kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Class, Cx, Epilogue, Format, GroupKind,
    HeadLayout, Isa, KvCache, KvDtype, PackedWeight, RopeTable, Rows, Team, Then, embed,
    layer_norm, linear, paged, rms_norm, rope, rope_angles, varlen, write_kv,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 4,
    kv_heads: 2,
    k_dim: 24,
    v_dim: 24,
};
const CONTEXT: usize = 1300;

#[test]
fn a_step_seen_before_allocates_nothing() {
    let cx = Cx::new(Arc::new(Team::new(3)), Class::Throughput, Isa::detect());
    let weight = |rows, cols, format: Format| {
        let bytes = vec![0; rows * cols / format.block_len() * format.block_bytes()];
        PackedWeight::from_bytes(rows, cols, format, &bytes).expect("a weight of zeros")
    };
    let width = LAYOUT.qkv_width();
    let formats = [
        Format::F32,
        Format::Bf16,
        Format::F16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
    ];
    let into: Vec<_> = formats.iter().map(|f| weight(width, 96, *f)).collect();
    let (gate_up, odd) = (weight(128, 96, Format::Q4_1), weight(60, 96, Format::F32));
    let group = CacheGroup {
        kind: GroupKind::Full(LAYOUT),
        layers: 1,
    };
    let blocks = CONTEXT.div_ceil(16);
    let mut kv = KvCache::new(&[group], blocks, 16, KvDtype::Bf16).expect("a small cache");
    let mut tables = BlockTables::default();
    tables.push(0..blocks as u32);
    let spec = AttnSpec {
        layout: LAYOUT,
        scale: 0.2,
        causal: true,
        window: None,
    };
    let table = RopeTable {
        inv_freq: vec![0.1; 12],
        scale: 1.0,
        interleaved: false,
    };
    let (norm, zeros) = (vec![1.0; 96], vec![0.0; 96]);
    let [mut x, mut qkv, mut mixed, mut angles, mut inner] =
        [const { Vec::new() }; 5].map(|v| Rows::from_vec(1, v));
    let mut step = |tokens: usize| {
        let ids: [u32; 70] = std::array::from_fn(|i| i as u32 % 60);
        let slots: [u32; 70] = std::array::from_fn(|i| (CONTEXT - tokens + i) as u32);
        embed(&cx, &ids[..tokens], &odd, &mut x);
        layer_norm(&cx, &mut x, &norm, &zeros, 1e-5);
        for into in &into {
            linear(&cx, &x, into, Epilogue::default(), &mut qkv);
        }
        rope_angles(&cx, &slots[..tokens], &table, &mut angles);
        rope(&cx, &mut qkv, &LAYOUT, &angles, false);
        let layer = kv.layer(0, 0);
        write_kv(&cx, &qkv, layer, &slots[..tokens]);
        let meta = AttnMeta {
            cu_seqlens: &[0, tokens as u32],
            kv_lens: &[CONTEXT as u32],
            tables: &tables,
        };
        paged(&cx, &qkv, layer, &meta, &spec, &mut mixed);
        varlen(&cx, &qkv, &[0, tokens as u32], &spec, &mut mixed);
        rms_norm(&cx, &mixed, &norm, 1e-5, &mut inner);
        linear(&cx, &x, &gate_up, Epilogue::then(Then::SiluMul), &mut inner);
        linear(&cx, &x, &odd, Epilogue::then(Then::SiluMul), &mut inner);
    };
    // A thread allocates while it starts, and may start late on a busy machine: nobody leaves before all are there.
    let all = Barrier::new(cx.team().threads());
    cx.run(cx.team().threads(), &|_| {
        all.wait();
    });
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    step(70);
    step(1);
    // The control: the first steps do allocate, and are counted.
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > before);
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    for i in 0..40 {
        step([1, 70, 2, 30][i % 4]);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0);
}
