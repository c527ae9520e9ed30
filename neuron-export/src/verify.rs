//! [`verify`]: executes what an artifact holds on this machine's CPU, compares it with a [`Reference`], and writes what was found
//! into the manifest.
//!
//! Owns: which tolerance and which shapes count, what makes a check pass. Must not know: how an artifact is executed; that is the
//! Python program's in `checks/` ([`checker`]).
//!
//! Invariant: the manifest afterwards says what the last check found, also where it failed.

mod checker;
#[cfg(feature = "neuron")]
mod device;

use crate::manifest::{
    Manifest, ManifestError, Parity, Portable, PortableKind, Precision, Spread, Weights,
};
use crate::process::Stop;
use crate::reference::{Reference, other_id};
pub use checker::CheckerError;
use checker::{Artifact, Finding, Job};
#[cfg(feature = "neuron")]
pub use device::{Device, on_device};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to check.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyOptions {
    /// The Python that has jaxlib and the others of `checks/requirements.txt`.
    pub python: PathBuf,
    /// Limit for all of it.
    pub limit: Duration,
    /// The largest difference that passes where values are at most 1, if it is not the usual one ([`Manifest::tolerance`]).
    pub tolerance: Option<f64>,
}

/// Why nothing was checked. The artifact is as it was.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The artifact is refused, or its manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The Python program cannot do its work.
    #[error(transparent)]
    Checker(#[from] CheckerError),
}

/// What was found of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The file.
    pub file: String,
    /// The comparison; none if it was not executed.
    pub parity: Option<Parity>,
    /// How far ids under the mask moved an answer.
    pub masked_max_abs: Option<f64>,
    /// Why it fails; none if it passes.
    pub failure: Option<String>,
    /// Why it was not executed, where that is no failure.
    pub skipped: Option<String>,
}

/// The result.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// As it was written.
    pub manifest: Manifest,
    /// Buckets, then portable files.
    pub checked: Vec<Checked>,
    /// How far the buckets' answers to one input lie apart; none if one is not a number.
    pub spread: Option<Spread>,
    /// Whether all of it passes.
    pub passes: bool,
}

/// Checks the artifact `folder`, whose manifest was just read (which compares all files with their checksums); `reference` has its
/// rows.
///
/// # Errors
/// [`VerifyError`], if nothing could be checked. A check that fails is a result.
pub fn verify(
    (folder, manifest): (&Path, Manifest),
    reference: &Reference,
    options: &VerifyOptions,
    stop: &Stop,
) -> Result<Verified, VerifyError> {
    let tolerances = Tolerances::new(&manifest, reference, options);
    let job = job(folder, &manifest, reference, &tolerances);
    let report = checker::run(options, &job, reference, stop)?;
    let both = job.artifacts.iter().zip(&report.artifacts);
    let checked: Vec<Checked> = both
        .map(|(artifact, finding)| judged(artifact, finding, reference))
        .collect();
    let spread = report.spread.map(|max_abs| Spread {
        max_abs,
        tolerance: tolerances.spread,
    });
    let spread_holds = spread.as_ref().is_some_and(Spread::holds);
    let found = spread.clone();
    let manifest = manifest.update(folder, |now| record(now, &manifest, &checked, found))?;
    Ok(Verified {
        manifest,
        passes: spread_holds && checked.iter().all(|one| one.failure.is_none()),
        checked,
        spread,
    })
}

/// Writes what was found of the files of `then` into the manifest as it is `now`, with the same modules.
fn record(now: &mut Manifest, then: &Manifest, checked: &[Checked], spread: Option<Spread>) {
    now.spread = spread;
    let (buckets, portable) = checked.split_at(then.buckets.len());
    for (bucket, checked) in now.buckets.iter_mut().zip(buckets) {
        bucket.parity = evidence(checked);
    }
    for (file, checked) in then.portable.iter().zip(portable) {
        let same = |one: &&mut Portable| one.file_ref() == file.file_ref();
        if let Some(file) = now.portable.iter_mut().find(same)
            && checked.skipped.is_none()
        {
            file.parity = evidence(checked);
        }
    }
}

/// What the manifest says: nothing of a file whose other checks fail, so that it cannot count as verified.
fn evidence(checked: &Checked) -> Option<Parity> {
    let parity = checked.parity.clone()?;
    (checked.failure.is_none() || !parity.holds()).then_some(parity)
}

/// Largest differences.
struct Tolerances {
    /// Of the modules.
    modules: f64,
    /// Of the portable files, which are in f32 always.
    portable: f64,
    /// Of the modules' answers against each other's, whatever else may pass.
    spread: f64,
}

impl Tolerances {
    /// Where the reference has values above 1, tolerances grow with the largest: rounding is a share of what is rounded.
    fn new(manifest: &Manifest, reference: &Reference, options: &VerifyOptions) -> Self {
        let of = |precision| {
            let usual = || manifest.tolerance(precision);
            options.tolerance.unwrap_or_else(usual) * reference.scale()
        };
        Self {
            modules: of(manifest.numerics.compute),
            portable: of(Precision::F32),
            spread: manifest.spread_tolerance() * reference.scale(),
        }
    }
}

/// What a finding means.
fn judged(artifact: &Artifact, finding: &Finding, reference: &Reference) -> Checked {
    let mut checked = Checked {
        file: artifact.name.clone(),
        parity: None,
        masked_max_abs: finding.masked_max_abs,
        failure: None,
        skipped: None,
    };
    if let Some(module) = &finding.missing {
        checked.skipped = Some(format!("not executed: this Python has no {module}"));
        return checked;
    }
    if let Some(error) = &finding.error {
        checked.failure = Some(error.clone());
        return checked;
    }
    let Some(max_abs) = finding.max_abs else {
        checked.failure = Some("an answer is not a number".to_owned());
        return checked;
    };
    let tolerance = artifact.tolerance;
    let parity = Parity {
        reference: reference.name.clone(),
        runner: finding.runner.clone().unwrap_or_default(),
        cases: finding.cases,
        max_abs,
        argmax_agreement: finding.argmax_agreement,
        tolerance,
        scale: reference.scale(),
    };
    let moved = finding.masked_max_abs;
    checked.failure = if let Some(why) = disagreement(&parity) {
        Some(why)
    } else if moved.is_none_or(|moved| moved > tolerance) {
        let moved = moved.map_or("to no number".to_owned(), |m| format!("by {m:.1e}"));
        Some(format!("ids under the mask move an answer {moved}"))
    } else if !finding.empty_rows_finite {
        Some("rows of nothing but padding give values that are not numbers".to_owned())
    } else {
        None
    };
    checked.parity = Some(parity);
    checked
}

/// Why a comparison does not hold; none if it does.
fn disagreement(parity: &Parity) -> Option<String> {
    let Parity {
        max_abs, tolerance, ..
    } = parity;
    let agreement = parity.argmax_agreement.filter(|part| *part < 1.0);
    let agreement =
        agreement.map(|part| format!(", and only {part} of the clear rows have the same best"));
    let agreement = agreement.unwrap_or_default();
    let why = format!("is off by {max_abs:.1e}, the tolerance is {tolerance:.0e}{agreement}");
    (!parity.holds()).then_some(why)
}

/// What the Python program is told.
fn job(folder: &Path, manifest: &Manifest, reference: &Reference, tolerances: &Tolerances) -> Job {
    let separate = manifest.numerics.weights == Weights::Separate;
    let weights = manifest.numerics.weights_file.as_ref().filter(|_| separate);
    let weights = weights.map(|file| folder.join(&file.file));
    let buckets = manifest.buckets.iter().map(|bucket| Artifact {
        name: bucket.hlo.file.clone(),
        kind: "hlo",
        file: folder.join(&bucket.hlo.file),
        shapes: vec![[bucket.batch, bucket.seq]],
        tolerance: tolerances.modules,
        weights: weights.clone(),
        parameters: manifest.numerics.param_order.clone(),
    });
    let shapes = unused_shapes(manifest, reference);
    let portable = manifest
        .portable
        .iter()
        .map(|portable: &Portable| Artifact {
            name: portable.file.clone(),
            kind: match portable.kind {
                PortableKind::Onnx => "onnx",
                PortableKind::Torchscript => "torchscript",
            },
            file: folder.join(&portable.file),
            shapes: shapes.clone(),
            tolerance: tolerances.portable,
            weights: None,
            parameters: Vec::new(),
        });
    Job {
        inputs: manifest.inputs.iter().map(|i| i.name.name()).collect(),
        output: manifest
            .outputs
            .first()
            .map(|o| o.name.clone())
            .unwrap_or_default(),
        pad_id: manifest.tokenizer.pad_id,
        other_id: other_id(manifest),
        normalize: manifest.normalizes(),
        artifacts: buckets.chain(portable).collect(),
    }
}

/// Shapes that no bucket has, of sequences from the shortest to the longest row of the reference, for files that take any.
fn unused_shapes(manifest: &Manifest, reference: &Reference) -> Vec<[usize; 2]> {
    let mut lengths: Vec<usize> = reference.rows.iter().map(|row| row.ids.len()).collect();
    lengths.sort_unstable();
    let at = |part: usize| {
        lengths
            .get((lengths.len().max(1) - 1) * part / 3)
            .copied()
            .unwrap_or(1)
    };
    let most = manifest.tokenizer.max_length;
    let seqs = [at(0), at(1) + 1, at(2) + 1, at(3), at(3) + 3];
    let taken = |shape: [usize; 2]| manifest.buckets.iter().any(|b| [b.batch, b.seq] == shape);
    let shapes = [1, 2, 3, 5, 7].into_iter().zip(seqs);
    shapes
        .map(|(batch, seq)| {
            let mut shape = [batch, seq.min(most)];
            while taken(shape) {
                shape[0] += 1;
            }
            shape
        })
        .collect()
}

#[cfg(test)]
mod tests;
