//! The Python program of `checks/`: what it is told, how it is run, what it answers.

use super::VerifyOptions;
use crate::process::{self, Fault, Stop, quoted};
use crate::reference::Reference;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program: it is part of this one, so that both always fit.
const PROGRAM: [(&str, &str); 3] = [
    ("parity.py", include_str!("../../checks/parity.py")),
    ("runners.py", include_str!("../../checks/runners.py")),
    ("tensors.py", include_str!("../../checks/tensors.py")),
];
const REQUIREMENTS: &str = include_str!("../../checks/requirements.txt");

/// Why the program gave no report.
#[derive(Debug, thiserror::Error)]
pub enum CheckerError {
    /// There is no such Python.
    #[error("--python: {} cannot be run: {reason}", python.display())]
    Python {
        /// What was given.
        python: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// It lacks a library.
    #[error("{} has no {module}, which executes artifacts. Install it with\n  {} -m pip install {}", python.display(), python.display(), requirements())]
    Library {
        /// The Python.
        python: PathBuf,
        /// The library.
        module: String,
    },
    /// It failed.
    #[error("the checker {0}")]
    Failed(String),
    /// A file for it cannot be written.
    #[error("the checker's folder: {0}")]
    Io(#[from] io::Error),
}

/// The libraries with their versions, as pip takes them.
fn requirements() -> String {
    let lines = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join(" ")
}

/// The job, without its rows. Paths become absolute.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Job {
    pub(super) inputs: Vec<&'static str>,
    pub(super) output: String,
    pub(super) pad_id: u32,
    pub(super) other_id: u32,
    pub(super) normalize: bool,
    pub(super) artifacts: Vec<Artifact>,
}

/// A file to execute.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Artifact {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) file: PathBuf,
    pub(super) shapes: Vec<[usize; 2]>,
    pub(super) tolerance: f64,
    pub(super) weights: Option<PathBuf>,
    pub(super) parameters: Vec<String>,
}

/// What the program found, one finding per file of the job.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    pub(super) artifacts: Vec<Finding>,
    pub(super) spread: Option<f64>,
}

/// See `checks/parity.py`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Finding {
    pub(super) runner: Option<String>,
    pub(super) cases: usize,
    pub(super) max_abs: Option<f64>,
    pub(super) argmax_agreement: Option<f64>,
    pub(super) masked_max_abs: Option<f64>,
    pub(super) empty_rows_finite: bool,
    pub(super) error: Option<String>,
    pub(super) missing: Option<String>,
}

#[derive(Serialize)]
struct Whole<'a> {
    rows: &'a Path,
    #[serde(flatten)]
    job: &'a Job,
}

/// Runs the program.
pub(super) fn run(
    options: &VerifyOptions,
    job: &Job,
    reference: &Reference,
    stop: &Stop,
) -> Result<Report, CheckerError> {
    let folder = tempfile::Builder::new().prefix("koma-verify-").tempdir()?;
    for (name, text) in PROGRAM {
        std::fs::write(folder.path().join(name), text)?;
    }
    let rows = folder.path().join("rows.safetensors");
    std::fs::write(&rows, tensors(reference)?)?;
    let mut job = job.clone();
    for artifact in &mut job.artifacts {
        artifact.file = std::path::absolute(&artifact.file)?;
        artifact.weights = artifact
            .weights
            .take()
            .map(std::path::absolute)
            .transpose()?;
    }
    let path = folder.path().join("job.json");
    let whole = Whole {
        rows: &rows,
        job: &job,
    };
    std::fs::write(&path, serde_json::to_vec(&whole).map_err(io::Error::from)?)?;

    let mut command = Command::new(&options.python);
    command
        .arg("-B")
        .arg(folder.path().join("parity.py"))
        .arg(&path);
    let python = |reason: String| CheckerError::Python {
        python: options.python.clone(),
        reason,
    };
    let ended = process::run(&mut command, options.limit, stop).map_err(|fault| match fault {
        Fault::Missing | Fault::Io(_) => python(fault.to_string()),
        fault => CheckerError::Failed(format!("did not end: {fault}")),
    })?;
    if let Some(module) = missing_module(&ended.said).filter(|_| !ended.status.success()) {
        return Err(CheckerError::Library {
            python: options.python.clone(),
            module,
        });
    }
    if !ended.status.success() {
        let reason = format!("failed with {}{}", ended.status, quoted(&ended.said));
        return Err(CheckerError::Failed(reason));
    }
    let report: Report = serde_json::from_slice(&ended.stdout).map_err(|error| {
        CheckerError::Failed(format!("gave no report ({error}){}", quoted(&ended.said)))
    })?;
    if report.artifacts.len() != job.artifacts.len() {
        return Err(CheckerError::Failed(
            "left files out of its report".to_owned(),
        ));
    }
    let needed = |kind: &str| kind != "torchscript";
    let both = job.artifacts.iter().zip(&report.artifacts);
    let mut missing = both.filter_map(|(a, f)| f.missing.as_ref().filter(|_| needed(a.kind)));
    match missing.next() {
        None => Ok(report),
        Some(module) => Err(CheckerError::Library {
            python: options.python.clone(),
            module: module.clone(),
        }),
    }
}

/// The module that Python says it lacks.
fn missing_module(said: &str) -> Option<String> {
    let (_, name) = said.split_once("No module named '")?;
    Some(name.split('\'').next()?.to_owned())
}

/// The reference as `checks/parity.py` reads it.
fn tensors(reference: &Reference) -> io::Result<Vec<u8>> {
    let rows = || reference.rows.iter();
    let bytes = |values: &mut dyn Iterator<Item = u32>| -> Vec<u8> {
        values.flat_map(u32::to_le_bytes).collect()
    };
    let ids = bytes(&mut rows().flat_map(|row| row.ids.iter().copied()));
    let types = bytes(&mut rows().flat_map(|row| row.type_ids.iter().copied()));
    let lengths = bytes(&mut rows().map(|row| row.ids.len() as u32));
    let expected = bytes(&mut rows().flat_map(|row| row.expected.iter().map(|v| v.to_bits())));
    let width = rows().next().map_or(0, |row| row.expected.len());
    let tensors = [
        ("ids", Dtype::I32, vec![ids.len() / 4], &ids),
        ("type_ids", Dtype::I32, vec![types.len() / 4], &types),
        ("lengths", Dtype::I32, vec![rows().count()], &lengths),
        (
            "expected",
            Dtype::F32,
            vec![rows().count(), width],
            &expected,
        ),
    ];
    let views = tensors.into_iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(dtype, shape, data).map_err(io::Error::other)?;
        Ok((name, view))
    });
    let views = views.collect::<io::Result<Vec<_>>>()?;
    safetensors::serialize(views, None).map_err(io::Error::other)
}
