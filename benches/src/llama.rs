//! A Llama-shaped step out of kernels, with random weights: what a model costs without the layers above.

use crate::{Random, Work, cx};
use koma_kernels::{
    AttnMeta, AttnSpec, BlockTables, CacheGroup, Cx, Epilogue, Format, GroupKind, HeadLayout, Isa,
    KvCache, KvDtype, PackedWeight, Probe, RopeTable, Rows, Then, embed, linear, paged, rms_norm,
    rope, rope_angles, write_kv,
};

const BLOCK: usize = 16;

/// Requests with a cache full of tokens.
#[derive(Debug)]
pub struct PagedBatch {
    /// The cache, one group.
    pub kv: KvCache,
    /// `[requests * rows, width]`
    pub qkv: Rows,
    /// `[requests + 1]`
    pub cu_seqlens: Vec<u32>,
    /// `[requests]`
    pub kv_lens: Vec<u32>,
    /// Their blocks, in scattered order.
    pub tables: BlockTables,
}

/// `requests` requests, each with `rows` new tokens and `context` tokens in all, in `layers` layers of one group, whose cache
/// holds numbers of a type.
///
/// # Panics
/// If there is no memory for it.
pub fn paged_batch(
    layout: HeadLayout,
    (layers, dtype): (usize, KvDtype),
    (requests, rows, context): (usize, usize, usize),
) -> PagedBatch {
    let blocks = requests * context.div_ceil(BLOCK);
    let group = CacheGroup {
        kind: GroupKind::Full(layout),
        layers,
    };
    let mut kv = KvCache::new(&[group], blocks, BLOCK, dtype).expect("memory for a bench");
    let width = layout.qkv_width();
    let all: Vec<u32> = (0..(blocks * BLOCK) as u32).collect();
    let tokens = Random::new(6).rows(all.len(), width);
    let cx = cx(Isa::detect());
    for layer in 0..layers {
        write_kv(&cx, &tokens, &mut kv.layer(0, layer), &all);
    }
    let mut tables = BlockTables::default();
    let each = context.div_ceil(BLOCK) as u32;
    for i in 0..requests as u32 {
        tables.push((0..each).map(|b| (b * requests as u32 + i) % blocks as u32));
    }
    PagedBatch {
        kv,
        qkv: Random::new(7).rows(requests * rows, width),
        cu_seqlens: (0..=requests).map(|i| (i * rows) as u32).collect(),
        kv_lens: vec![context as u32; requests],
        tables,
    }
}

#[derive(Debug)]
struct Layer {
    qkv: PackedWeight,
    output: PackedWeight,
    gate_up: PackedWeight,
    down: PackedWeight,
}

/// A decoder and one step of it.
#[derive(Debug)]
pub struct Llama {
    cx: Cx,
    layout: HeadLayout,
    layers: Vec<Layer>,
    embedding: PackedWeight,
    norm: Vec<f32>,
    rope: RopeTable,
    batch: PagedBatch,
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    buffers: [Rows; 6],
}

impl Llama {
    /// SmolLM2-135M's shapes; a step of `requests` requests, each with `rows` tokens at the end of a context of `context`.
    /// Embedding and head are one matrix, in `Q8_0` beside 4-bit weights as in the GGUF files.
    pub fn smollm2(format: Format, (requests, rows, context): (usize, usize, usize)) -> Self {
        let layout = HeadLayout {
            q_heads: 9,
            kv_heads: 3,
            k_dim: 64,
            v_dim: 64,
        };
        let (hidden, inner, vocabulary, layers) = (576, 1536, 49_152, 30);
        let mut random = Random::new(8);
        let head = match format {
            Format::Q4_0 | Format::Q4_1 => Format::Q8_0,
            other => other,
        };
        let layer = |random: &mut Random| Layer {
            qkv: random.weight(layout.qkv_width(), hidden, format),
            output: random.weight(hidden, layout.out_width(), format),
            gate_up: random.weight(2 * inner, hidden, format),
            down: random.weight(hidden, inner, format),
        };
        let batch = paged_batch(layout, (layers, KvDtype::Bf16), (requests, rows, context));
        let last = context - rows..context;
        let places: Vec<(usize, usize)> = (0..requests)
            .flat_map(|request| last.clone().map(move |position| (request, position)))
            .collect();
        let slot = |&(request, position): &(usize, usize)| {
            let block = batch.tables.table(request)[position / BLOCK];
            block * BLOCK as u32 + (position % BLOCK) as u32
        };
        Self {
            cx: cx(Isa::detect()),
            layout,
            layers: (0..layers).map(|_| layer(&mut random)).collect(),
            embedding: random.weight(vocabulary, hidden, head),
            norm: vec![1.0; hidden],
            rope: RopeTable {
                inv_freq: (0..32)
                    .map(|i| 1e5f32.powf(-f64::from(i) as f32 / 32.0))
                    .collect(),
                scale: 1.0,
                interleaved: false,
            },
            ids: (0..places.len() as u32)
                .map(|i| i * 97 % vocabulary as u32)
                .collect(),
            positions: places.iter().map(|place| place.1 as u32).collect(),
            slots: places.iter().map(slot).collect(),
            batch,
            buffers: Default::default(),
        }
    }

    /// What a step does: weights and cache read once, products and attention. Activations stay in caches and are not counted.
    pub fn work(&self) -> Work {
        let layers = self.layers.iter();
        let weights = |layer: &Layer| {
            let all = [&layer.qkv, &layer.output, &layer.gate_up, &layer.down];
            all.iter().fold((0, 0), |sum, weight| {
                (
                    sum.0 + weight.bytes(),
                    sum.1 + weight.rows() * weight.cols(),
                )
            })
        };
        let (bytes, values) = layers
            .map(weights)
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let (head, layout) = (&self.embedding, self.layout);
        let width = layout.k_dim + layout.v_dim;
        let requests = self.batch.kv_lens.len();
        let rows = self.ids.len() / requests;
        let context = self.batch.kv_lens[0] as usize;
        let cached = requests * context * layout.kv_heads * width;
        let pairs = self.ids.len() * (2 * context - rows + 1) / 2 * layout.q_heads * width;
        Work {
            bytes: bytes + head.bytes() + self.layers.len() * cached * 2,
            operations: 2
                * (values * self.ids.len()
                    + head.rows() * head.cols() * requests
                    + self.layers.len() * pairs),
            unit: match head.format() {
                Format::Bf16 => Probe::Bf16,
                _ => Probe::Int8,
            },
        }
    }

    /// One forward step with logits of each request's last row.
    pub fn step(&mut self) {
        let cx = &self.cx;
        let [x, normed, qkv, mixed, inner, angles] = &mut self.buffers;
        embed(cx, &self.ids, &self.embedding, x);
        rope_angles(cx, &self.positions, &self.rope, angles);
        let spec = AttnSpec {
            layout: self.layout,
            scale: 0.125,
            causal: true,
            window: None,
            cap: None,
            halves: false,
        };
        for (i, layer) in self.layers.iter().enumerate() {
            rms_norm(cx, x, &self.norm, 1e-5, normed);
            linear(cx, normed, &layer.qkv, Epilogue::default(), qkv);
            rope(cx, qkv, &self.layout, angles, false);
            let mut kv = self.batch.kv.layer(0, i);
            write_kv(cx, qkv, &mut kv, &self.slots);
            let meta = AttnMeta {
                cu_seqlens: &self.batch.cu_seqlens,
                kv_lens: &self.batch.kv_lens,
                tables: &self.batch.tables,
            };
            paged(cx, qkv, &kv, &meta, &spec, mixed);
            linear(cx, mixed, &layer.output, Epilogue::then(Then::Add), x);
            rms_norm(cx, x, &self.norm, 1e-5, normed);
            linear(
                cx,
                normed,
                &layer.gate_up,
                Epilogue::then(Then::SiluMul),
                inner,
            );
            linear(cx, inner, &layer.down, Epilogue::then(Then::Add), x);
        }
        let ends = &self.batch.cu_seqlens[1..];
        normed.reset(ends.len(), x.width());
        for (row, &end) in ends.iter().enumerate() {
            normed.row_mut(row).copy_from_slice(x.row(end as usize - 1));
        }
        linear(cx, normed, &self.embedding, Epilogue::default(), qkv);
    }
}
