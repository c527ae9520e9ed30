//! A step that has been seen before allocates nothing, on any thread.

use koma_kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Class, Cx, Epilogue, Format, GroupKind,
    HeadLayout, Isa, KvCache, KvDtype, PackedWeight, RopeTable, Routing, Rows, Team, Then, combine,
    embed, layer_norm, linear, linear_by_expert, paged, rms_norm, rope, rope_angles, route, spread,
    varlen, write_kv,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZero;
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

fn weight(rows: usize, cols: usize, format: Format) -> PackedWeight {
    let bytes = vec![0; rows * cols / format.block_len() * format.block_bytes()];
    PackedWeight::from_bytes(rows, cols, format, &bytes).expect("a weight of zeros")
}

/// A layer of three experts, and its buffers.
struct Experts {
    gate_up: [PackedWeight; 3],
    down: [PackedWeight; 3],
    routing: Routing,
    /// Logits, inputs sorted by expert, inside, answers.
    buffers: [Rows; 4],
}

impl Default for Experts {
    fn default() -> Self {
        Self {
            gate_up: std::array::from_fn(|_| weight(128, 96, Format::Q4_1)),
            down: std::array::from_fn(|_| weight(96, 64, Format::Q4_1)),
            routing: Routing::default(),
            buffers: std::array::from_fn(|_| Rows::new()),
        }
    }
}

impl Experts {
    /// Adds the layer to `x`; token `t` goes to expert `t % 3` and the next one.
    fn run(&mut self, cx: &Cx, x: &mut Rows) {
        let [logits, sorted, inner, answers] = &mut self.buffers;
        logits.reset(x.rows(), 3);
        for t in 0..x.rows() {
            for (e, logit) in logits.row_mut(t).iter_mut().enumerate() {
                *logit = -(((e + 3 - t % 3) % 3) as f32);
            }
        }
        route(cx, logits, 2, true, &mut self.routing);
        let routing = &self.routing;
        spread(cx, x, routing, sorted);
        linear_by_expert(cx, sorted, routing, &self.gate_up, Then::SiluMul, inner);
        linear_by_expert(cx, inner, routing, &self.down, Then::Store, answers);
        combine(cx, answers, routing, Then::Add, x);
    }
}

#[test]
fn a_step_seen_before_allocates_nothing() {
    // A team wakes no more threads than there are cores, and below all of them must meet.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let team = Arc::new(Team::new(cores.min(3)));
    let cx = Cx::new(team, Class::Throughput, Isa::detect());
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
    let mut experts = Experts::default();
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
        cap: None,
        halves: false,
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
        let mut layer = kv.layer(0, 0);
        write_kv(&cx, &qkv, &mut layer, &slots[..tokens]);
        let meta = AttnMeta {
            cu_seqlens: &[0, tokens as u32],
            kv_lens: &[CONTEXT as u32],
            tables: &tables,
        };
        paged(&cx, &qkv, &layer, &meta, &spec, &mut mixed);
        varlen(&cx, &qkv, &[0, tokens as u32], &spec, &mut mixed);
        rms_norm(&cx, &mixed, &norm, 1e-5, &mut inner);
        linear(&cx, &x, &gate_up, Epilogue::then(Then::SiluMul), &mut inner);
        linear(&cx, &x, &odd, Epilogue::then(Then::SiluMul), &mut inner);
        experts.run(&cx, &mut x);
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
