//! Small models with exact arithmetic, for tests of whatever lies above a model: no weights, no files.
//!
//! Owns: a decoder whose next token is a function of the whole prefix *as read back* through block tables and state slots
//! of three cache groups (full, sliding, recurrent), and an encoder. Must not know: requests, scheduling.
//!
//! Invariant: every value it stores is a small whole number, so that bf16 and f32 caches hold it exactly; a token that is
//! read from a wrong slot, or too late, or not at all, changes all that follows.

use koma_models::kernels::recurrent::{MIXED, mix, mix_states};
use koma_models::kernels::{
    CacheGroup, Cx, Error, Fault, GroupKind, HeadLayout, KvCache, KvLayer, Rows, write_kv,
};
use koma_models::{
    Batch, ChatAssets, Decoder, Device, Encoder, Head, HeadKind, Identity, Limits, Loaded, Model,
    Tokenizer, Workspace,
};
use std::fmt::Write;
use std::sync::Arc;

/// Ids of the toys: the 256 bytes, then these.
pub const BOS: u32 = 256;
/// Ends a generation.
pub const EOS: u32 = 257;
/// Number of ids.
pub const VOCAB: usize = 258;
/// Tokens of a request, unless changed in [`Loaded::limits`].
pub const MAX_LEN: usize = 512;
/// What the sliding layer sees.
pub const WINDOW: usize = 6;

/// Called at the start of each forward: a test can look, wait, fail the step or panic.
pub type Hook = Arc<dyn Fn(&Batch) -> Result<(), Error> + Send + Sync>;

/// A decoder that writes small letters and spaces, and ends now and then.
pub fn decoder() -> Loaded {
    decoder_with(Arc::new(|_| Ok(())))
}

/// The same with a hook.
pub fn decoder_with(hook: Hook) -> Loaded {
    loaded(Model::Decoder(Box::new(ToyDecoder { hook, slip: 0 })), None)
}

/// A classifier with the labels `buy`, `return` and `other`.
pub fn encoder() -> Loaded {
    let labels = ["buy", "return", "other"].map(str::to_owned).to_vec();
    let head = Head::labelled(HeadKind::SingleLabel, labels);
    encoder_with(head, Arc::new(|_| Ok(())))
}

/// An encoder with this head.
pub fn encoder_with(head: Head, hook: Hook) -> Loaded {
    let encoder = ToyEncoder {
        hook,
        width: head.width,
        per_token: head.is_per_token(),
    };
    loaded(Model::Encoder(Box::new(encoder)), Some(head))
}

fn loaded(model: Model, head: Option<Head>) -> Loaded {
    let generates = head.is_none();
    Loaded {
        model,
        tokenizer: Arc::new(tokenizer()),
        identity: Identity {
            name: "toy".to_owned(),
            architecture: if generates {
                "ToyForCausalLM"
            } else {
                "ToyModel"
            }
            .to_owned(),
            format: "F32".to_owned(),
            parameters: 0,
            weights_hash: "0".repeat(64),
        },
        limits: Limits {
            max_len: MAX_LEN,
            vocab: VOCAB,
        },
        chat: if generates {
            chat()
        } else {
            ChatAssets::default()
        },
        head,
        weight_bytes: 0,
        device: Device::Cpu,
    }
}

fn chat() -> ChatAssets {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";
    ChatAssets {
        template: Some(template.to_owned()),
        bos_token: "<|bos|>".to_owned(),
        eos_token: "<|eos|>".to_owned(),
        eos_ids: vec![EOS],
    }
}

/// Each byte is a token, and its value is the id.
fn tokenizer() -> Tokenizer {
    let mut vocab = String::new();
    let mut spare = 256;
    for byte in 0..=255u8 {
        // GPT-2's printable stand-ins for bytes.
        let shown = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                spare += 1;
                char::from_u32(spare - 1).unwrap_or_default()
            }
        };
        let key = serde_json::Value::from(shown.to_string());
        // Writing to a string cannot fail.
        let _ = write!(vocab, "{key}:{byte},");
    }
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[
            {{"id":{BOS},"content":"<|bos|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}},
            {{"id":{EOS},"content":"<|eos|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}],
        "normalizer":null,
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}},
        "post_processor":null,
        "decoder":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}},
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
            "fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
            "vocab":{{{vocab}"<|bos|>":{BOS},"<|eos|>":{EOS}}},"merges":[]}}}}"#
    );
    Tokenizer::from_json(json.as_bytes()).expect("the toy tokenizer is well-formed")
}

/// The decoder. Layer by layer, each reads what the one before left:
/// full attention stores the token and mixes all tokens so far; sliding attention stores that mixture and mixes the last
/// [`WINDOW`]; the recurrent layer adds that to its state, which gives the logits.
pub(crate) struct ToyDecoder {
    hook: Hook,
    /// Keys of the full layer go to `slot ^ slip`: anything but 0 is a bug that tests must notice.
    pub(crate) slip: u32,
}

/// One key-value head with two values each.
const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 1,
    kv_heads: 1,
    k_dim: 2,
    v_dim: 2,
};

impl ToyDecoder {
    /// Without a hook; `slip`: see there.
    #[cfg(test)]
    pub(crate) fn slipping(slip: u32) -> Self {
        Self {
            hook: Arc::new(|_| Ok(())),
            slip,
        }
    }
}

impl Decoder for ToyDecoder {
    fn cache_groups(&self) -> Vec<CacheGroup> {
        let layers = 1;
        let kinds = [
            GroupKind::Full(LAYOUT),
            GroupKind::Sliding {
                layout: LAYOUT,
                window: WINDOW,
            },
            GroupKind::Recurrent { values: MIXED },
        ];
        kinds
            .map(|kind| CacheGroup { kind, layers })
            .into_iter()
            .collect()
    }

    fn forward(
        &self,
        cx: &Cx,
        batch: &Batch,
        cache: &mut KvCache,
        work: &mut Workspace,
    ) -> Result<(), Error> {
        (self.hook)(batch)?;
        let block_size = cache.layer(0, 0).block_size();
        let tokens = batch.tokens();
        work.qkv.reset(tokens, LAYOUT.qkv_width());
        for (r, &id) in batch.ids.iter().enumerate() {
            fill(work.qkv.row_mut(r), id, batch.positions[r]);
        }
        let slots = &batch.groups[0].slot_mapping;
        if self.slip == 0 {
            write_kv(cx, &work.qkv, &mut cache.layer(0, 0), slots);
        } else {
            let slipped: Vec<u32> = slots.iter().map(|slot| slot ^ self.slip).collect();
            write_kv(cx, &work.qkv, &mut cache.layer(0, 0), &slipped);
        }
        let whole = usize::MAX;
        let seen = Seen::new(batch, 0, whole, block_size);
        seen.mix_all(&cache.layer(0, 0), &mut work.hidden)?;
        for r in 0..tokens {
            fill(
                work.qkv.row_mut(r),
                work.hidden.row(r)[0] as u32,
                batch.positions[r],
            );
        }
        write_kv(
            cx,
            &work.qkv,
            &mut cache.layer(1, 0),
            &batch.groups[1].slot_mapping,
        );
        let seen = Seen::new(batch, 1, WINDOW, block_size);
        seen.mix_all(&cache.layer(1, 0), &mut work.normed)?;
        mix_states(
            cx,
            &mut work.normed,
            &batch.cu_seqlens,
            &batch.groups[2].states,
            &mut cache.states(2, 0),
        );
        work.output.reset(batch.logit_rows.len(), VOCAB);
        for (i, &row) in batch.logit_rows.iter().enumerate() {
            logits(
                work.normed.row(row as usize)[0] as u64,
                work.output.row_mut(i),
            );
        }
        Ok(())
    }
}

/// Key and value of a layer: `what` (below 4096) and the position, in digits that bf16 holds exactly.
fn fill(row: &mut [f32], what: u32, position: u32) {
    row.fill(0.0);
    let digits = [what / 64, what % 64, position / 64 % 64, position % 64];
    for (cell, digit) in row[2..].iter_mut().zip(digits) {
        *cell = digit as f32;
    }
}

/// What the queries of one attention group see.
struct Seen<'a> {
    batch: &'a Batch,
    group: usize,
    window: usize,
    block_size: usize,
}

impl<'a> Seen<'a> {
    fn new(batch: &'a Batch, group: usize, window: usize, block_size: usize) -> Self {
        Self {
            batch,
            group,
            window,
            block_size,
        }
    }

    /// For each token, the mixture of what the layer stores of it and those before it, as read through the block table.
    fn mix_all(&self, layer: &KvLayer<'_>, out: &mut Rows) -> Result<(), Error> {
        out.reset(self.batch.tokens(), 1);
        for i in 0..self.batch.requests() {
            let (start, end) = bounds(self.batch, i);
            let table = self.batch.groups[self.group].tables.table(i);
            for r in start..end {
                let last = self.batch.kv_lens[i] as usize - (end - r);
                let first = (last + 1).saturating_sub(self.window);
                let mut mixture = 0;
                for at in first..=last {
                    let block = table[at / self.block_size];
                    if block == koma_models::kernels::BlockTables::FREED {
                        let text = format!("position {at} is freed, but still seen");
                        return Err(Error::Device(Fault::Other, text));
                    }
                    let slot = block as usize * self.block_size + at % self.block_size;
                    let (mut k, mut v) = ([0.0; 2], [0.0; 2]);
                    layer.read_key(slot, 0, &mut k);
                    layer.read_value(slot, 0, &mut v);
                    for digit in [k[0], k[1], v[0], v[1]] {
                        mixture = mix(mixture, digit as u64);
                    }
                }
                out.row_mut(r)[0] = (mixture % 4096) as f32;
            }
        }
        Ok(())
    }
}

fn bounds(batch: &Batch, request: usize) -> (usize, usize) {
    (
        batch.cu_seqlens[request] as usize,
        batch.cu_seqlens[request + 1] as usize,
    )
}

/// Letters, space and the end id compete; all other ids are far behind.
fn logits(state: u64, row: &mut [f32]) {
    row.fill(-30.0);
    let ids = (b'a'..=b'z').map(u32::from).chain([u32::from(b' '), EOS]);
    for id in ids {
        row[id as usize] = (mix(state, u64::from(id)) % 2000) as f32 / 250.0;
    }
}

/// The logits after `tokens`, computed from the tokens alone: no cache, no batch.
#[cfg(test)]
pub(crate) fn logits_after(tokens: &[u32]) -> Vec<f32> {
    let layer = |inputs: &[u64], window: usize| -> Vec<u64> {
        let mix_of = |last: usize| {
            let mut mixture = 0;
            let first = (last + 1).saturating_sub(window);
            for (&what, at) in inputs[first..=last].iter().zip(first as u64..) {
                for digit in [what / 64, what % 64, at / 64 % 64, at % 64] {
                    mixture = mix(mixture, digit);
                }
            }
            mixture % 4096
        };
        (0..inputs.len()).map(mix_of).collect()
    };
    let ids: Vec<u64> = tokens.iter().map(|&id| u64::from(id)).collect();
    let rows = layer(&layer(&ids, usize::MAX), WINDOW);
    let mut state = 0;
    for (count, row) in rows.into_iter().enumerate() {
        state = mix(mix(state, count as u64), row) % 65_536;
    }
    let mut row = vec![0.0; VOCAB];
    logits(state, &mut row);
    row
}

struct ToyEncoder {
    hook: Hook,
    width: usize,
    per_token: bool,
}

impl Encoder for ToyEncoder {
    fn forward(&self, _cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error> {
        (self.hook)(batch)?;
        let rows = if self.per_token {
            batch.tokens()
        } else {
            batch.requests()
        };
        work.output.reset(rows, self.width);
        let fill = |row: &mut [f32], mixture: u64| {
            for (at, value) in row.iter_mut().enumerate() {
                *value = (mix(mixture, at as u64) % 2001) as f32 / 500.0 - 2.0;
            }
        };
        for i in 0..batch.requests() {
            let (start, end) = bounds(batch, i);
            let skip = batch.skips.get(i).copied().unwrap_or(0);
            let mut mixture = u64::from(skip);
            for r in start..end {
                mixture = mix(mixture, u64::from(batch.ids[r]));
                mixture = mix(mixture, u64::from(batch.positions[r]));
                let segment = batch.type_ids.get(r).copied().unwrap_or(0);
                mixture = mix(mixture, u64::from(segment));
                if self.per_token {
                    fill(work.output.row_mut(r), mixture);
                }
            }
            if !self.per_token {
                fill(work.output.row_mut(i), mixture);
            }
        }
        Ok(())
    }
}
