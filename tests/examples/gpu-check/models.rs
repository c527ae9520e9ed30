//! The tiny models: tokens and values of the device are those of the processor.

use super::Line;
use super::kernels::off;
use koma_kernels::cuda::{Gpu, Upload};
use koma_kernels::{Cx, KvDtype};
use koma_models::{Batch, Dtype, LoadOptions, Loaded, Model, Source, Workspace, load};
use koma_tests::forward::{Sequence, context, decoder};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path, gpu: Option<&Arc<Gpu>>) -> Result<Loaded, Box<dyn Error>> {
    let options = LoadOptions {
        name: "tiny".to_owned(),
        dtype: Dtype::F32,
        upload: gpu.map(Upload::new).transpose()?,
        ..LoadOptions::default()
    };
    let path = path.join("model");
    Ok(load(&Source::Folder(path), &options)?)
}

pub(super) fn check(folder: &Path, gpu: &Arc<Gpu>) -> Result<Vec<Line>, Box<dyn Error>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder.join("models"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("model").is_dir())
        .collect();
    paths.sort();
    let mut lines = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (here, there) = (open(&path, None)?, open(&path, Some(gpu))?);
        let cx = context(1).on(gpu)?;
        let (right, off) = match &here.model {
            Model::Decoder(_) => generation(&here, (&there, cx)),
            Model::Encoder(_) => encoding(&here, (&there, cx))?,
        };
        lines.push(Line {
            what: name.into_owned(),
            right: Some(right && off <= 1e-3),
            figures: vec![("off", off)],
        });
    }
    Ok(lines)
}

/// Whether 24 greedy tokens are the same, and how far the logits before them are apart.
fn generation(here: &Loaded, (there, cx): (&Loaded, Cx)) -> (bool, f64) {
    let vocab = here.limits.vocab as u32;
    let prompt: Vec<u32> = (0..40).map(|t| (t * 13 + 7) % (vocab - 5) + 5).collect();
    let run = |cx: Cx, loaded: &Loaded| {
        let mut sequence = Sequence::on(cx, decoder(loaded), KvDtype::F32, 64);
        let logits = sequence.feed_chunks(&prompt, 16);
        (logits, sequence.greedy(24))
    };
    let (expected, got) = (run(context(1), here), run(cx, there));
    (got.1 == expected.1, off(&got.0, &expected.0))
}

fn encoding(here: &Loaded, (there, cx): (&Loaded, Cx)) -> Result<(bool, f64), Box<dyn Error>> {
    let mut batch = Batch::default();
    batch.clear(0);
    for len in [3u32, 40, 1, 17] {
        batch.ids.extend((0..len).map(|t| (t * 7) % 90 + 5));
        batch.positions.extend(0..len);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.kv_lens.push(len);
    }
    let run = |cx: &Cx, loaded: &Loaded| -> Result<Vec<f32>, Box<dyn Error>> {
        let mut work = Workspace::default();
        if let Model::Encoder(encoder) = &loaded.model {
            encoder.forward(cx, &batch, &mut work)?;
        }
        cx.settle(&mut work.output)?;
        Ok(work.output.as_slice().to_vec())
    };
    let (expected, got) = (run(&context(1), here)?, run(&cx, there)?);
    Ok((got.len() == expected.len(), off(&got, &expected)))
}
