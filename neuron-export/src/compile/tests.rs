use super::*;
use crate::manifest::{Parity, Spread, Status};
use crate::neff::tests::{definition, neff};
use crate::testing::{Bench, written};

/// An artifact of two buckets, verified.
fn bench() -> Bench {
    let bench = Bench::with(|folder, manifest| {
        let mut second = manifest.buckets[0].clone();
        let hlo = written(folder, "b4_s8.hlo.pb", "more");
        (second.batch, second.hlo.file) = (4, hlo.file);
        (second.hlo.sha256, second.hlo.bytes) = (hlo.sha256, hlo.bytes);
        manifest.buckets.push(second);
        for bucket in &mut manifest.buckets {
            bucket.parity = Some(Parity {
                reference: "a".to_owned(),
                runner: "b".to_owned(),
                cases: 1,
                max_abs: 0.0,
                argmax_agreement: None,
                tolerance: 1e-5,
                scale: 1.0,
            });
        }
        let (max_abs, tolerance) = (0.0, 1e-5);
        manifest.spread = Some(Spread { max_abs, tolerance });
    });
    let text = definition(&["input0", "input1", "input2"], &["output0"]);
    let bytes = neff(&[("sg00/def.json", &text)], true);
    std::fs::write(bench.tools.path().join("good.neff"), bytes).unwrap();
    bench
}

impl Bench {
    /// A compiler named `name` that writes its arguments to `argv`, one a line, and a line after each call, and then runs `then`,
    /// in which OUT is the file to be written, IN the module, HERE the folder of tools.
    fn compiler(&self, name: &str, then: &str) -> PathBuf {
        let script = format!(
            "if [ \"$1\" = --version ]; then echo 'NeuronX Compiler version 2.28.7631.0+ab'; echo 'Python version 3.11'; exit 0; fi\n\
             IN=$2\nfor OUT; do :; done\n\
             for A; do echo \"$A\" >> \"$HERE/argv\"; done\necho == >> \"$HERE/argv\"\n{then}"
        );
        self.program(name, &script)
    }

    fn compiled(
        &self,
        compiler: PathBuf,
        target: Target,
        cast: AutoCast,
    ) -> Result<Manifest, CompileError> {
        let options = CompileOptions {
            compiler: Some(compiler),
            target,
            auto_cast: cast,
            limit: Duration::from_secs(if self.hangs() { 1 } else { 120 }),
        };
        compile(self.artifact.path(), &options, &Stop::default(), |_, _| {})
    }

    /// Makes the artifact one whose modules hold their weights.
    fn put_weights_inside(&self) {
        let folder = self.artifact.path();
        let mut manifest = Manifest::read(folder).unwrap();
        manifest.numerics.weights = Weights::Inline;
        manifest.numerics.weights_file = None;
        manifest.numerics.param_order.clear();
        manifest.write(folder).unwrap();
        let bytes = neff(
            &[(
                "sg00/def.json",
                &definition(&["input0", "input1"], &["output0"]),
            )],
            true,
        );
        std::fs::write(self.tools.path().join("good.neff"), bytes).unwrap();
    }

    fn hangs(&self) -> bool {
        let stub = std::fs::read_to_string(self.tools.path().join(COMPILER));
        stub.is_ok_and(|script| script.contains("sleep"))
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.artifact.path()).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The arguments of the calls, paths replaced by names.
    fn calls(&self) -> Vec<Vec<String>> {
        let text = self.left("argv");
        let artifact = self.artifact.path().canonicalize().unwrap();
        let text = text.replace(&format!("{}/", artifact.display()), "");
        let calls = text.trim_end().split("\n==").map(str::trim);
        let calls = calls.filter(|call| !call.is_empty());
        calls
            .map(|call| call.lines().map(str::to_owned).collect())
            .collect()
    }
}

const GOOD: &str = "cp \"$HERE/good.neff\" \"$OUT\"";
/// Before anything is compiled.
const UNTOUCHED: [&str; 4] = [
    "b1_s8.hlo.pb",
    "b4_s8.hlo.pb",
    "manifest.json",
    "weights.safetensors",
];

#[test]
fn every_bucket_is_compiled_with_this_command_line() {
    let bench = bench();
    let stub = bench.compiler(COMPILER, GOOD);
    let manifest = bench.compiled(stub, Target::Inf2, AutoCast::None).unwrap();
    assert_eq!(manifest.status, Status::NeffCompiled);
    assert_eq!(Manifest::read(bench.artifact.path()).unwrap(), manifest);
    let flags = [
        "--framework",
        "XLA",
        "--target",
        "inf2",
        "--model-type",
        "transformer",
        "--auto-cast",
        "none",
        "--optlevel",
        "2",
    ];
    for (call, module) in bench.calls().iter().zip(["b1_s8.hlo.pb", "b4_s8.hlo.pb"]) {
        let (files, rest) = call.split_at(2);
        assert_eq!(files, ["compile", module]);
        assert_eq!(rest[..10], flags);
        assert_eq!(rest[10], "--output");
        assert_eq!(rest.len(), 12);
        assert_eq!(Path::new(&rest[11]).extension().unwrap(), "neff");
    }
    assert_eq!(bench.calls().len(), 2);
    let neff = manifest.buckets[1].neff.as_ref().unwrap();
    assert_eq!(neff.compiler, "neuronx-cc 2.28.7631.0+ab");
    assert_eq!(neff.flags, flags);
    assert_eq!(neff.neff_version, [2, 1]);
    assert_eq!(neff.io["a.weight"], "input2");
    assert!(!neff.unverified);
    let names: Vec<String> = neffs(&manifest);
    assert!(names[0].starts_with("b1_s8.inf2.") && names[1].starts_with("b4_s8.inf2."));
    assert_eq!(bench.files().len(), 6);
}

#[test]
fn a_compiler_may_be_given_by_a_relative_path() {
    let bench = bench();
    let stub = bench.compiler(COMPILER, GOOD);
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(stub.strip_prefix("/").unwrap());
    assert!(relative.is_relative());
    let manifest = bench
        .compiled(relative, Target::Inf2, AutoCast::None)
        .unwrap();
    assert_eq!(manifest.status, Status::NeffCompiled);
}

#[test]
fn flags_go_into_the_command_line_and_old_products_go() {
    let bench = bench();
    let first = bench
        .compiled(bench.compiler(COMPILER, GOOD), Target::Inf2, AutoCast::None)
        .unwrap();
    std::fs::remove_file(bench.tools.path().join("argv")).unwrap();
    let second = bench
        .compiled(
            bench.compiler(COMPILER, GOOD),
            Target::Trn2,
            AutoCast::Matmult,
        )
        .unwrap();
    assert_eq!(
        bench.calls()[0][4..12],
        [
            "--target",
            "trn2",
            "--model-type",
            "transformer",
            "--auto-cast",
            "matmult",
            "--auto-cast-type",
            "bf16"
        ]
    );
    assert_ne!(neffs(&first), neffs(&second));
    assert_eq!(bench.files().len(), 6);
}

#[test]
fn a_compiler_that_does_not_do_its_work_leaves_the_artifact_as_it_was() {
    let only_first = "case $IN in *b1_s8*) cp \"$HERE/good.neff\" \"$OUT\";; *) echo [NCC_EVRF001] no >&2; exit 70;; esac";
    for (then, parts) in [
        (only_first, ["b4_s8.hlo.pb", "[NCC_EVRF001] no"]),
        (
            "echo half > \"$OUT\"; echo scheduling; sleep 1000",
            ["ended after 1 s", "scheduling"],
        ),
        ("exit 0", ["b1_s8.hlo.pb", "wrote no NEFF"]),
        (
            "echo half > \"$OUT\"",
            ["the compiler ended well, but", "less than a NEFF's header"],
        ),
        (
            "head -c 1500 \"$HERE/good.neff\" | head -c 1200 > \"$OUT\"",
            ["the compiler ended well, but", "the header says"],
        ),
    ] {
        let bench = bench();
        let before = std::fs::read(bench.artifact.path().join("manifest.json")).unwrap();
        let stub = bench.compiler(COMPILER, then);
        let error = bench
            .compiled(stub, Target::Inf2, AutoCast::None)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(bench.files(), UNTOUCHED, "{then}");
        assert_eq!(
            std::fs::read(bench.artifact.path().join("manifest.json")).unwrap(),
            before
        );
    }
}

/// Compiles; while the first module is being compiled, somebody else changes the manifest.
fn compiled_meanwhile(bench: &Bench, change: fn(&mut Manifest)) -> Result<Manifest, CompileError> {
    let options = CompileOptions {
        compiler: Some(bench.compiler(COMPILER, GOOD)),
        target: Target::Inf2,
        auto_cast: AutoCast::None,
        limit: Duration::from_mins(2),
    };
    let folder = bench.artifact.path();
    compile(folder, &options, &Stop::default(), |index, _| {
        if index == 0 {
            let mut manifest = Manifest::read(folder).unwrap();
            change(&mut manifest);
            manifest.write(folder).unwrap();
        }
    })
}

#[test]
fn what_others_write_meanwhile_stays() {
    let bench = bench();
    let off = |manifest: &mut Manifest| manifest.buckets[0].parity.as_mut().unwrap().max_abs = 4e-6;
    let manifest = compiled_meanwhile(&bench, off).unwrap();
    assert_eq!(manifest.buckets[0].parity.as_ref().unwrap().max_abs, 4e-6);
    assert_eq!(manifest.status, Status::NeffCompiled);
    assert_eq!(Manifest::read(bench.artifact.path()).unwrap(), manifest);
}

#[test]
fn modules_that_were_exported_anew_meanwhile_do_not_get_the_old_ones_products() {
    let bench = bench();
    let anew = |manifest: &mut Manifest| manifest.buckets[1].hlo.sha256 = "0".repeat(64);
    let error = compiled_meanwhile(&bench, anew).unwrap_err().to_string();
    assert!(error.contains("made anew"), "{error}");
    assert_eq!(bench.files(), UNTOUCHED);
}

#[test]
fn a_missing_compiler_says_what_to_install() {
    let bench = bench();
    let none = bench.tools.path().join(COMPILER);
    let error = bench
        .compiled(none.clone(), Target::Trn1, AutoCast::None)
        .unwrap_err();
    assert!(matches!(error, CompileError::Missing(_)), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("pip install 'neuronx-cc==2.*'") && message.contains("NEURON_CC"),
        "{message}"
    );
    let status = Manifest::read(bench.artifact.path()).unwrap().status;
    assert_eq!(status, Status::HloVerified);

    // What is there and is no program.
    std::fs::write(&none, "").unwrap();
    let error = bench
        .compiled(none, Target::Trn1, AutoCast::None)
        .unwrap_err();
    assert!(matches!(error, CompileError::Start { .. }), "{error}");
    let stub = bench.compiler(COMPILER, GOOD);
    let script = std::fs::read_to_string(&stub).unwrap();
    std::fs::write(&stub, script.replace("exit 0; fi", "exit 9; fi")).unwrap();
    let error = bench
        .compiled(stub, Target::Trn1, AutoCast::None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--version") && error.contains('9'),
        "{error}"
    );
    assert_eq!(bench.files(), UNTOUCHED);
}

#[test]
fn inf1_is_explained_and_its_old_compiler_never_counts() {
    let bench = bench();
    // The new compiler does not do for the old target.
    let stub = bench.compiler(COMPILER, GOOD);
    let error = bench
        .compiled(stub, Target::Inf1, AutoCast::None)
        .unwrap_err();
    assert!(matches!(error, CompileError::Inf1), "{error}");
    assert!(error.to_string().contains("--target inf2"), "{error}");
    let stub = bench.compiler(LEGACY, GOOD);
    let error = bench.compiled(stub.clone(), Target::Inf1, AutoCast::None);
    assert!(
        matches!(error, Err(CompileError::Inf1Separate)),
        "{error:?}"
    );
    assert_eq!(bench.files(), UNTOUCHED);
    assert!(!bench.tools.path().join("argv").exists());
    bench.put_weights_inside();
    let manifest = bench.compiled(stub, Target::Inf1, AutoCast::None).unwrap();
    assert_eq!(manifest.status, Status::HloVerified);
    let neff = manifest.buckets[0].neff.as_ref().unwrap();
    assert!(neff.unverified);
    let call = &bench.calls()[0];
    assert_eq!(call[2..5], ["--framework", "XLA", "--io-config"]);
    let config: serde_json::Value = serde_json::from_str(&call[5]).unwrap();
    assert_eq!(
        config["inputs"]["input_ids"],
        serde_json::json!([[1, 8], "int32"])
    );
    assert_eq!(config["outputs"], serde_json::json!(["logits"]));
}

#[test]
fn a_tampered_module_is_not_compiled() {
    let bench = bench();
    std::fs::write(bench.artifact.path().join("b4_s8.hlo.pb"), "mOre").unwrap();
    let stub = bench.compiler(COMPILER, GOOD);
    let error = bench
        .compiled(stub, Target::Inf2, AutoCast::None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("b4_s8.hlo.pb") && error.contains("sha256"),
        "{error}"
    );
    assert!(!bench.tools.path().join("argv").exists());
}

#[test]
fn versions_are_found_in_what_compilers_say() {
    for (said, expected) in [
        (
            "NeuronX Compiler version 2.28.7631.0+4a9b\n\nPython version 3.11.2\n",
            "2.28.7631.0+4a9b",
        ),
        ("Neuron Compiler Version 1.24.0.0", "1.24.0.0"),
        ("2.0\n", "2.0"),
        ("", "of unknown version"),
    ] {
        assert_eq!(version(said), expected);
    }
}
