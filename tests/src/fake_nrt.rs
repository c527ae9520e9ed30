//! [`FakeNrt`]: a stand-in for the AWS Neuron runtime, built from `fake_nrt/fake_nrt.c` with the system's C compiler; and the toy
//! that it computes, in Rust.
//!
//! It proves that its callers keep to the runtime's interface. It proves nothing about Neuron devices.
//!
//! Invariant: each one is a library of its own, with its own state and its own faults, so that tests do not meet in it.

use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tempfile::TempDir;

/// One library.
pub struct FakeNrt {
    folder: TempDir,
}

impl FakeNrt {
    /// A library that is told `conf` (see the C file): lines such as `cores 2` or `nrt_execute 5 0 1`.
    ///
    /// # Panics
    /// If there is no C compiler, or no place for files.
    pub fn new(conf: &str) -> Self {
        Self::of(&BUILT, conf)
    }

    /// An older one, which lacks what not every version has.
    ///
    /// # Panics
    /// As [`FakeNrt::new`].
    pub fn old(conf: &str) -> Self {
        Self::of(&OLD, conf)
    }

    fn of(built: &Path, conf: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fake = Self { folder };
        std::fs::copy(built, fake.library()).expect("a copy of the library");
        std::fs::write(fake.beside("conf"), conf).expect("a file beside it");
        fake
    }

    /// Its file.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnrt.so.1")
    }

    /// What it told when it was closed: objects that were left, by kind, and other counts.
    ///
    /// # Panics
    /// If it was not closed.
    pub fn closed(&self) -> BTreeMap<String, u64> {
        let told = std::fs::read_to_string(self.beside("live")).expect("nrt_close was called");
        let one = |part: &str| {
            let (name, count) = part.split_once('=').expect("NAME=COUNT");
            (name.to_owned(), count.parse().expect("a number"))
        };
        told.split_whitespace().map(one).collect()
    }

    /// Checks that all was given back, in the right order.
    ///
    /// # Panics
    /// If not.
    pub fn check_released(&self) {
        let closed = self.closed();
        for kind in ["models", "tensors", "sets", "misuse"] {
            assert_eq!(closed[kind], 0, "{kind} at nrt_close: {closed:?}");
        }
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.folder.path().join(format!("libnrt.so.1.{end}"))
    }
}

/// The library, built once for each test process.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| build(&[]));
/// As [`BUILT`], the older one.
static OLD: LazyLock<PathBuf> = LazyLock::new(|| build(&["-DOLD"]));

fn build(flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fake_nrt/fake_nrt.c");
    let library = tempfile::tempdir()
        .expect("a temporary folder")
        .keep()
        .join("libnrt.so.1");
    let status = Command::new("cc")
        .args([
            "-std=c11", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o",
        ])
        .args([&library, &source])
        .args(flags)
        .arg("-ldl")
        .status()
        .expect("a C compiler, `cc`");
    assert!(status.success(), "{} does not compile", source.display());
    library
}

/// A file that the stand-in takes for a NEFF: the documented header, then an archive with `tensors`, lines
/// `in|out NAME DTYPE DIM...`, and with the documented list of their names.
///
/// # Panics
/// If the archive cannot be made in memory.
pub fn neff(tensors: &str) -> Vec<u8> {
    let mut variables = serde_json::Map::new();
    for line in tensors.lines() {
        let mut words = line.split(' ');
        let way = if words.next() == Some("in") {
            "input"
        } else {
            "output"
        };
        let name = words.next().unwrap_or_default().to_owned();
        variables.insert(name, json!({"type": way}));
    }
    let definition = json!({"var": variables}).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, contents) in [("toy.txt", tensors), ("sg00/def.json", &definition)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let added = archive.append_data(&mut header, name, contents.as_bytes());
        added.expect("memory takes all");
    }
    let archive = archive.into_inner().expect("memory takes all");
    let mut file = vec![0; 1024];
    let mut field = |at: usize, value: u64| file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    field(0, 2); // pkg_version
    field(8, 1024); // header_size
    field(16, archive.len() as u64); // data_size
    field(24, 2); // neff_version_major
    field(32, 0); // neff_version_minor
    file[168..172].copy_from_slice(&1u32.to_le_bytes()); // num_tpb
    file.extend(archive);
    file
}

/// A NEFF of a model with inputs `names` of `[batch, seq]`, an output `output0` of `[batch, width]`, and f32 `weights` by name and shape.
pub fn toy_neff(
    names: &[&str],
    (batch, seq, width): (usize, usize, usize),
    weights: &[(&str, Vec<usize>)],
) -> Vec<u8> {
    let mut lines = Vec::new();
    lines.extend(
        names
            .iter()
            .map(|name| format!("in {name} 8 {batch} {seq}")),
    );
    for (name, shape) in weights {
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        lines.push(format!("in {name} 10 {}", shape.join(" ")));
    }
    lines.push(format!("out output0 10 {batch} {width}\n"));
    neff(&lines.join("\n"))
}

/// What the toy gives for one text: its row of `width` values. `weights`: what the separate ones add up to.
pub fn toy(ids: &[u32], types: &[u32], width: usize, weights: f64) -> Vec<f32> {
    let value = |l: i64| {
        let terms = ids.iter().enumerate().map(|(k, &id)| {
            let kind = i64::from(types.get(k).copied().unwrap_or(0));
            (i64::from(id) * (l + 1) + 7 * k as i64 + 13 * kind) % 97
        });
        (terms.sum::<i64>() as f64 + weights) as f32
    };
    (0..width as i64).map(value).collect()
}
