//! Compiled modules, executed on the device and compared.

use crate::rig::{Rig, text};
use koma_kernels::{Class, Cx, Isa, Team};
use koma_models::Head;
use koma_neuron_export::manifest::{Manifest, Spread, Status, Weights};
use koma_neuron_export::reference::{Reference, Row};
use koma_neuron_export::serving::{Cores, ServingError};
use koma_neuron_export::verify::{Device, Verified, on_device};
use koma_tests::fake_nrt::{FakeNrt, toy};
use std::sync::Arc;

/// What a check on the device finds, if of the reference's rows `wrong` is changed.
fn verified(rig: &Rig, wrong: Option<usize>) -> Result<Verified, ServingError> {
    let manifest = Manifest::read(rig.artifact.path()).unwrap();
    let width = manifest.outputs[0].width;
    let unit = manifest.pooling.as_ref().is_some_and(|p| p.normalize);
    let row = |(i, ids): (usize, Vec<u32>)| {
        let mut expected = toy(&ids, &[], width, rig.weights);
        if unit {
            Head::embedding(true, width).activate(&mut expected);
        }
        expected[0] += f32::from(u8::from(wrong == Some(i)));
        Row {
            type_ids: vec![0; ids.len()],
            expected,
            ids,
        }
    };
    let reference = Reference {
        name: "the toy".to_owned(),
        rows: (0..20).map(text).enumerate().map(row).collect(),
    };
    let device = Device {
        cores: &Cores::start(Some(&rig.fake.library())).unwrap(),
        instance: Some("inf2.xlarge"),
        cx: &Cx::new(Arc::new(Team::new(1)), Class::Throughput, Isa::detect()),
    };
    let artifact = (rig.artifact.path(), manifest);
    on_device(artifact, &device, &reference, Some(1e-6))
}

#[test]
fn an_artifact_is_verified_by_executing_it_on_the_device() {
    let status = |rig: &Rig| Manifest::read(rig.artifact.path()).unwrap().status;
    for weights in [Weights::Inline, Weights::Separate] {
        let rig = Rig::new("distilbert_classify", weights, "cores 2");
        let right = verified(&rig, None).unwrap();
        assert!(right.passes, "{right:?}");
        let apart = right.spread.map(|spread| spread.max_abs);
        assert_eq!((right.checked.len(), apart), (4, Some(0.0)));
        // The numbers of the modules themselves were not checked on a CPU, which comes first.
        assert_eq!(status(&rig), Status::Exported);
        let mut manifest = Manifest::read(rig.artifact.path()).unwrap();
        for bucket in &mut manifest.buckets {
            let parity = bucket.neff.as_ref().unwrap().device_parity.clone().unwrap();
            assert_eq!(parity.runner, "libnrt 2.99.1.0 on inf2.xlarge");
            // Of 20 texts of 1 to 32 tokens.
            assert_eq!(parity.cases, if bucket.seq == 32 { 20 } else { 11 });
            bucket.parity = Some(parity);
        }
        let (max_abs, tolerance) = (0.0, 1e-5);
        manifest.spread = Some(Spread { max_abs, tolerance });
        manifest.write(rig.artifact.path()).unwrap();
        assert_eq!(status(&rig), Status::DeviceVerified);
        rig.fake.check_released();
        assert!(rig.fake.closed()["core1"] > 0);

        let again = Rig {
            fake: FakeNrt::new(""),
            ..rig
        };
        let wrong = verified(&again, Some(7)).unwrap();
        assert!(!wrong.passes);
        assert_eq!(status(&again), Status::NeffCompiled);
        again.fake.check_released();
    }
    for (conf, why) in [
        ("swap 1", "is off by"),
        ("nrt_execute 1003 0 0", "not numbers"),
        ("nrt_execute 6 3 1", "NRT_STATUS 6"),
    ] {
        let rig = Rig::new("distilbert_classify", Weights::Inline, conf);
        let found = verified(&rig, None).unwrap();
        let failures: Vec<_> = found
            .checked
            .iter()
            .filter_map(|c| c.failure.as_deref())
            .collect();
        assert!(
            !found.passes && failures.iter().any(|f| f.contains(why)),
            "{failures:?}"
        );
        assert!(status(&rig) < Status::DeviceVerified);
        rig.fake.check_released();
    }
    let trainium = Rig::new("distilbert_classify", Weights::Inline, "nrt_load 9 0 0");
    assert!(verified(&trainium, None).is_err());
}

/// The modules give vectors as they are; those that are compared have length 1.
#[test]
fn vectors_are_compared_as_they_are_served() {
    let rig = Rig::new("roberta_embed_mean", Weights::Inline, "");
    let found = verified(&rig, None).unwrap();
    assert!(found.passes, "{:?}", found.checked);
    rig.fake.check_released();
}
