//! [`on_device`]: executes the compiled modules of an artifact on this machine's Neuron cores and compares their rows with a
//! [`Reference`].
//!
//! Must not know: how a core gets its work; that is `serving`'s. Invariant: as of [`super::verify`]; nothing but this makes an artifact
//! [`Status::DeviceVerified`](crate::manifest::Status).

use super::{Checked, Verified, disagreement, evidence};
use crate::manifest::{Bucket, Manifest, Parity, Spread, TOLERANCE_DEVICE};
use crate::reference::{Reference, Row, compute};
use crate::serving::{Cores, ServingError, alone};
use koma_models::kernels::{Cx, Error};
use std::path::Path;
use std::sync::Arc;

/// Where modules are executed.
pub struct Device<'a> {
    /// All of them are used.
    pub cores: &'a Arc<Cores>,
    /// As in [`crate::serving::ServingOptions`].
    pub instance: Option<&'a str>,
    /// What packs the rows.
    pub cx: &'a Cx,
}

/// Rows with their numbers in the reference.
type Rows = Vec<(usize, Vec<f32>)>;

/// Checks the NEFFs of the artifact `folder`, whose manifest was just read. `tolerance`: as in [`super::VerifyOptions`].
///
/// # Errors
/// [`ServingError`] if the artifact is not compiled, does not fit this machine, or cannot be loaded. A check that fails is a result.
pub fn on_device(
    (folder, manifest): (&Path, Manifest),
    device: &Device<'_>,
    reference: &Reference,
    tolerance: Option<f64>,
) -> Result<Verified, ServingError> {
    let names = (reference.name.as_str(), &*runner(device));
    let mut seen: Vec<Vec<Vec<f32>>> = vec![Vec::new(); reference.rows.len()];
    let (mut checked, mut near) = (Vec::new(), 0.0f64);
    for index in 0..manifest.buckets.len() {
        let mut one = manifest.clone();
        one.buckets = vec![manifest.buckets[index].clone()];
        let neff = one.buckets[0].neff.as_ref();
        let usual = neff.map_or(TOLERANCE_DEVICE, |neff| one.tolerance_on_device(neff));
        let limits = (
            tolerance.unwrap_or(usual) * reference.scale(),
            reference.scale(),
        );
        // Less than what two answers within their tolerances are apart at most.
        near = near.max(usual * reference.scale());
        let mut found = unchecked(&one.buckets[0]);
        match rows((folder, &one), device, reference)? {
            Ok(rows) => {
                let pairs = rows.iter();
                let pairs = pairs.map(|(i, row)| (&row[..], &reference.rows[*i].expected[..]));
                let parity = parity(pairs, limits, names);
                found.failure = disagreement(&parity);
                found.parity = Some(parity);
                for (number, row) in rows {
                    seen[number].push(row);
                }
            }
            Err(error) => found.failure = Some(error.to_string()),
        }
        checked.push(found);
    }
    let apart = seen.iter().map(|answers| spread(answers));
    let spread = Spread {
        max_abs: apart.fold(0.0, f64::max),
        tolerance: near,
    };
    let manifest = manifest.update(folder, |now| {
        let both = now.buckets.iter_mut().zip(&manifest.buckets);
        for ((bucket, then), found) in both.zip(&checked) {
            let executed = then.neff.as_ref().map(|neff| &neff.sha256);
            if let Some(neff) = &mut bucket.neff
                && executed == Some(&neff.sha256)
            {
                // Where answers lie too far apart, which of them is right is not known.
                neff.device_parity = evidence(found).filter(|_| spread.holds());
            }
        }
    })?;
    Ok(Verified {
        passes: spread.holds() && checked.iter().all(|one| one.failure.is_none()),
        manifest,
        checked,
        spread: Some(spread),
    })
}

/// The device's rows in the one bucket of an artifact, for those of the reference that fit into it, by their numbers there; or why it
/// gave none.
fn rows(
    (folder, manifest): (&Path, &Manifest),
    device: &Device<'_>,
    reference: &Reference,
) -> Result<Result<Rows, Error>, ServingError> {
    let seq = manifest.buckets[0].seq;
    let fitting = reference.rows.iter().enumerate();
    let fitting = fitting.filter(|(_, row)| row.ids.len() <= seq);
    let (numbers, mut rows): (Vec<usize>, Vec<Row>) =
        fitting.map(|(i, row)| (i, row.clone())).unzip();
    let encoder = alone(manifest, folder, device.cores, device.instance)?;
    let computed = compute(encoder.as_ref(), device.cx, &mut rows);
    let rows = rows.into_iter().map(|row| {
        let mut values = row.expected;
        manifest.scale_vector(&mut values);
        values
    });
    Ok(computed.map(|()| numbers.into_iter().zip(rows).collect()))
}

/// Of a bucket, before it is executed.
fn unchecked(bucket: &Bucket) -> Checked {
    let file = bucket.neff.as_ref().map(|neff| neff.file.clone());
    Checked {
        file: file.unwrap_or_default(),
        parity: None,
        masked_max_abs: None,
        failure: None,
        skipped: None,
    }
}

/// `libnrt 2.35.30.0 on inf2.xlarge`.
fn runner(device: &Device<'_>) -> String {
    let version = device.cores.version().unwrap_or("of unknown version");
    let instance = device
        .instance
        .map_or_else(String::new, |name| format!(" on {name}"));
    format!("libnrt {version}{instance}")
}

/// What pairs of rows, computed and expected, say. `names`: the reference's and the runner's; and what [`Parity`] calls by these
/// names.
fn parity<'a>(
    pairs: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    (tolerance, scale): (f64, f64),
    names: (&str, &str),
) -> Parity {
    let (mut cases, mut max_abs, mut clear, mut same) = (0, 0.0f64, 0, 0);
    for (got, want) in pairs {
        cases += 1;
        let off = got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs()));
        max_abs = off.fold(max_abs, f64::max);
        let mut sorted = want.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        if let [first, second, ..] = sorted[..]
            && f64::from(first - second) > 2.0 * tolerance
        {
            clear += 1;
            same += usize::from(best(got) == best(want));
        }
    }
    Parity {
        reference: names.0.to_owned(),
        runner: names.1.to_owned(),
        cases,
        max_abs,
        argmax_agreement: (clear > 0).then(|| same as f64 / f64::from(clear)),
        tolerance,
        scale,
    }
}

/// The place of the largest value.
fn best(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

/// How far answers to one input lie apart.
fn spread(answers: &[Vec<f32>]) -> f64 {
    let width = answers.first().map_or(0, Vec::len);
    let of = |i: usize| {
        let values = answers.iter().map(|row| f64::from(row[i]));
        let ends = values.fold((f64::MAX, f64::MIN), |(least, most), x| {
            (least.min(x), most.max(x))
        });
        ends.1 - ends.0
    };
    (0..width).map(of).fold(0.0, f64::max)
}
