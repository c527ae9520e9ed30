//! The whole engine on the device, by the server's own bench: models of random values, written here, of the sizes of real ones.

use super::Line;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A tensor's name and shape.
type Tensor = (String, Vec<usize>);

/// Sizes of a model.
struct Sizes {
    layers: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    positions: usize,
}

const TINY: Sizes = Sizes {
    layers: 2,
    hidden: 64,
    inner: 96,
    heads: 4,
    kv_heads: 2,
    vocab: 320,
    positions: 128,
};
/// Llama 3.2 1B.
const LLAMA: Sizes = Sizes {
    layers: 16,
    hidden: 2048,
    inner: 8192,
    heads: 32,
    kv_heads: 8,
    vocab: 128_256,
    positions: 8192,
};
const DISTILBERT: Sizes = Sizes {
    layers: 6,
    hidden: 768,
    inner: 3072,
    heads: 12,
    kv_heads: 12,
    vocab: 30522,
    positions: 512,
};

impl Sizes {
    fn llama(&self) -> (Value, Vec<Tensor>) {
        let (h, kv) = (self.hidden, self.hidden / self.heads * self.kv_heads);
        let changes = json!({
            "hidden_size": h, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": h / self.heads, "vocab_size": self.vocab, "tie_word_embeddings": true,
            "max_position_embeddings": self.positions,
        });
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, h]),
            ("model.norm.weight".to_owned(), vec![h]),
        ];
        for i in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![h]),
                ("post_attention_layernorm", vec![h]),
                ("self_attn.q_proj", vec![h, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, h]),
                ("mlp.gate_proj", vec![self.inner, h]),
                ("mlp.up_proj", vec![self.inner, h]),
                ("mlp.down_proj", vec![h, self.inner]),
            ] {
                all.push((format!("model.layers.{i}.{name}.weight"), shape));
            }
        }
        (changes, all)
    }

    fn distilbert(&self) -> (Value, Vec<Tensor>) {
        let h = self.hidden;
        let changes = json!({
            "dim": h, "hidden_dim": self.inner, "n_layers": self.layers, "n_heads": self.heads,
            "vocab_size": self.vocab, "max_position_embeddings": self.positions,
        });
        let mut all = Vec::new();
        let mut with_bias = |name: String, shape: Vec<usize>| {
            all.push((format!("{name}.bias"), vec![shape[0]]));
            all.push((format!("{name}.weight"), shape));
        };
        with_bias("distilbert.embeddings.LayerNorm".to_owned(), vec![h]);
        with_bias("pre_classifier".to_owned(), vec![h, h]);
        for i in 0..self.layers {
            for (name, shape) in [
                ("attention.q_lin", vec![h, h]),
                ("attention.k_lin", vec![h, h]),
                ("attention.v_lin", vec![h, h]),
                ("attention.out_lin", vec![h, h]),
                ("sa_layer_norm", vec![h]),
                ("ffn.lin1", vec![self.inner, h]),
                ("ffn.lin2", vec![h, self.inner]),
                ("output_layer_norm", vec![h]),
            ] {
                with_bias(format!("distilbert.transformer.layer.{i}.{name}"), shape);
            }
        }
        for (name, rows) in [("word", self.vocab), ("position", self.positions)] {
            all.push((
                format!("distilbert.embeddings.{name}_embeddings.weight"),
                vec![rows, h],
            ));
        }
        (changes, all)
    }
}

/// A folder `to` like `from`, with these sizes and random values in bf16. Tensors that `from` alone has keep their shape.
fn model(
    from: &Path,
    to: &Path,
    (changes, mut tensors): (Value, Vec<Tensor>),
) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name != "model.safetensors" && name != "config.json" {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json"))?)?;
    for (field, value) in changes.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    std::fs::write(to.join("config.json"), config.to_string())?;
    if let Some(labels) = config["id2label"].as_object() {
        let hidden = changes["dim"].as_u64().unwrap_or_default() as usize;
        tensors.push(("classifier.weight".to_owned(), vec![labels.len(), hidden]));
        tensors.push(("classifier.bias".to_owned(), vec![labels.len()]));
    }
    let mut file = BufWriter::new(File::create(to.join("model.safetensors"))?);
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let header = Value::Object(header).to_string();
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // Small numbers of both signs, over and over: only sizes matter.
    let values = super::kernels::random(1, 1 << 16, 1);
    let bf16 = |v: &f32| ((v * 0.05).to_bits() >> 16) as u16;
    let bytes: Vec<u8> = values
        .as_slice()
        .iter()
        .flat_map(|v| bf16(v).to_le_bytes())
        .collect();
    while at > 0 {
        let some = at.min(bytes.len());
        file.write_all(&bytes[..some])?;
        at -= some;
    }
    Ok(file.flush()?)
}

/// What `koma bench latency` measured; the last lines of what it said, if it failed.
fn bench(folder: &Path, arguments: &[String]) -> Result<Value, Box<dyn Error>> {
    let done = Command::new(folder.join("koma"))
        .args([
            "bench", "latency", "--json", "-", "--runs", "3", "--warmup", "1",
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("koma bench {}: {said}", arguments.join(" ")).into());
    }
    Ok(serde_json::from_slice(&done.stdout)?)
}

fn median(result: &Value, what: &str) -> Result<f64, Box<dyn Error>> {
    let time = result["results"][what]["p50"].as_f64();
    Ok(time.ok_or_else(|| format!("koma bench does not say {what}"))?)
}

pub(super) fn measure(
    folder: &Path,
    device: usize,
    tiny: bool,
) -> Result<Vec<Line>, Box<dyn Error>> {
    let made = folder.join("made");
    let (llama, distilbert) = if tiny {
        (TINY, TINY)
    } else {
        (LLAMA, DISTILBERT)
    };
    let decoder = made.join("llama");
    model(&folder.join("models/llama/model"), &decoder, llama.llama())?;
    let encoder = made.join("distilbert");
    let like = folder.join("models/distilbert_classify/model");
    model(&like, &encoder, distilbert.distilbert())?;
    let run = |model: &Path, (batch, input, output): (usize, usize, usize), graphs: bool| {
        let mut arguments = vec![model.display().to_string()];
        let mut set = |name: &str, value: usize| {
            arguments.extend([format!("--{name}"), value.to_string()]);
        };
        set("batch", batch);
        set("input-len", input);
        if output > 0 {
            set("output-len", output);
        }
        arguments.extend(["--device".to_owned(), format!("cuda:{device}")]);
        if !graphs {
            arguments.extend(["--cuda-graphs".to_owned(), "off".to_owned()]);
        }
        bench(folder, &arguments)
    };
    let mut lines = Vec::new();
    let (batches, inputs, output): (&[usize], &[usize], usize) = if tiny {
        (&[1, 2], &[20], 4)
    } else {
        (&[1, 8, 32, 64, 128], &[512, 4096], 64)
    };
    for &input in inputs {
        for &batch in batches {
            let each = |graphs| {
                let result = run(&decoder, (batch, input, output), graphs)?;
                median(&result, "time_per_output_token")
            };
            let (each, one_by_one) = (each(true)?, each(false)?);
            lines.push(Line {
                what: format!("decode, {batch} requests of {input} tokens"),
                right: None,
                figures: vec![
                    ("tokens_per_s", batch as f64 / each),
                    ("ms_per_token", each * 1e3),
                    ("ms_per_token_without_graphs", one_by_one * 1e3),
                ],
            });
        }
    }
    let prompt = if tiny { 60 } else { 2048 };
    let first = median(&run(&decoder, (1, prompt, 1), true)?, "time_to_first_token")?;
    lines.push(Line {
        what: format!("prompt of {prompt} tokens"),
        right: None,
        figures: vec![("tokens_per_s", prompt as f64 / first), ("ms", first * 1e3)],
    });
    let (texts, len) = if tiny { (2, 20) } else { (64, 128) };
    let whole = median(&run(&encoder, (texts, len, 0), true)?, "batch")?;
    lines.push(Line {
        what: format!("{texts} texts of {len} tokens, DistilBERT"),
        right: None,
        figures: vec![("texts_per_s", texts as f64 / whole)],
    });
    std::fs::remove_dir_all(made)?;
    Ok(lines)
}
