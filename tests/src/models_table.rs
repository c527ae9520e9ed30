//! `docs/models.md`: every architecture and format that the registry names, with the fixtures that prove it and the tests that
//! read them.
//!
//! Invariant: nothing is listed without proof: an architecture or a format that no fixture has, and a fixture that no test
//! reads, are errors.

use crate::golden;
use koma_models::gguf::Gguf;
use koma_models::{LoadOptions, Source, Supported, outline};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A checkpoint of `golden/`, or the files of one folder that are.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// Its folder in `golden/`.
    pub case: String,
    /// As [`koma_models::Identity::architecture`]; empty for tensors that are no model's.
    pub architecture: String,
    /// What a GGUF file calls its architecture; none for a folder.
    pub gguf: Option<String>,
    /// How its tensors are stored.
    pub formats: BTreeSet<String>,
    /// The test files that name the case, as paths in `tests/`.
    pub tests: Vec<String>,
}

/// The document, from what there is.
///
/// # Errors
/// What has no proof.
pub fn render() -> Result<String, String> {
    let tests = test_sources()?;
    let fixtures = fixtures(&tests)?;
    let mut text = HEAD.to_owned();
    text += &architectures(&koma_models::architectures(), &fixtures)?;
    text += NOTES;
    text += "\n## Formats\n\n";
    text += &formats(&fixtures)?;
    Ok(text)
}

const HEAD: &str = "# Models

Every architecture and format, with the fixtures in `tests/golden` that prove it: answers of the reference libraries, which the tests
named here compare with ours. This page is made from the registry and from the fixtures by

    cargo run -p koma-tests --example models-table > docs/models.md

and a test fails when it is out of date, or when something has no fixture.

## Architectures

";

const NOTES: &str = "
- llama.cpp's converter writes Mistral 7B, Nemo and Small as `llama`, whose files have no key for a window: one that has a window
  (Mistral 7B v0.1) then sees everything. Load its folder where that matters. `mistral3` is the name in files of later models.
- Phi-3 and Phi-4-mini with LongRoPE serve the window of their first training (4,096 tokens), as transformers computes it. A larger
  `--max-model-len` loads them with their factors for longer requests, which then hold for all requests, as in llama.cpp and vLLM.
- FP8 and compressed-tensors checkpoints that want their activations quantized, on the fly or with scales of their own, are computed
  with activations as they are.
- A decoder's folder whose `modules.json` names a pooling (Qwen3-Embedding) is refused.
";

/// The table of architectures.
///
/// # Errors
/// An architecture, or one of its GGUF names, that no fixture proves; a fixture that no test reads.
pub fn architectures(known: &[Supported], fixtures: &[Fixture]) -> Result<String, String> {
    let mut text =
        "| `architectures` in config.json | task | folders | GGUF name | GGUF files |\n".to_owned();
    text += "|---|---|---|---|---|\n";
    for architecture in known {
        let name = architecture.name;
        let own = || fixtures.iter().filter(|f| f.architecture == name);
        let folders = proven(name, own().filter(|f| f.gguf.is_none()))?;
        let named = |called: &&str| {
            let of = own().filter(|f| f.gguf.as_deref() == Some(called));
            proven(&format!("GGUF files of {called}"), of)
        };
        let files: Vec<_> = architecture
            .gguf
            .iter()
            .map(named)
            .collect::<Result<_, _>>()?;
        let called: Vec<_> = architecture.gguf.iter().map(|n| format!("`{n}`")).collect();
        let (called, files) = (called.join("; "), files.join("; "));
        let task = architecture.task;
        let _ = writeln!(
            text,
            "| `{name}` | {task} | {folders} | {called} | {files} |"
        );
    }
    Ok(text)
}

/// The table of formats; the tests of its fixtures are in the table above.
///
/// # Errors
/// A type of GGUF tensors that no fixture has; a fixture that no test reads.
pub fn formats(fixtures: &[Fixture]) -> Result<String, String> {
    let mut text = "| format | in | fixtures |\n|---|---|---|\n".to_owned();
    let stored: BTreeSet<&String> = fixtures
        .iter()
        .filter(|f| f.gguf.is_none())
        .flat_map(|f| &f.formats)
        .collect();
    let folders = stored.into_iter().map(|f| (f.as_str(), false));
    let types = koma_models::gguf::types();
    for (format, gguf) in folders.chain(types.iter().map(|t| (*t, true))) {
        let of = |f: &&Fixture| f.gguf.is_some() == gguf && f.formats.contains(format);
        let shown = proven(format, fixtures.iter().filter(of))?;
        let place = if gguf { "GGUF" } else { "safetensors" };
        let _ = writeln!(text, "| {format} | {place} | {shown} |");
    }
    Ok(text)
}

/// The cases of fixtures, and the tests that read them.
fn proven<'a>(what: &str, fixtures: impl Iterator<Item = &'a Fixture>) -> Result<String, String> {
    let (cases, tests) = evidence(what, fixtures)?;
    Ok(format!("{} ({})", list(cases), list(tests)))
}

/// A set of names.
type Names<'a> = BTreeSet<&'a str>;

/// The cases of fixtures, and the tests that read them: none of the two is empty.
fn evidence<'a>(
    what: &str,
    fixtures: impl Iterator<Item = &'a Fixture>,
) -> Result<(Names<'a>, Names<'a>), String> {
    let (mut cases, mut tests) = (Names::new(), Names::new());
    for fixture in fixtures {
        if fixture.tests.is_empty() {
            return Err(format!("no test reads the fixture {}", fixture.case));
        }
        cases.insert(&fixture.case);
        tests.extend(fixture.tests.iter().map(String::as_str));
    }
    if cases.is_empty() {
        return Err(format!("no fixture in tests/golden proves {what}"));
    }
    Ok((cases, tests))
}

fn list(names: Names<'_>) -> String {
    let quoted: Vec<_> = names.into_iter().map(|n| format!("`{n}`")).collect();
    quoted.join(", ")
}

/// The sources of the tests that may read fixtures: paths in `tests/`, and texts.
fn test_sources() -> Result<Vec<(String, String)>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["", "parity_models"] {
        for path in paths(&root.join(folder))? {
            if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
                let name = path.strip_prefix(root).unwrap_or(&path);
                sources.push((name.display().to_string(), text));
            }
        }
    }
    Ok(sources)
}

/// The checkpoints of `golden/`, but for those that must not load.
fn fixtures(tests: &[(String, String)]) -> Result<Vec<Fixture>, String> {
    let mut found = Vec::new();
    for folder in paths(&golden::root())? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if !folder.is_dir() || name == "bad" {
            continue;
        }
        if folder.join("model").join("config.json").is_file() {
            let fixture = fixture(&name, &folder.join("model"), tests)?;
            found.extend(renamed(&fixture, tests));
            found.push(fixture);
        }
        for file in paths(&folder)? {
            let gguf = file.extension().is_some_and(|e| e == "gguf");
            let text = file.to_string_lossy();
            let later_part = text.contains("-of-") && !text.contains("-00001-of-");
            // Some files hold a vocabulary and no weights.
            if gguf && !later_part && !head(&file)?.1.is_empty() {
                found.push(fixture(&name, &file, tests)?);
            }
        }
    }
    Ok(found)
}

/// What a test makes of an embedder's fixture: the same under the name of the model that fills gaps.
fn renamed(fixture: &Fixture, tests: &[(String, String)]) -> Option<Fixture> {
    const NAME: &str = "ForMaskedLM";
    let renames = |test: &String| {
        let mut sources = tests.iter().filter(|(name, _)| name == test);
        sources.any(|(_, text)| text.contains(&format!("\"{NAME}\"")))
    };
    let stem = fixture.architecture.strip_suffix("Model")?;
    let readers: Vec<_> = fixture
        .tests
        .iter()
        .filter(|t| renames(t))
        .cloned()
        .collect();
    (!readers.is_empty()).then(|| Fixture {
        architecture: format!("{stem}{NAME}"),
        tests: readers,
        ..fixture.clone()
    })
}

fn fixture(case: &str, path: &Path, tests: &[(String, String)]) -> Result<Fixture, String> {
    let of = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let (source, gguf, formats) = if path.is_dir() {
        (Source::Folder(path.to_owned()), None, stored(path)?)
    } else {
        let (architecture, formats) = head(path)?;
        (Source::Gguf(path.to_owned()), Some(architecture), formats)
    };
    // Some files hold tensors that are no model's.
    let architecture = if gguf.as_deref() == Some("none") {
        String::new()
    } else {
        let outline = outline(&source, &LoadOptions::default());
        outline.map_err(|e| of(&e))?.architecture
    };
    let names = |text: &str| {
        [format!("\"{case}\""), format!("\"{case}/")]
            .iter()
            .any(|n| text.contains(n))
    };
    let readers = tests.iter().filter(|(_, text)| names(text));
    Ok(Fixture {
        case: case.to_owned(),
        architecture,
        gguf,
        formats,
        tests: readers.map(|(name, _)| name.clone()).collect(),
    })
}

/// What a GGUF file calls its architecture, and the types of its tensors.
fn head(path: &Path) -> Result<(String, BTreeSet<String>), String> {
    let of = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let bytes = std::fs::read(path).map_err(|e| of(&e))?;
    let gguf = Gguf::parse(path, &bytes).map_err(|e| of(&e))?;
    let called: &str = gguf.meta.get("general.architecture").map_err(|e| of(&e))?;
    let types = gguf.tensors.values().map(|t| t.format.name().to_owned());
    Ok((called.to_owned(), types.collect()))
}

/// The method by which a folder's weights are quantized, or the types of its tensors.
fn stored(folder: &Path) -> Result<BTreeSet<String>, String> {
    let config = std::fs::read(folder.join("config.json")).map_err(|e| e.to_string())?;
    let config: serde_json::Value = serde_json::from_slice(&config).map_err(|e| e.to_string())?;
    let spellings = ["quantization_config", "compression_config"];
    let mut methods = spellings.iter().map(|f| &config[*f]["quant_method"]);
    if let Some(method) = methods.find_map(serde_json::Value::as_str) {
        return Ok(BTreeSet::from([method.to_owned()]));
    }
    let mut types = BTreeSet::new();
    for path in paths(folder)? {
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
            let tensors =
                safetensors::SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
            let floats = tensors
                .tensors()
                .into_iter()
                .map(|(_, t)| format!("{:?}", t.dtype()));
            // Integers are positions that no model reads.
            types.extend(floats.filter(|t| !t.starts_with('I')));
        }
    }
    Ok(types)
}

/// What a folder holds, in the order of names.
fn paths(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}
