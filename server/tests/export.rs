//! `koma export compile` as a user runs it, with programs in the place of AWS's compilers: where they are looked for, what they are told,
//! what becomes of the export. It says nothing about what a real compiler makes of a module.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

use koma_neuron_export::manifest::{Manifest, Parity, Spread, Status, Weights};
use koma_tests::artifact::{golden, make};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// An export of a golden classifier that is verified and not compiled, and a place for programs.
struct World {
    artifact: TempDir,
    tools: TempDir,
}

impl World {
    fn new() -> Self {
        let (artifact, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (folder, model) = (artifact.path(), golden("distilbert_classify"));
        make(&model, folder, (&[1, 4], &[16]), Weights::Inline);
        let mut manifest = Manifest::read(folder).unwrap();
        let (max_abs, tolerance) = (0.0, 1e-5);
        for bucket in &mut manifest.buckets {
            // What the programs will give as their own.
            let neff = bucket.neff.take().unwrap().file;
            std::fs::copy(folder.join(&neff), tools.path().join(&neff)).unwrap();
            std::fs::remove_file(folder.join(&neff)).unwrap();
            bucket.parity = Some(Parity {
                reference: "a".to_owned(),
                runner: "b".to_owned(),
                cases: 1,
                max_abs,
                argmax_agreement: None,
                tolerance,
                scale: 1.0,
            });
        }
        manifest.spread = Some(Spread { max_abs, tolerance });
        manifest.write(folder).unwrap();
        assert_eq!(manifest.status, Status::HloVerified);
        Self { artifact, tools }
    }

    /// A program that writes its name and its arguments to a file, one call a line, and does `then`.
    fn compiler(&self, path: &str, then: &str) -> PathBuf {
        let (here, path) = (self.tools.path().display(), self.tools.path().join(path));
        let script = format!(
            "#!/bin/sh\n\
             [ \"$1\" = --version ] && {{ echo 'NeuronX Compiler version 2.28.7631.0'; exit 0; }}\n\
             echo \"$(basename \"$0\") $*\" >> '{here}/argv'\n\
             module=$(basename \"$2\" .hlo.pb)\nfor out; do :; done\nwork() {{ {then}; }}\n\
             work || exit $?\ncp '{here}'/\"$module\".neff \"$out\"\n"
        );
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let draft = path.with_extension("draft");
        std::fs::write(&draft, script).unwrap();
        // Another process writes the program: a test beside this one that starts a process meanwhile would hold it open, and a file
        // that is open for writing cannot be executed.
        let made = Command::new("install")
            .arg("-m755")
            .args([&draft, &path])
            .status();
        assert!(made.unwrap().success(), "{}", path.display());
        path
    }

    /// `koma export compile`, with the programs in the folder `bin` of the tools on the path.
    fn compile(&self, flags: &[&str], variables: &[(&str, &Path)]) -> Output {
        let bin = self.tools.path().join("bin");
        Command::new(env!("CARGO_BIN_EXE_koma"))
            .args(["export", "compile"])
            .arg(self.artifact.path())
            .args(flags)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .envs(variables.iter().copied())
            .output()
            .expect("the binary is built with this test")
    }

    /// Compiles, which must go well.
    fn compiled(&self, flags: &[&str], variables: &[(&str, &Path)]) -> Manifest {
        let done = self.compile(flags, variables);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        Manifest::read(self.artifact.path()).unwrap()
    }

    /// Why it fails. The export is as it was then.
    fn refused(&self, flags: &[&str], variables: &[(&str, &Path)]) -> String {
        let before = self.files();
        let done = self.compile(flags, variables);
        assert_eq!(done.status.code(), Some(1));
        assert_eq!(self.files(), before);
        let manifest = Manifest::read(self.artifact.path()).unwrap();
        assert_eq!(manifest.status, Status::HloVerified);
        String::from_utf8(done.stderr).unwrap()
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(self.artifact.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let file = |path: PathBuf| (path.display().to_string(), std::fs::read(&path).unwrap());
        let mut files: Vec<_> = paths.map(file).collect();
        files.sort();
        files
    }

    /// The calls, without the folders of files.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.tools.path().join("argv")).unwrap();
        let word = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
        let words = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    }
}

const INF2: [&str; 2] = ["--target", "inf2"];

#[test]
fn a_compiler_is_found_on_the_path() {
    let world = World::new();
    world.compiler("bin/neuronx-cc", "true");
    let manifest = world.compiled(&INF2, &[]);
    assert_eq!(manifest.status, Status::NeffCompiled);
    let neff = manifest.buckets[0].neff.as_ref().unwrap();
    assert_eq!(neff.compiler, "neuronx-cc 2.28.7631.0");
    let flags =
        "--framework XLA --target inf2 --model-type transformer --auto-cast none --optlevel 2";
    let call = |module: &str, number: usize| {
        format!("neuronx-cc compile {module}.hlo.pb {flags} --output {number}.neff")
    };
    assert_eq!(world.calls(), [call("b1_s16", 0), call("b4_s16", 1)]);
}

#[test]
fn a_compiler_that_is_named_comes_before_the_path() {
    let world = World::new();
    let named = world.compiler("elsewhere/my-compiler", "true");
    let manifest = world.compiled(&INF2, &[("NEURON_CC", &named)]);
    assert_eq!(manifest.status, Status::NeffCompiled);
    world.compiler("bin/neuronx-cc", "true");
    world.compiled(&INF2, &[("NEURON_CC", &named)]);
    let calls = world.calls();
    assert_eq!(calls.len(), 4);
    assert!(
        calls.iter().all(|call| call.starts_with("my-compiler ")),
        "{calls:?}"
    );
}

#[test]
fn without_a_compiler_or_with_one_that_fails_the_export_is_as_it_was() {
    let world = World::new();
    let said = world.refused(&INF2, &[]);
    assert!(
        said.contains("`neuronx-cc` is not there") && said.contains("pip install"),
        "{said}"
    );
    let nowhere = world.tools.path().join("nowhere");
    let said = world.refused(&INF2, &[("NEURON_CC", &nowhere)]);
    assert!(said.contains(nowhere.to_str().unwrap()), "{said}");
    // The second module is the one that fails, or hangs.
    for (then, flags, words) in [
        (
            "case $module in b1*) true;; *) echo '[NCC_EVRF015] no' >&2; return 70;; esac",
            &INF2[..],
            ["b4_s16.hlo.pb", "[NCC_EVRF015] no"],
        ),
        (
            "case $module in b1*) true;; *) echo scheduling; sleep 1000;; esac",
            &["--target", "inf2", "--timeout", "1"],
            ["b4_s16.hlo.pb", "ended after 1 s"],
        ),
    ] {
        world.compiler("bin/neuronx-cc", then);
        let said = world.refused(flags, &[]);
        for word in words {
            assert!(said.contains(word), "{said}");
        }
    }
}

#[test]
fn inf1_is_refused_but_for_its_old_compiler_whose_work_does_not_count() {
    let world = World::new();
    let inf1 = ["--target", "inf1"];
    // The new compiler does not do for the old machines, wherever it is.
    let named = world.compiler("bin/neuronx-cc", "true");
    for variables in [&[][..], &[("NEURON_CC", named.as_path())]] {
        let said = world.refused(&inf1, variables);
        assert!(
            said.contains("no longer supported") && said.contains("--target inf2"),
            "{said}"
        );
    }
    world.compiler("bin/neuron-cc", "true");
    let manifest = world.compiled(&inf1, &[]);
    assert_eq!(manifest.status, Status::HloVerified);
    assert!(
        manifest
            .buckets
            .iter()
            .all(|b| b.neff.as_ref().unwrap().unverified)
    );
    let call = &world.calls()[0];
    assert!(
        call.starts_with("neuron-cc compile b1_s16.hlo.pb --framework XLA --io-config "),
        "{call}"
    );
}
