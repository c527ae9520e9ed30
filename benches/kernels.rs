//! How fast the kernels are, at the shapes of the models that matter: `cargo bench -p koma-benches --bench kernels`.
//!
//! Each line: the time of a call on all cores, the bytes it has to move and its operations, and what part that is of what
//! this machine gave for them at the start of the same run. A kernel is near one of the two, or wastes time.

use koma_benches::{Llama, Meter, PagedBatch, Random, Work, cx, paged_batch};
use koma_kernels::{
    AttnMeta, AttnSpec, Cx, Epilogue, Format, HeadLayout, Isa, KvDtype, PackedWeight, Probe,
    RopeTable, Routing, Rows, Then, combine, layer_norm, linear, linear_by_expert, paged, rms_norm,
    rms_norm_add, rms_norm_heads, rope, rope_angles, route, soft_cap, spread, varlen,
};

/// Weights and caches of a case are taken in turns from this many bytes, so that they come from memory.
const TURNS: usize = 192 << 20;
const F32: usize = size_of::<f32>();

const SMOLLM2: HeadLayout = HeadLayout {
    q_heads: 9,
    kv_heads: 3,
    k_dim: 64,
    v_dim: 64,
};

fn main() {
    let mut meter = Meter::new();
    products(&mut meter);
    encoder_products(&mut meter);
    paths(&mut meter);
    experts(&mut meter);
    attention(&mut meter);
    gemma2_attention(&mut meter);
    encoder_attention(&mut meter);
    rows(&mut meter);
    steps(&mut meter);
    pack(&mut meter);
}

/// A matrix of a model: name, outputs, inputs, what follows.
#[derive(Debug, Clone, Copy)]
struct Shape(&'static str, usize, usize, Then);

/// Every one suits super-blocks of 256, so that all formats have the same lines.
const SHAPES: [Shape; 3] = [
    Shape("smollm2 gate, up", 3072, 576, Then::SiluMul),
    Shape("smollm2 down", 576, 1536, Then::Add),
    Shape("square", 2048, 2048, Then::Store),
];
const FORMATS: [Format; 8] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q4K,
    Format::Q5_0,
    Format::Q6K,
    Format::Q8_0,
    Format::Bf16,
    Format::F32,
];
const ROWS: [usize; 5] = [1, 4, 16, 32, 512];

/// What multiplies weights of this format.
fn unit(format: Format) -> Probe {
    match format {
        Format::F32 => Probe::F32,
        Format::Bf16 | Format::F16 => Probe::Bf16,
        _ => Probe::Int8,
    }
}

fn products(meter: &mut Meter) {
    for format in FORMATS {
        for shape in SHAPES {
            let Shape(name, n, k, _) = shape;
            if k % format.block_len() != 0 {
                continue;
            }
            let names =
                ROWS.map(|rows| format!("linear {} {name} {n}x{k}, {rows} rows", format.name()));
            if names.iter().any(|name| meter.wants(name)) {
                let weights = weights(meter, n, k, format);
                for (name, rows) in names.iter().zip(ROWS) {
                    product(meter, name, Isa::detect(), (&weights, shape.3), rows);
                }
            }
        }
    }
    let head = "linear Q8_0 smollm2 head 49152x576";
    for rows in [1, 16] {
        let name = format!("{head}, {rows} rows");
        if meter.wants(&name) {
            let weights = weights(meter, 49_152, 576, Format::Q8_0);
            product(meter, &name, Isa::detect(), (&weights, Then::Store), rows);
        }
    }
}

/// Matrices of MiniLM-L6 and `DistilBERT`-base.
const ENCODERS: [Shape; 5] = [
    Shape("minilm q, k, v", 1152, 384, Then::Store),
    Shape("minilm up", 1536, 384, Then::GeluErf),
    Shape("minilm down", 384, 1536, Then::Add),
    Shape("distilbert up", 3072, 768, Then::GeluErf),
    Shape("distilbert down", 768, 3072, Then::Add),
];

/// Products of encoders: a text of 20 tokens, a part of a batch, a batch of 32 x 32.
fn encoder_products(meter: &mut Meter) {
    for format in [Format::Bf16, Format::Int8] {
        for Shape(name, n, k, then) in ENCODERS {
            for rows in [20, 96, 1024] {
                let name = format!("linear {} {name} {n}x{k}, {rows} rows", format.name());
                if meter.wants(&name) {
                    // One of it: a model's few layers stay in the caches.
                    let weights = [Random::new(1).weight(n, k, format)];
                    product(meter, &name, Isa::detect(), (&weights, then), rows);
                }
            }
        }
    }
}

/// The same product on every path.
fn paths(meter: &mut Meter) {
    for format in [
        Format::Q4_1,
        Format::Q4K,
        Format::F32,
        Format::Bf16,
        Format::Int8,
    ] {
        for isa in Isa::here() {
            for rows in [1, 64] {
                let name = format!(
                    "path {} {} square 2048x2048, {rows} rows",
                    isa.name(),
                    format.name()
                );
                if meter.wants(&name) {
                    let weights = weights(meter, 2048, 2048, format);
                    product(meter, &name, isa, (&weights, Then::Store), rows);
                }
            }
        }
    }
}

/// The same matrix as often as it takes to be read from memory each time.
fn weights(meter: &Meter, n: usize, k: usize, format: Format) -> Vec<PackedWeight> {
    let one = || Random::new(1).weight(n, k, format);
    let first = one();
    let copies = if meter.measures() {
        TURNS / first.bytes()
    } else {
        0
    };
    std::iter::once(first)
        .chain((0..copies).map(|_| one()))
        .collect()
}

fn product(
    meter: &mut Meter,
    name: &str,
    isa: Isa,
    (weights, then): (&[PackedWeight], Then),
    rows: usize,
) {
    let (n, k) = (weights[0].rows(), weights[0].cols());
    let x = Random::new(2).rows(rows, k);
    let mut out = Rows::new();
    out.reset(rows, n);
    out.as_mut_slice().fill(0.0);
    let width = if then.is_gated() { n / 2 } else { n };
    let work = Work {
        bytes: weights[0].bytes() + rows * (k + width) * F32,
        operations: 2 * n * k * rows,
        unit: unit(weights[0].format()),
    };
    let cx = cx(isa);
    let mut turns = weights.iter().cycle();
    meter.line(name, work, || {
        if let Some(weight) = turns.next() {
            linear(&cx, &x, weight, Epilogue::then(then), &mut out);
        }
    });
}

/// A layer of experts: name, experts, experts of a token, hidden, inner.
const EXPERTS: [(&str, usize, usize, usize, usize); 2] = [
    ("8 experts", 8, 2, 1024, 2048),
    ("qwen3-30b-a3b", 128, 8, 2048, 768),
];

/// A whole layer of experts: picks, products, and their sum; random picks.
fn experts(meter: &mut Meter) {
    for (name, experts, top_k, hidden, inner) in EXPERTS {
        for rows in [1, 16, 512] {
            let name = format!("experts Q4_1 {name}, {rows} rows");
            if !meter.wants(&name) {
                continue;
            }
            let mut random = Random::new(1);
            let mut all = |rows, cols| -> Vec<_> {
                let each = (0..experts).map(|_| random.weight(rows, cols, Format::Q4_1));
                each.collect()
            };
            let (gate_up, down) = (all(2 * inner, hidden), all(hidden, inner));
            let (x, logits) = (random.rows(rows, hidden), random.rows(rows, experts));
            let (cx, mut routing, mut out) = (cx(Isa::detect()), Routing::default(), x.clone());
            let [mut picks, mut sorted, mut side, mut answers] =
                std::array::from_fn(|_| Rows::new());
            let used = experts.min(rows * top_k);
            let work = Work {
                bytes: used * (gate_up[0].bytes() + down[0].bytes()),
                operations: 2 * 3 * hidden * inner * top_k * rows,
                unit: Probe::Int8,
            };
            meter.line(&name, work, || {
                picks.clone_from(&logits);
                route(&cx, &mut picks, top_k, true, &mut routing);
                spread(&cx, &x, &routing, &mut sorted);
                linear_by_expert(&cx, &sorted, &routing, &gate_up, Then::SiluMul, &mut side);
                linear_by_expert(&cx, &side, &routing, &down, Then::Store, &mut answers);
                combine(&cx, &answers, &routing, Then::Add, &mut out);
            });
        }
    }
}

/// Attention of `rows` new tokens of each request, which has `context` tokens in all: requests, rows, context.
const ATTENTION: [(usize, usize, usize); 7] = [
    (1, 1, 128),
    (1, 1, 2048),
    (1, 1, 16_384),
    (16, 1, 128),
    (16, 1, 2048),
    (1, 512, 512),
    (1, 512, 2048),
];

fn attention(meter: &mut Meter) {
    let spec = causal(SMOLLM2, None);
    for (dtype, cache) in [(KvDtype::Bf16, ""), (KvDtype::Int8, " int8 cache")] {
        for shape in ATTENTION {
            let (requests, rows, context) = shape;
            let name = format!("attention smollm2{cache}, {requests} x {rows} of {context}");
            paged_line(meter, &name, (shape, dtype), &spec);
        }
    }
}

/// Gemma 2 of 2 billion parameters, with its soft cap and without.
fn gemma2_attention(meter: &mut Meter) {
    let layout = HeadLayout {
        q_heads: 8,
        kv_heads: 4,
        k_dim: 256,
        v_dim: 256,
    };
    for (rows, context) in [(1, 2048), (512, 512)] {
        for cap in [None, Some(50.0)] {
            let capped = cap.map_or("", |_| ", capped");
            let name = format!("attention gemma2, 1 x {rows} of {context}{capped}");
            let shape = (1, rows, context);
            paged_line(meter, &name, (shape, KvDtype::Bf16), &causal(layout, cap));
        }
    }
}

fn causal(layout: HeadLayout, cap: Option<f32>) -> AttnSpec {
    AttnSpec {
        layout,
        scale: (layout.k_dim as f32).sqrt().recip(),
        causal: true,
        window: None,
        cap,
        halves: false,
    }
}

fn paged_line(
    meter: &mut Meter,
    name: &str,
    (shape, dtype): ((usize, usize, usize), KvDtype),
    spec: &AttnSpec,
) {
    if !meter.wants(name) {
        return;
    }
    let (requests, rows, context) = shape;
    let layout = spec.layout;
    let token = (layout.k_dim + layout.v_dim) * dtype.bytes() + dtype.scale_bytes();
    let read = requests * context * layout.kv_heads * token;
    // A model has a cache for each of its layers.
    let layers = if meter.measures() {
        (TURNS / read).clamp(1, 30)
    } else {
        1
    };
    let PagedBatch {
        mut kv,
        qkv,
        cu_seqlens,
        kv_lens,
        tables,
    } = paged_batch(layout, (layers, dtype), shape);
    // Of a prompt's square, the half that is seen.
    let pairs = requests * rows * (2 * context - rows + 1) / 2;
    let work = Work {
        bytes: read + qkv.rows() * (layout.qkv_width() + layout.out_width()) * F32,
        operations: 2 * pairs * layout.q_heads * (layout.k_dim + layout.v_dim),
        // (Queries and weights beside an int8 cache are two int8 each: of the limit of int8 at most half can be had.)
        unit: match dtype {
            KvDtype::Int8 => Probe::Int8,
            _ => Probe::Bf16,
        },
    };
    let meta = AttnMeta {
        cu_seqlens: &cu_seqlens,
        kv_lens: &kv_lens,
        tables: &tables,
    };
    let (cx, mut out, mut layer) = (cx(Isa::detect()), Rows::new(), 0);
    meter.line(name, work, || {
        layer = (layer + 1) % layers;
        paged(&cx, &qkv, &kv.layer(0, layer), &meta, spec, &mut out);
    });
}

/// Attention of `MiniLM`: sequences and their length.
fn encoder_attention(meter: &mut Meter) {
    let layout = HeadLayout {
        q_heads: 12,
        kv_heads: 12,
        k_dim: 32,
        v_dim: 32,
    };
    for (sequences, len) in [(1, 20), (32, 128), (4, 512)] {
        let name = format!("attention minilm, {sequences} x {len}");
        let qkv = Random::new(2).rows(sequences * len, layout.qkv_width());
        let cu: Vec<u32> = (0..=sequences).map(|i| (i * len) as u32).collect();
        let (cx, mut out) = (cx(Isa::detect()), Rows::new());
        let spec = AttnSpec {
            causal: false,
            ..causal(layout, None)
        };
        let work = Work {
            bytes: qkv.rows() * (layout.qkv_width() + layout.out_width()) * F32,
            operations: 2 * sequences * len * len * layout.q_heads * 64,
            unit: Probe::F32,
        };
        meter.line(&name, work, || varlen(&cx, &qkv, &cu, &spec, &mut out));
    }
}

/// Operations on rows of activations. Where rows are many, they are cut over the team.
fn rows(meter: &mut Meter) {
    let qwen3 = HeadLayout {
        q_heads: 16,
        kv_heads: 8,
        k_dim: 128,
        v_dim: 128,
    };
    let table = RopeTable {
        inv_freq: (0..32).map(|i| 1e5f32.powf(-(i as f32) / 32.0)).collect(),
        scale: 1.0,
        interleaved: false,
    };
    let ones = [1.0; 2304];
    let zeros = [0.0; 384];
    let narrow = PackedWeight::from_bytes(
        32,
        576,
        Format::Q4_0,
        &Random::new(1).bytes(32, 576, Format::Q4_0),
    );
    let narrow = narrow.expect("a shape of the format");
    for count in [1, 512] {
        let mut out = Rows::new();
        let mut angles = Rows::new();
        let positions: Vec<u32> = (0..count as u32).collect();
        rope_angles(&cx(Isa::detect()), &positions, &table, &mut angles);
        let residual = Random::new(5).rows(count, 2304);
        let mut norm = |cx: &Cx, x: &mut Rows| rms_norm(cx, x, &ones[..576], 1e-5, &mut out);
        row_wise(meter, count, "rms_norm smollm2", 576, (2, 4), &mut norm);
        let mut norm = |cx: &Cx, x: &mut Rows| rms_norm_add(cx, &residual, &ones, 1e-6, x);
        row_wise(meter, count, "rms_norm_add gemma2", 2304, (3, 5), &mut norm);
        let mut norm = |cx: &Cx, x: &mut Rows| {
            rms_norm_heads(cx, x, &qwen3, (&ones[..128], &ones[..128]), 1e-6);
        };
        row_wise(
            meter,
            count,
            "rms_norm_heads qwen3",
            qwen3.qkv_width(),
            (2, 4),
            &mut norm,
        );
        let mut norm = |cx: &Cx, x: &mut Rows| layer_norm(cx, x, &ones[..384], &zeros, 1e-5);
        row_wise(meter, count, "layer_norm minilm", 384, (2, 7), &mut norm);
        let mut turn = |cx: &Cx, x: &mut Rows| rope(cx, x, &SMOLLM2, &angles, false);
        row_wise(
            meter,
            count,
            "rope smollm2",
            SMOLLM2.qkv_width(),
            (2, 3),
            &mut turn,
        );
        let mut small = Rows::new();
        let mut codes =
            |cx: &Cx, x: &mut Rows| linear(cx, x, &narrow, Epilogue::default(), &mut small);
        row_wise(
            meter,
            count,
            "quantize smollm2 (and 32 outputs)",
            576,
            (1, 4),
            &mut codes,
        );
    }
    for count in [1, 16] {
        let mut cap = |cx: &Cx, x: &mut Rows| soft_cap(cx, x, 30.0);
        row_wise(meter, count, "soft_cap gemma2", 256_000, (2, 12), &mut cap);
    }
}

/// An operation on `count` rows of `width`: values read and written for each value, and operations on it.
fn row_wise(
    meter: &mut Meter,
    count: usize,
    name: &str,
    width: usize,
    (traffic, operations): (usize, usize),
    run: &mut dyn FnMut(&Cx, &mut Rows),
) {
    let name = format!("{name} {width}, {count} rows");
    if !meter.wants(&name) {
        return;
    }
    let mut x = Random::new(3).rows(count, width);
    let cx = cx(Isa::detect());
    let work = Work {
        bytes: traffic * count * width * F32,
        operations: operations * count * width,
        unit: Probe::F32,
    };
    meter.line(&name, work, || run(&cx, &mut x));
}

/// Whole steps of a model shaped like `SmolLM2-135M`: requests, new tokens of each, context.
const STEPS: [(Format, usize, usize, usize); 6] = [
    (Format::Q4_0, 1, 1, 128),
    (Format::Q4_0, 1, 1, 2048),
    (Format::Q4_0, 16, 1, 128),
    (Format::Q4_0, 1, 512, 512),
    (Format::Bf16, 1, 1, 128),
    (Format::Bf16, 1, 512, 512),
];

fn steps(meter: &mut Meter) {
    for (format, requests, rows, context) in STEPS {
        let name = format!(
            "step smollm2 {}, {requests} x {rows} of {context}",
            format.name()
        );
        if meter.wants(&name) {
            let mut model = Llama::smollm2(format, (requests, rows, context));
            let work = model.work();
            meter.line(&name, work, || model.step());
        }
    }
}

/// Packing a file's bytes into the kernel's layout.
fn pack(meter: &mut Meter) {
    for format in [
        Format::Q4_1,
        Format::Q8_0,
        Format::Q4K,
        Format::Q6K,
        Format::F32,
    ] {
        let name = format!("pack {} 4096x2048", format.name());
        if meter.wants(&name) {
            let bytes = Random::new(5).bytes(4096, 2048, format);
            let work = Work {
                bytes: 2 * bytes.len(),
                operations: 0,
                unit: Probe::F32,
            };
            meter.line(&name, work, || {
                let packed = PackedWeight::from_bytes(4096, 2048, format, &bytes);
                std::hint::black_box(packed).expect("a shape of the format");
            });
        }
    }
}
