use super::*;
use crate::manifest::tests::sample;
use crate::manifest::{PortableKind, Status, TOLERANCE_BF16, TOLERANCE_F32, TOLERANCE_SMALL};
use crate::reference::Row;
use crate::testing::{Bench, written};
use serde_json::{Value, json};

/// An artifact of one bucket with its two portable files.
fn bench() -> Bench {
    Bench::with(|folder, manifest| {
        for (name, kind) in [
            ("model.onnx", PortableKind::Onnx),
            ("model.pt", PortableKind::Torchscript),
        ] {
            let file = written(folder, name, name);
            manifest.portable.push(Portable {
                kind,
                opset: None,
                file: file.file,
                sha256: file.sha256,
                bytes: file.bytes,
                data: None,
                optional: kind == PortableKind::Torchscript,
                parity: None,
            });
        }
    })
}

impl Bench {
    /// Runs with a program in the place of Python that keeps the job and then runs `then`.
    fn run(&self, then: &str) -> Result<Verified, VerifyError> {
        let script = format!("cp \"$3\" \"$HERE/job.json\"\ncp \"$2\" \"$HERE/parity.py\"\n{then}");
        let python = self.program("python", &script);
        self.run_with(python, if then.contains("sleep") { 1 } else { 120 })
    }

    fn run_with(&self, python: PathBuf, seconds: u64) -> Result<Verified, VerifyError> {
        let options = VerifyOptions {
            python,
            limit: Duration::from_secs(seconds),
            tolerance: self.asked(),
        };
        let folder = self.artifact.path();
        let artifact = (folder, Manifest::read(folder)?);
        verify(artifact, &reference(), &options, &Stop::default())
    }

    /// As [`Bench::run`], with a program that prints the report.
    fn answered(&self, report: &Value) -> Verified {
        std::fs::write(self.tools.path().join("report"), report.to_string()).unwrap();
        let print = format!("cat '{}/report'", self.tools.path().display());
        self.run(&print).unwrap()
    }

    /// The tolerance that a test asks for, if it left one among the tools.
    fn asked(&self) -> Option<f64> {
        let text = std::fs::read_to_string(self.tools.path().join("tolerance"));
        text.ok().map(|text| text.parse().unwrap())
    }

    fn status(&self) -> Status {
        Manifest::read(self.artifact.path()).unwrap().status
    }
}

fn reference() -> Reference {
    let row = |ids: &[u32], expected: [f32; 2]| Row {
        ids: ids.to_vec(),
        type_ids: vec![0; ids.len()],
        expected: expected.to_vec(),
    };
    Reference {
        name: "library 1".to_owned(),
        rows: vec![row(&[1, 2], [0.5, 1.0]), row(&[3, 4, 5, 6], [0.9, -1.0])],
    }
}

/// What is found of a file that is right.
fn good() -> Value {
    json!({"name": "x", "runner": "xla 1", "cases": 2, "max_abs": 4e-7, "argmax_cases": 2, "argmax_agreement": 1.0,
        "masked_max_abs": 0.0, "empty_rows_finite": true})
}

fn report(first: &Value) -> Value {
    json!({"artifacts": [first, good(), good()], "spread": 3e-7})
}

#[test]
fn what_agrees_is_verified_and_the_numbers_are_in_the_manifest() {
    let bench = bench();
    let verified = bench.answered(&report(&good()));
    assert!(verified.passes, "{verified:?}");
    assert_eq!(bench.status(), Status::HloVerified);
    let manifest = Manifest::read(bench.artifact.path()).unwrap();
    assert_eq!(manifest, verified.manifest);
    let parity = manifest.buckets[0].parity.as_ref().unwrap();
    assert_eq!(
        (parity.reference.as_str(), parity.runner.as_str()),
        ("library 1", "xla 1")
    );
    assert_eq!(
        (parity.cases, parity.max_abs, parity.tolerance),
        (2, 4e-7, TOLERANCE_SMALL)
    );
    assert!(manifest.portable.iter().all(|p| p.parity.is_some()));
}

#[test]
fn the_program_is_told_what_to_execute() {
    let bench = bench();
    bench.answered(&report(&good()));
    let job: Value = serde_json::from_str(&bench.left("job.json")).unwrap();
    assert_eq!(job["inputs"], json!(["input_ids", "attention_mask"]));
    assert_eq!((&job["pad_id"], &job["other_id"]), (&json!(0), &json!(9)));
    let hlo = &job["artifacts"][0];
    assert_eq!(
        (&hlo["kind"], &hlo["shapes"]),
        (&json!("hlo"), &json!([[1, 8]]))
    );
    assert_eq!(hlo["parameters"], json!(["a.weight"]));
    assert!(
        hlo["weights"]
            .as_str()
            .unwrap()
            .ends_with("/weights.safetensors")
    );
    // Shapes that are no bucket's, of every length that there is.
    let onnx = &job["artifacts"][1];
    assert_eq!(
        (&onnx["kind"], &onnx["weights"]),
        (&json!("onnx"), &Value::Null)
    );
    assert_eq!(
        onnx["shapes"],
        json!([[1, 2], [2, 3], [3, 3], [5, 4], [7, 7]])
    );
    assert!(bench.left("parity.py").contains("import runners"));
}

#[test]
fn whatever_does_not_agree_fails_and_takes_the_status_back() {
    let with = |key: &str, value: Value| {
        let mut finding = good();
        finding[key] = value;
        finding
    };
    for (finding, part, kept) in [
        (
            with("max_abs", json!(2e-5)),
            "is off by 2.0e-5, the tolerance is 1e-5",
            true,
        ),
        (with("max_abs", Value::Null), "not a number", false),
        (
            with("argmax_agreement", json!(0.5)),
            "only 0.5 of the clear rows",
            true,
        ),
        (with("cases", json!(0)), "is off by", true),
        (
            with("masked_max_abs", json!(1e-3)),
            "ids under the mask move an answer by 1.0e-3",
            false,
        ),
        (
            with("masked_max_abs", Value::Null),
            "ids under the mask",
            false,
        ),
        (
            with("empty_rows_finite", json!(false)),
            "nothing but padding",
            false,
        ),
        (
            json!({"name": "x", "error": "XlaRuntimeError: no"}),
            "XlaRuntimeError: no",
            false,
        ),
    ] {
        let bench = bench();
        bench.answered(&report(&good()));
        assert_eq!(bench.status(), Status::HloVerified);
        let verified = bench.answered(&report(&finding));
        assert!(!verified.passes, "{finding}");
        let failure = verified.checked[0].failure.as_ref().unwrap();
        assert!(failure.contains(part), "{failure}");
        assert_eq!(bench.status(), Status::Exported, "{finding}");
        assert_eq!(
            verified.manifest.buckets[0].parity.is_some(),
            kept,
            "{finding}"
        );
    }
    // The ONNX file is not what a device gets, and fails the check all the same.
    let bench = bench();
    let verified = bench.answered(
        &json!({"artifacts": [good(), with("max_abs", json!(1.0)), good()], "spread": 0.0}),
    );
    assert!(!verified.passes);
    let far = json!({"artifacts": [good(), good(), good()], "spread": 1e-3});
    assert!(!bench.answered(&far).passes);
    // Each answer is within its tolerance, but the buckets are not near each other: nothing is earned.
    for (spread, holds) in [(9e-6, true), (1.1e-5, false)] {
        let report = json!({"artifacts": [good(), good(), good()], "spread": spread});
        assert_eq!(bench.answered(&report).passes, holds);
        let expected = [Status::Exported, Status::HloVerified][usize::from(holds)];
        assert_eq!(bench.status(), expected);
    }
}

#[test]
fn torch_may_be_missing_and_jaxlib_may_not() {
    let bench = bench();
    let missing = |module: &str| json!({"name": "x", "missing": module});
    bench.answered(&json!({"artifacts": [good(), good(), good()], "spread": 0.0}));
    let verified =
        bench.answered(&json!({"artifacts": [good(), good(), missing("torch")], "spread": 0.0}));
    assert!(verified.passes);
    assert!(
        verified.checked[2]
            .skipped
            .as_ref()
            .unwrap()
            .contains("no torch")
    );
    // The same bytes were executed before.
    assert!(verified.manifest.portable[1].parity.is_some());
    let report = json!({"artifacts": [missing("jaxlib"), good(), good()], "spread": 0.0});
    std::fs::write(bench.tools.path().join("report"), report.to_string()).unwrap();
    let print = format!("cat '{}/report'", bench.tools.path().display());
    for then in [
        print.as_str(),
        "echo \"ModuleNotFoundError: No module named 'jaxlib'\" >&2; exit 1",
    ] {
        let error = bench.run(then).unwrap_err().to_string();
        assert!(
            error.contains("has no jaxlib") && error.contains("-m pip install jax=="),
            "{error}"
        );
    }
}

#[test]
fn a_program_that_does_not_answer_changes_nothing() {
    for (then, part) in [
        ("echo Traceback >&2; exit 1", "Traceback"),
        ("echo nonsense", "gave no report"),
        (
            "echo '{\"artifacts\": [], \"spread\": 0.0}'",
            "left files out",
        ),
        ("echo busy; sleep 1000", "busy"),
    ] {
        let bench = bench();
        bench.answered(&report(&good()));
        let error = bench.run(then).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(bench.status(), Status::HloVerified);
    }
    let bench = bench();
    let none = bench.tools.path().join("no-python");
    let error = bench.run_with(none, 1).unwrap_err().to_string();
    assert!(
        error.contains("--python") && error.contains("no-python"),
        "{error}"
    );
}

#[test]
fn a_tampered_artifact_is_refused_before_anything_runs() {
    for name in ["b1_s8.hlo.pb", "weights.safetensors", "model.onnx"] {
        let bench = bench();
        let path = bench.artifact.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = bench.run("exit 0").unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("sha256"), "{error}");
        assert!(!bench.tools.path().join("job.json").exists());
    }
}

#[test]
fn a_tolerance_above_the_usual_one_earns_nothing() {
    let mut far = good();
    far["max_abs"] = json!(5e-6);
    for (asked, expected) in [("100", Status::Exported), ("6e-6", Status::HloVerified)] {
        let bench = bench();
        std::fs::write(bench.tools.path().join("tolerance"), asked).unwrap();
        let verified = bench.answered(&report(&far));
        assert!(verified.passes, "{asked}");
        assert_eq!(bench.status(), expected, "{asked}");
    }
}

#[test]
fn what_others_wrote_meanwhile_stays() {
    // The checker's run is when somebody else writes.
    let bench = bench();
    let folder = bench.artifact.path();
    let before = Manifest::read(folder).unwrap();
    let reference = reference();
    std::fs::write(
        bench.tools.path().join("report"),
        report(&good()).to_string(),
    )
    .unwrap();
    let mut other = before.clone();
    other.portable.pop();
    std::fs::write(bench.tools.path().join("other"), other.to_json()).unwrap();
    let (tools, artifact) = (bench.tools.path().display(), folder.display());
    let then = format!("cp '{tools}/other' '{artifact}/manifest.json'\ncat '{tools}/report'");
    let options = |python| VerifyOptions {
        python,
        limit: Duration::from_mins(2),
        tolerance: None,
    };
    let run = || {
        let options = options(bench.program("python", &then));
        let artifact = (folder, before.clone());
        verify(artifact, &reference, &options, &Stop::default())
    };
    let found = run().unwrap().manifest;
    assert_eq!(found.portable.len(), before.portable.len() - 1);
    assert_eq!(found.status, Status::HloVerified);
    assert_eq!(Manifest::read(folder).unwrap(), found);

    // Another export in the same place: nothing is known of its modules.
    other.buckets[0].hlo.sha256 = "0".repeat(64);
    std::fs::write(bench.tools.path().join("other"), other.to_json()).unwrap();
    let error = run().unwrap_err().to_string();
    assert!(error.contains("made anew"), "{error}");
    let kept = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    assert_eq!(kept, other.to_json());
}

#[test]
fn a_larger_value_may_be_further_off() {
    let mut rows = reference();
    assert_eq!(rows.scale(), 1.0);
    rows.rows[0].expected[0] = -8.0;
    assert_eq!(rows.scale(), 8.0);
}

#[test]
fn tolerances_follow_precision_and_size() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut manifest = sample(folder.path(), source.path());
    assert_eq!(manifest.tolerance(Precision::F32), TOLERANCE_SMALL);
    manifest.source.weights[0].bytes = 100 << 20;
    assert_eq!(manifest.tolerance(Precision::F32), TOLERANCE_F32);
    assert_eq!(manifest.tolerance(Precision::Bf16), TOLERANCE_BF16);
    manifest.numerics.compute = Precision::Bf16;
    let options = VerifyOptions {
        python: PathBuf::new(),
        limit: Duration::ZERO,
        tolerance: None,
    };
    let both = Tolerances::new(&manifest, &reference(), &options);
    assert_eq!(
        (both.modules, both.portable),
        (TOLERANCE_BF16, TOLERANCE_F32)
    );
}
