//! A cache in fewer bits: how far it moves the logits of every decoder that there is a fixture of.

use crate::decoders::LOGITS;
use crate::{decoders, experts, families, open};
use koma_kernels::KvDtype;
use koma_models::Dtype;
use koma_tests::forward::{Sequence, decoder};
use koma_tests::golden::{Case, ids, worst};

/// How far a rounded cache may move logits. bf16 keeps 8 bits of a number (measured: 1.37e-2, `qwen2_yarn`), int8 127 steps of
/// a head's largest (measured: 2.62e-2, `gemma2`).
const CACHES: [(KvDtype, f32); 2] = [(KvDtype::Bf16, 1.6e-2), (KvDtype::Int8, 3.2e-2)];
/// The fixture of which int8 moves one prompt further (measured: 6.13e-2, and 2.30e-2 of its others).
const FURTHER: (&str, KvDtype, f32) = ("phi3_longrope", KvDtype::Int8, 7.5e-2);

#[test]
fn a_rounded_cache_moves_logits_little() {
    let families = families::CASES.map(|(name, _)| name);
    let names = [&decoders::FOLDERS[..], &families, &experts::FOLDERS].concat();
    for (name, (kv, bound)) in names.into_iter().flat_map(|n| CACHES.map(|c| (n, c))) {
        let (far, far_kv, further) = FURTHER;
        let bound = if (name, kv) == (far, far_kv) {
            further
        } else {
            bound
        };
        let case = Case::read(name);
        let loaded = open(&case.model(), Dtype::F32).unwrap();
        let (mut moved, mut altered) = (0f32, 0f32);
        let prompts = case.json["prompts"].as_array().unwrap().iter().enumerate();
        for (i, prompt) in prompts {
            let mut prompt = ids(&prompt["ids"]);
            let expected = &case.tensor(&format!("logits.{i}")).values;
            let off = |prompt: &[u32]| {
                let mut sequence = Sequence::new(decoder(&loaded), kv, prompt.len());
                worst(&sequence.feed_chunks(prompt, prompt.len()), expected)
            };
            moved = moved.max(off(&prompt));
            // The control: another token before the last, which sees it through the cache alone.
            if let [.., before, _] = prompt.as_mut_slice() {
                *before += 1;
                altered = altered.max(off(&prompt));
            }
        }
        let what =
            format!("{name}: {kv:?} moves logits by {moved:e}, another token by {altered:e}");
        assert!(moved > LOGITS && moved <= bound, "{what}");
        assert!(altered > 2.0 * bound, "{what}");
    }
}
