//! How fast the kernels are, at the shapes of the models that matter: `cargo bench -p koma-benches --bench kernels`.
//! Items are multiply-adds counted as two operations; bytes are weights or cache read. All cores work.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use koma_benches::{Llama, Random, cx, paged_batch};
use koma_kernels::{
    AttnSpec, Class, Epilogue, Format, HeadLayout, Isa, PackedWeight, Routing, Rows, Team, Then,
    combine, layer_norm, linear, linear_by_expert, paged, rms_norm, rms_norm_add, rms_norm_heads,
    route, soft_cap, spread, varlen,
};

fn main() {
    divan::main();
}

/// What a region costs that does nothing.
#[divan::bench(args = [1, 2, 16])]
fn empty_region(bencher: Bencher<'_, '_>, chunks: usize) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let team = Team::new(threads);
    bencher.bench_local(|| {
        team.run(Class::Throughput, chunks, &|chunk| {
            black_box(chunk);
        });
    });
}

/// A matrix of a model: name, outputs, inputs, what follows.
#[derive(Debug, Clone, Copy)]
struct Shape(&'static str, usize, usize, Then);

const SHAPES: [Shape; 6] = [
    Shape("smollm2 qkv", 960, 576, Then::Store),
    Shape("smollm2 gate, up", 3072, 576, Then::SiluMul),
    Shape("smollm2 down", 576, 1536, Then::Add),
    Shape("smollm2 head", 49_152, 576, Then::Store),
    Shape("minilm up", 1536, 384, Then::GeluErf),
    Shape("square 2048", 2048, 2048, Then::Store),
];

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}x{}", self.0, self.1, self.2)
    }
}

fn product(bencher: Bencher<'_, '_>, isa: Isa, format: Format, rows: usize, shape: Shape) {
    let Shape(_, n, k, then) = shape;
    let mut random = Random::new(1);
    let weight = random.weight(n, k, format);
    let x = random.rows(rows, k);
    let mut out = Rows::new();
    out.reset(rows, n);
    out.as_mut_slice().fill(0.0);
    let cx = cx(isa);
    bencher
        .counter(BytesCount::new(weight.bytes()))
        .counter(ItemsCount::new(2 * n * k * rows))
        .bench_local(|| linear(&cx, &x, &weight, Epilogue::then(then), &mut out));
}

macro_rules! products {
    ($($name:ident = $format:ident),*) => {$(
        #[divan::bench(args = SHAPES, consts = [1, 16, 512], max_time = 0.5)]
        fn $name<const ROWS: usize>(bencher: Bencher<'_, '_>, shape: Shape) {
            product(bencher, Isa::detect(), Format::$format, ROWS, shape);
        }
    )*};
}

products!(
    linear_q4_1 = Q4_1,
    linear_q4_0 = Q4_0,
    linear_q8_0 = Q8_0,
    linear_bf16 = Bf16,
    linear_f32 = F32
);

/// The same product in every format.
#[divan::bench(args = Format::ALL, consts = [1, 16, 512], max_time = 0.5)]
fn formats<const ROWS: usize>(bencher: Bencher<'_, '_>, format: Format) {
    product(bencher, Isa::detect(), format, ROWS, SHAPES[5]);
}

/// The same product on every path.
#[divan::bench(args = [Isa::Portable, Isa::Avx2, Isa::Avx512], consts = [1, 64], max_time = 0.5)]
fn paths_q4_1<const ROWS: usize>(bencher: Bencher<'_, '_>, isa: Isa) {
    product(bencher, isa, Format::Q4_1, ROWS, SHAPES[1]);
}

#[divan::bench(args = [Isa::Portable, Isa::Avx2, Isa::Avx512], consts = [1, 64], max_time = 0.5)]
fn paths_q4_k<const ROWS: usize>(bencher: Bencher<'_, '_>, isa: Isa) {
    product(bencher, isa, Format::Q4K, ROWS, SHAPES[5]);
}

#[divan::bench(args = [Isa::Portable, Isa::Avx2, Isa::Avx512], consts = [1, 64], max_time = 0.5)]
fn paths_f32<const ROWS: usize>(bencher: Bencher<'_, '_>, isa: Isa) {
    product(bencher, isa, Format::F32, ROWS, SHAPES[4]);
}

/// A layer of experts: name, experts, experts of a token, hidden, inner.
#[derive(Debug, Clone, Copy)]
struct Experts(&'static str, usize, usize, usize, usize);

const EXPERTS: [Experts; 2] = [
    Experts("8 experts", 8, 2, 1024, 2048),
    Experts("qwen3-30b-a3b", 128, 8, 2048, 768),
];

impl std::fmt::Display for Experts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A whole layer of experts: picks, products, and their sum; random picks.
#[divan::bench(args = EXPERTS, consts = [1, 16, 512], max_time = 0.5)]
fn experts_q4_1<const ROWS: usize>(bencher: Bencher<'_, '_>, shape: Experts) {
    let Experts(_, experts, top_k, hidden, inner) = shape;
    let mut random = Random::new(1);
    let mut all = |rows, cols| -> Vec<_> {
        let each = (0..experts).map(|_| random.weight(rows, cols, Format::Q4_1));
        each.collect()
    };
    let (gate_up, down) = (all(2 * inner, hidden), all(hidden, inner));
    let (x, logits) = (random.rows(ROWS, hidden), random.rows(ROWS, experts));
    let (cx, mut routing, mut out) = (cx(Isa::detect()), Routing::default(), x.clone());
    let [mut picks, mut sorted, mut side, mut answers] = std::array::from_fn(|_| Rows::new());
    bencher
        .counter(ItemsCount::new(2 * 3 * hidden * inner * top_k * ROWS))
        .bench_local(|| {
            picks.clone_from(&logits);
            route(&cx, &mut picks, top_k, true, &mut routing);
            spread(&cx, &x, &routing, &mut sorted);
            linear_by_expert(&cx, &sorted, &routing, &gate_up, Then::SiluMul, &mut side);
            linear_by_expert(&cx, &side, &routing, &down, Then::Store, &mut answers);
            combine(&cx, &answers, &routing, &mut out);
        });
}

const SMOLLM2: HeadLayout = HeadLayout {
    q_heads: 9,
    kv_heads: 3,
    k_dim: 64,
    v_dim: 64,
};

/// Attention of `rows` new tokens each of `requests` requests with `context` tokens.
#[divan::bench(args = [(1, 1, 128), (1, 1, 2048), (1, 1, 16_384), (16, 1, 512), (1, 512, 512), (1, 512, 2048)], max_time = 0.5)]
fn paged_attention(bencher: Bencher<'_, '_>, (requests, rows, context): (usize, usize, usize)) {
    let batch = paged_batch(SMOLLM2, requests, rows, context);
    let (cx, mut out) = (cx(Isa::detect()), Rows::new());
    let mut kv = batch.kv;
    let spec = AttnSpec {
        layout: SMOLLM2,
        scale: 0.125,
        causal: true,
        window: None,
        cap: None,
    };
    // Scores and values, half of the square of a prompt.
    let pairs = requests * rows * (context - rows / 2);
    bencher
        .counter(ItemsCount::new(pairs * SMOLLM2.q_heads * 2 * 128))
        .counter(BytesCount::new(
            requests * context * SMOLLM2.kv_heads * 128 * 2,
        ))
        .bench_local(|| {
            let meta = koma_kernels::AttnMeta {
                cu_seqlens: &batch.cu_seqlens,
                kv_lens: &batch.kv_lens,
                tables: &batch.tables,
            };
            paged(&cx, &batch.qkv, &kv.layer(0, 0), &meta, &spec, &mut out);
        });
}

/// Gemma 2 of 2 billion parameters: 8 heads of 256, 4 of them for keys; with its soft cap and without.
#[divan::bench(args = [(1, 2048, true), (1, 2048, false), (512, 512, true), (512, 512, false)], max_time = 0.5)]
fn gemma2_attention(bencher: Bencher<'_, '_>, (rows, context, capped): (usize, usize, bool)) {
    let layout = HeadLayout {
        q_heads: 8,
        kv_heads: 4,
        k_dim: 256,
        v_dim: 256,
    };
    let batch = paged_batch(layout, 1, rows, context);
    let (cx, mut out) = (cx(Isa::detect()), Rows::new());
    let mut kv = batch.kv;
    let spec = AttnSpec {
        layout,
        scale: 0.0625,
        causal: true,
        window: None,
        cap: capped.then_some(50.0),
    };
    let meta = koma_kernels::AttnMeta {
        cu_seqlens: &batch.cu_seqlens,
        kv_lens: &batch.kv_lens,
        tables: &batch.tables,
    };
    bencher.bench_local(|| paged(&cx, &batch.qkv, &kv.layer(0, 0), &meta, &spec, &mut out));
}

/// Attention of `MiniLM`: sequences and their length.
#[divan::bench(args = [(1, 20), (32, 128), (4, 512)], max_time = 0.5)]
fn varlen_attention(bencher: Bencher<'_, '_>, (sequences, len): (usize, usize)) {
    let layout = HeadLayout {
        q_heads: 12,
        kv_heads: 12,
        k_dim: 32,
        v_dim: 32,
    };
    let qkv = Random::new(2).rows(sequences * len, layout.qkv_width());
    let cu: Vec<u32> = (0..=sequences).map(|i| (i * len) as u32).collect();
    let (cx, mut out) = (cx(Isa::detect()), Rows::new());
    let spec = AttnSpec {
        layout,
        scale: 0.177,
        causal: false,
        window: None,
        cap: None,
    };
    bencher
        .counter(ItemsCount::new(
            sequences * len * len * layout.q_heads * 2 * 64,
        ))
        .bench_local(|| varlen(&cx, &qkv, &cu, &spec, &mut out));
}

#[divan::bench(args = [1, 512])]
fn rms_norm_576(bencher: Bencher<'_, '_>, rows: usize) {
    let x = Random::new(3).rows(rows, 576);
    let (cx, mut out) = (cx(Isa::detect()), Rows::new());
    bencher.bench_local(|| rms_norm(&cx, &x, &[1.0; 576], 1e-5, &mut out));
}

#[divan::bench(args = [1, 512])]
fn rms_norm_add_2304(bencher: Bencher<'_, '_>, rows: usize) {
    let x = Random::new(3).rows(rows, 2304);
    let (cx, mut out) = (cx(Isa::detect()), x.clone());
    bencher.bench_local(|| rms_norm_add(&cx, &x, &[1.0; 2304], 1e-6, &mut out));
}

/// The heads of Qwen3 of 0.6 billion parameters.
#[divan::bench(args = [1, 512])]
fn rms_norm_heads_qwen3(bencher: Bencher<'_, '_>, rows: usize) {
    let layout = HeadLayout {
        q_heads: 16,
        kv_heads: 8,
        k_dim: 128,
        v_dim: 128,
    };
    let mut qkv = Random::new(3).rows(rows, layout.qkv_width());
    let (cx, norm) = (cx(Isa::detect()), [1.0; 128]);
    bencher.bench_local(|| rms_norm_heads(&cx, &mut qkv, &layout, (&norm, &norm), 1e-6));
}

/// Logits of Gemma 2.
#[divan::bench(args = [1, 16])]
fn soft_cap_256k(bencher: Bencher<'_, '_>, rows: usize) {
    let mut logits = Random::new(3).rows(rows, 256_000);
    let cx = cx(Isa::detect());
    bencher.bench_local(|| soft_cap(&cx, &mut logits, 30.0));
}

#[divan::bench(args = [1, 512])]
fn layer_norm_384(bencher: Bencher<'_, '_>, rows: usize) {
    let mut x = Random::new(4).rows(rows, 384);
    let cx = cx(Isa::detect());
    bencher.bench_local(|| layer_norm(&cx, &mut x, &[1.0; 384], &[0.0; 384], 1e-5));
}

/// A whole step of a model shaped like `SmolLM2-135M`: (new tokens, context). Items are tokens.
#[divan::bench(args = [(1, 128), (1, 2048), (512, 512)], max_time = 3)]
fn smollm2_q4_1_step(bencher: Bencher<'_, '_>, (rows, context): (usize, usize)) {
    step(bencher, Format::Q4_1, rows, context);
}

#[divan::bench(args = [(1, 128), (512, 512)], max_time = 3)]
fn smollm2_bf16_step(bencher: Bencher<'_, '_>, (rows, context): (usize, usize)) {
    step(bencher, Format::Bf16, rows, context);
}

fn step(bencher: Bencher<'_, '_>, format: Format, rows: usize, context: usize) {
    let mut model = Llama::smollm2(format, rows, context);
    bencher
        .counter(ItemsCount::new(rows))
        .bench_local(|| model.step());
}

/// Packing a file's bytes into the kernel's layout.
#[divan::bench(args = [Format::Q4_1, Format::Q8_0, Format::Q4K, Format::Q6K, Format::F32], max_time = 1)]
fn pack(bencher: Bencher<'_, '_>, format: Format) {
    let bytes = Random::new(5).bytes(4096, 2048, format);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| PackedWeight::from_bytes(4096, 2048, format, &bytes));
}
