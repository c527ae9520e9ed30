//! BERT beside candle-transformers' BERT: a second reference, in the same language, on the same checkpoint.

use crate::{Batch, Dtype, LoadOptions, Model, Source, Workspace, load};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use koma_kernels::{Class, Cx, Isa, Team};
use std::path::Path;
use std::sync::Arc;

#[test]
fn the_last_hidden_states_equal_candles() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bert_embed_cls/model");
    let ids = [2u32, 286, 40, 41, 42, 3, 17, 18, 3];
    let types = [0u32, 0, 0, 0, 0, 0, 1, 1, 1];

    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Config = serde_json::from_str(&config).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    let tensor = |v: &[u32]| Tensor::new(v, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let reference = BertModel::load(tensors, &config).unwrap();
    let reference = reference
        .forward(&tensor(&ids), &tensor(&types), None)
        .unwrap();
    let reference: Vec<f32> = reference.flatten_all().unwrap().to_vec1().unwrap();

    let options = LoadOptions {
        dtype: Dtype::F32,
        ..LoadOptions::default()
    };
    let loaded = load(&Source::Folder(folder), &options).unwrap();
    let Model::Encoder(encoder) = &loaded.model else {
        panic!("an encoder");
    };
    let mut batch = Batch::default();
    batch.clear(0);
    batch.ids.extend(ids);
    batch.positions.extend(0..ids.len() as u32);
    batch.cu_seqlens.push(ids.len() as u32);
    batch.kv_lens.push(ids.len() as u32);
    let cx = Cx::new(Arc::new(Team::new(1)), Class::Latency, Isa::detect());
    let mut off = |types: &[u32]| {
        batch.type_ids.clear();
        batch.type_ids.extend(types);
        let mut work = Workspace::default();
        encoder.forward(&cx, &batch, &mut work).unwrap();
        let pairs = work.hidden.as_slice().iter().zip(&reference);
        pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    let (same, control) = (off(&types), off(&[]));
    assert!(same < 1e-4, "off by {same:e}");
    assert!(control > 1e-2, "without segments off by {control:e} only");
}
