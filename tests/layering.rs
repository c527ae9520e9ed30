//! The shape of the workspace, checked against what cargo itself says: which crate may use which, that only `server` knows
//! the wire, where `unsafe` may be, and that every dependency comes from the registry under a permitted licence.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every permitted edge between members (architecture: arrows are the only edges). `tests` and `benches` may use all.
const EDGES: &[(&str, &str)] = &[
    ("koma-models", "koma-kernels"),
    ("koma-engine", "koma-models"),
    ("koma-neuron-export", "koma-models"),
    ("koma-server", "koma-engine"),
    ("koma-server", "koma-neuron-export"),
];
/// Crates that only the server may name: HTTP, Prometheus, the command line.
const SERVER_ONLY: &[&str] = &[
    "axum",
    "clap",
    "hyper",
    "indicatif",
    "prometheus",
    "tower",
    "tower-http",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// Dependencies of each member, dev-dependencies left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            let names = package["dependencies"]
                .as_array()
                .expect("a list of dependencies")
                .iter();
            let names = names
                .filter(|d| d["kind"].is_null())
                .map(|d| text(&d["name"]))
                .collect();
            (text(&package["name"]), names)
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// What is wrong with these dependencies; empty if nothing.
fn violations(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (package, uses) in dependencies {
        if matches!(package.as_str(), "koma-tests" | "koma-benches") {
            continue;
        }
        for used in uses {
            let member = used.starts_with("koma-");
            if member && !EDGES.contains(&(package.as_str(), used.as_str())) {
                wrong.push(format!("{package} -> {used}"));
            }
            if SERVER_ONLY.contains(&used.as_str()) && package != "koma-server" {
                wrong.push(format!("{package} -> {used}"));
            }
        }
    }
    wrong
}

#[test]
fn crates_use_each_other_in_one_direction() {
    let mut dependencies = dependencies();
    assert_eq!(violations(&dependencies), Vec::<String>::new());
    // The check can fail: an edge upwards and a wire crate below the server are both seen.
    dependencies
        .entry("koma-kernels".into())
        .or_default()
        .extend(["koma-engine".into(), "axum".into()]);
    assert_eq!(
        violations(&dependencies),
        ["koma-kernels -> axum", "koma-kernels -> koma-engine"]
    );
}

#[test]
fn dependencies_come_from_the_registry_under_permitted_licences() {
    let deny: toml::Table = std::fs::read_to_string(root().join("deny.toml"))
        .expect("deny.toml")
        .parse()
        .expect("TOML");
    let allowed: BTreeSet<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let metadata = metadata(&[]);
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("a list") {
        let (name, source) = (text(&package["name"]), package["source"].as_str());
        match source {
            None if name.starts_with("koma-") => {}
            Some(s) if s.starts_with("registry+") => {}
            _ => wrong.push(format!("{name}: source {source:?}")),
        }
        let licence = package["license"].as_str().unwrap_or("none given");
        if !permitted(licence, &allowed) {
            wrong.push(format!("{name}: licence {licence}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(!permitted("GPL-3.0", &allowed) && !permitted("MIT AND GPL-3.0", &allowed));
    assert!(permitted("(MIT OR GPL-3.0) AND Zlib", &allowed));
}

/// Whether an SPDX expression can be satisfied with the allowed licences (the old `A/B` means OR).
fn permitted(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    fn split<'a>(expression: &'a str, word: &str) -> Vec<&'a str> {
        let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
        for (i, c) in expression.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 && i >= start && expression[i..].starts_with(word) => {
                    parts.push(&expression[start..i]);
                    start = i + word.len();
                }
                _ => {}
            }
        }
        parts.push(&expression[start..]);
        parts
    }
    let expression = expression.trim();
    if allowed.contains(expression) {
        return true;
    }
    for (word, all) in [(" OR ", false), ("/", false), (" AND ", true)] {
        let parts = split(expression, word);
        if parts.len() > 1 {
            return if all {
                parts.iter().all(|p| permitted(p, allowed))
            } else {
                parts.iter().any(|p| permitted(p, allowed))
            };
        }
    }
    expression
        .strip_prefix('(')
        .and_then(|e| e.strip_suffix(')'))
        .is_some_and(|e| permitted(e, allowed))
}

/// All Rust files below a folder of the workspace.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .expect("a folder")
            .map(|e| e.expect("an entry").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let code = std::fs::read_to_string(&entry).expect("a text");
                found.push((entry, code));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

#[test]
fn unsafe_code_lives_in_kernels_and_in_one_mmap() {
    for crate_root in [
        "engine/src/lib.rs",
        "neuron-export/src/lib.rs",
        "server/src/lib.rs",
    ] {
        let code = std::fs::read_to_string(root().join(crate_root)).expect("a crate root");
        assert!(code.contains("#![forbid(unsafe_code)]"), "{crate_root}");
    }
    let blocks: Vec<_> = sources("models/src")
        .into_iter()
        .flat_map(|(path, code)| {
            vec![path; code.matches("unsafe {").count() + code.matches("unsafe fn").count()]
        })
        .collect();
    assert_eq!(blocks.len(), 1, "{blocks:?}");
    assert!(
        blocks[0].ends_with("models/src/weights/files.rs"),
        "{blocks:?}"
    );
    assert!(
        sources("kernels/src")
            .iter()
            .any(|(_, code)| code.contains("unsafe {")),
        "the search finds unsafe code"
    );
}

#[test]
fn the_environment_is_read_in_one_file() {
    for folder in [
        "kernels/src",
        "models/src",
        "engine/src",
        "neuron-export/src",
        "server/src",
    ] {
        for (path, code) in sources(folder) {
            let reads = ["env::var(", "env::var_os(", "env::vars("]
                .iter()
                .any(|call| code.contains(call));
            assert!(
                !reads || path.ends_with("server/src/args.rs"),
                "{} reads the environment",
                path.display()
            );
        }
    }
}
