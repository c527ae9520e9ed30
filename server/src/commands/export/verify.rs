//! `koma export verify`: what an export holds, executed and compared.

use super::interrupt::interruptible;
use crate::config::{Expected, VerifyConfig};
use crate::output::{Results, table};
use anyhow::{Context, bail};
use koma_neuron_export::manifest::{Manifest, Spread};
use koma_neuron_export::models::kernels::{Class, Cx, Team};
use koma_neuron_export::models::{Dtype, LoadOptions, Source, load};
use koma_neuron_export::reference::Reference;
use koma_neuron_export::verify::{Checked, Verified, verify as check};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Checks, writes the manifest, and shows what was found.
///
/// # Errors
/// If something cannot be checked, or does not pass.
pub(crate) fn verify(config: &VerifyConfig) -> anyhow::Result<()> {
    let results = Results::open(config.json.as_deref())?;
    let manifest = Manifest::read(&config.artifact)?;
    let reference = match &config.expected {
        Expected::Golden(folder) => Reference::golden(folder, &manifest)?,
        Expected::Model(folder) => own(config, folder, &manifest)?,
    };
    let artifact = (config.artifact.as_path(), manifest);
    let verified = if config.on_device {
        on_device(config, artifact, &reference)?
    } else {
        interruptible(|stop| check(artifact, &reference, &config.options, stop))??
    };
    results.write(&json(&verified), &text(&verified, &reference))?;
    if !verified.passes {
        bail!(
            "{} does not agree with {}",
            config.artifact.display(),
            reference.name
        );
    }
    Ok(())
}

/// Koma's own rows of the model in `folder`, which must be the one that was exported.
fn own(config: &VerifyConfig, folder: &Path, manifest: &Manifest) -> anyhow::Result<Reference> {
    manifest.check_source(folder)?;
    manifest.check_weights(folder)?;
    let options = LoadOptions {
        name: folder.display().to_string(),
        dtype: Dtype::F32,
        fetch: config.process.fetch.clone(),
        ..LoadOptions::default()
    };
    let loaded = load(&Source::Folder(folder.to_owned()), &options);
    let loaded =
        loaded.with_context(|| format!("{}: the model cannot be loaded", folder.display()))?;
    if let Some(head) = &loaded.head {
        manifest.check_model(&config.artifact, (&loaded.identity, head, &loaded.limits))?;
    }
    Ok(Reference::of_model(&loaded, manifest, &cx(config))?)
}

fn cx(config: &VerifyConfig) -> Cx {
    let team = Arc::new(Team::new(config.process.threads));
    Cx::new(team, Class::Throughput, config.process.isa)
}

#[cfg(feature = "neuron")]
fn on_device(
    config: &VerifyConfig,
    artifact: (&Path, Manifest),
    reference: &Reference,
) -> anyhow::Result<Verified> {
    use koma_neuron_export::serving::{Cores, instance_type};
    use koma_neuron_export::verify::{Device, on_device};
    let instance = instance_type();
    let device = Device {
        cores: &Cores::start(config.neuron_library.as_deref())?,
        instance: instance.as_deref(),
        cx: &cx(config),
    };
    Ok(on_device(
        artifact,
        &device,
        reference,
        config.options.tolerance,
    )?)
}

#[cfg(not(feature = "neuron"))]
fn on_device(_: &VerifyConfig, _: (&Path, Manifest), _: &Reference) -> anyhow::Result<Verified> {
    bail!("--device neuron: this koma was built without the feature `neuron`")
}

/// Of a number of the usual size here: `4.8e-7`.
fn small(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.1e}"))
}

fn text(verified: &Verified, reference: &Reference) -> String {
    let head = [
        "",
        "rows",
        "max abs",
        "tolerance",
        "same best",
        "under mask",
        "",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(verified.checked.iter().map(row));
    let mut text = format!("against {}:\n{}", reference.name, table(&rows));
    let runners: std::collections::BTreeSet<&str> = verified
        .checked
        .iter()
        .filter_map(|c| Some(c.parity.as_ref()?.runner.as_str()))
        .collect();
    let runners: Vec<&str> = runners.into_iter().collect();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "executed by {}\n{}",
        runners.join(", "),
        apart(verified.spread.as_ref())
    );
    for one in &verified.checked {
        if let Some(why) = one.failure.as_ref().or(one.skipped.as_ref()) {
            let _ = writeln!(text, "{}: {why}", one.file);
        }
    }
    let status = serde_json::to_value(verified.manifest.status).unwrap_or_default();
    let _ = writeln!(text, "status: {}", status.as_str().unwrap_or_default());
    text
}

/// How far the modules' answers to one input lie apart.
fn apart(spread: Option<&Spread>) -> String {
    match spread {
        None => "FAILS: an answer to one of the inputs is not a number".to_owned(),
        Some(Spread { max_abs, tolerance }) => {
            let fails = if max_abs > tolerance { "FAILS: " } else { "" };
            format!(
                "{fails}the modules' answers to one input lie at most {max_abs:.1e} apart, the tolerance is {tolerance:.0e}"
            )
        }
    }
}

fn row(checked: &Checked) -> Vec<String> {
    let parity = checked.parity.as_ref();
    let agreement = parity.and_then(|p| p.argmax_agreement);
    let outcome = match (&checked.failure, &checked.skipped) {
        (Some(_), _) => "FAILS",
        (None, Some(_)) => "not executed",
        (None, None) => "agrees",
    };
    vec![
        checked.file.clone(),
        parity.map_or_else(|| "-".to_owned(), |p| p.cases.to_string()),
        small(parity.map(|p| p.max_abs)),
        small(parity.map(|p| p.tolerance)),
        agreement.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0)),
        small(checked.masked_max_abs),
        outcome.to_owned(),
    ]
}

fn json(verified: &Verified) -> Value {
    let one = |checked: &Checked| {
        json!({
            "file": checked.file,
            "parity": checked.parity,
            "masked_max_abs": checked.masked_max_abs,
            "failure": checked.failure,
            "skipped": checked.skipped,
        })
    };
    json!({
        "schema": "koma.export.verify/1",
        "passes": verified.passes,
        "status": verified.manifest.status,
        "spread": verified.spread.as_ref().map(|spread| spread.max_abs),
        "checked": verified.checked.iter().map(one).collect::<Vec<_>>(),
    })
}
