//! One step of a model on Neuron cores: what runs where, and what becomes of executions that fail.

use crate::rig::Rig;
use koma_kernels::{Class, Cx, Error, Fault, Isa, Team};
use koma_models::{Batch, Device, Model, NeuronCounts, Workspace};
use koma_neuron_export::manifest::Weights;
use koma_neuron_export::serving::{Cores, prepare};
use koma_tests::artifact::loaded;
use koma_tests::fake_nrt::toy;
use std::sync::Arc;

/// One step of these texts, without an engine that decides what comes together; the rows, and who got none.
fn step(rig: &Rig, texts: &[Vec<u32>]) -> (Workspace, NeuronCounts) {
    let mut batch = Batch::default();
    batch.clear(0);
    for text in texts {
        batch.ids.extend(text);
        batch.positions.extend(0..text.len() as u32);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.kv_lens.push(text.len() as u32);
        batch.logit_rows.push(batch.ids.len() as u32 - 1);
    }
    let model = loaded(&rig.model);
    let cores = Cores::start(Some(&rig.fake.library())).unwrap();
    let prepared = prepare(&model, &cores, &rig.options()).unwrap();
    let placed = prepared.attach(model).unwrap();
    let (Model::Encoder(encoder), Device::Neuron(counters)) = (placed.model, placed.device) else {
        panic!("an encoder on cores");
    };
    let cx = Cx::new(Arc::new(Team::new(1)), Class::Latency, Isa::detect());
    let mut work = Workspace::default();
    encoder.forward(&cx, &batch, &mut work).unwrap();
    let counts = counters.counts();
    drop(encoder);
    (work, counts)
}

/// Short ones, which differ.
fn short(count: u32) -> Vec<Vec<u32>> {
    let text = |i: u32| (0..=i % 16).map(|k| 5 * i + k + 1).collect();
    (0..count).map(text).collect()
}

#[test]
fn the_texts_of_one_step_run_on_all_cores_at_the_same_time() {
    // Texts in the step, cores, executions on each.
    for (count, cores, each) in [(2, 2, 1), (8, 2, 1), (32, 4, 2), (3, 4, 1)] {
        let active = cores.min(count);
        let conf = format!("cores {cores}\nmeet {active}");
        let rig = Rig::new("distilbert_classify", Weights::Inline, &conf);
        let texts = short(count);
        let (work, _) = step(&rig, &texts);
        assert!(
            work.failed.is_empty(),
            "{count} on {cores}: {:?}",
            work.failed
        );
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(work.output.row(i), toy(text, &[], 3, 0.0), "{i} of {count}");
        }
        rig.fake.check_released();
        let closed = rig.fake.closed();
        for core in 0..cores {
            let expected = if core < active { each } else { 0 };
            assert_eq!(
                closed[&format!("core{core}")],
                expected,
                "{count} on {cores}"
            );
        }
    }
}

#[test]
fn an_execution_that_fails_takes_its_own_texts_with_it_and_no_others() {
    for (status, fault) in [
        (5, Some(Fault::Timeout)),
        (7, Some(Fault::Busy)),
        (1005, Some(Fault::Busy)),
        (6, Some(Fault::Broken)),
        (1004, Some(Fault::Other)),
        (1003, None),
    ] {
        let conf = format!("cores 2\nnrt_execute {status} 0 1");
        let rig = Rig::new("distilbert_classify", Weights::Inline, &conf);
        let texts = short(8);
        let (work, counts) = step(&rig, &texts);
        assert_eq!(counts.errors.get(&status), Some(&1), "{status}");
        let lost: Vec<usize> = work.failed.iter().map(|(i, _)| *i).collect();
        for (i, error) in &work.failed {
            let Error::Device(found, why) = error else {
                panic!("{i}: {error}");
            };
            assert_eq!(Some(*found), fault, "{status}");
            assert!(why.contains(&status.to_string()), "{why}");
        }
        // The longer half ran on one core, the other on the other.
        let halves = [[0, 1, 2, 3], [4, 5, 6, 7]];
        match fault {
            Some(_) => assert!(halves.iter().any(|half| lost == half), "{lost:?}"),
            None => assert!(lost.is_empty(), "{lost:?}"),
        }
        let right = |i: &usize| work.output.row(*i) == toy(&texts[*i], &[], 3, 0.0);
        let answered: Vec<usize> = (0..8).filter(right).collect();
        assert_eq!(answered.len(), 4, "{status}: {answered:?}");
        assert!(answered.iter().all(|i| !lost.contains(i)));
        assert_eq!(counts.reruns, u64::from(fault.is_none()));
        rig.fake.check_released();
    }
}
