//! `koma export inspect`: what an export holds, for people and for programs.

use crate::args::InspectArgs;
use crate::output::{self, table};
use anyhow::Context;
use koma_neuron_export::manifest::{Manifest, Parity};
use koma_neuron_export::neff::Neff;
use serde_json::json;
use std::collections::BTreeSet;

/// Prints what an export holds, every file of which is checked.
///
/// # Errors
/// If it is damaged, or none.
pub(crate) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    if args.path.is_file() {
        return neff(&Neff::read(&args.path)?, args.json);
    }
    let manifest = Manifest::read(&args.path)?;
    if args.json {
        let json = json!({"manifest": manifest, "bytes": bytes(&manifest)});
        let json = serde_json::to_string_pretty(&json).context("the manifest as JSON")?;
        return output::print(&(json + "\n"));
    }
    output::print(&text(&manifest))
}

/// Prints what a compiled module says of itself.
fn neff(neff: &Neff, as_json: bool) -> anyhow::Result<()> {
    let [major, minor] = neff.version;
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
    if as_json {
        let json = json!({
            "name": neff.name,
            "neff_version": neff.version,
            "data_bytes": neff.data_bytes,
            "num_tpb": neff.num_tpb,
            "lnc_size": neff.lnc_size,
            "build": neff.build,
            "hash": neff.hash,
            "uuid": neff.uuid,
            "feature_bits": neff.feature_bits,
            "inputs": neff.variables.as_ref().map(|v| list(&v.inputs)),
            "outputs": neff.variables.as_ref().map(|v| list(&v.outputs)),
        });
        return output::print(&(json.to_string() + "\n"));
    }
    let mut text = format!(
        "name        {}\nbuild       {}\nhash        {}\nuuid        {}\nfeatures    {:#x}\nversion     {major}.{minor}\nblocks      {}\ncores each  {}\ndata        {}\n",
        output::clip(&neff.name, 100),
        output::clip(&neff.build, 100),
        neff.hash,
        neff.uuid,
        neff.feature_bits,
        neff.num_tpb,
        neff.lnc_size,
        mib(neff.data_bytes)
    );
    match &neff.variables {
        None => text += "inputs and outputs are not told\n",
        Some(variables) => {
            let line = |names| output::clip(&list(names).join(", "), 200);
            let names = format!(
                "inputs      {}\noutputs     {}\n",
                line(&variables.inputs),
                line(&variables.outputs)
            );
            text += &names;
        }
    }
    output::print(&text)
}

/// Bytes of all files of an export but its manifest.
fn bytes(manifest: &Manifest) -> u64 {
    manifest.files().iter().map(|(_, file)| file.bytes).sum()
}

/// A manifest in words.
pub(super) fn text(manifest: &Manifest) -> String {
    let (numerics, tokenizer) = (&manifest.numerics, &manifest.tokenizer);
    let names = |list: Vec<&str>| list.join(", ");
    let inputs = names(
        manifest
            .inputs
            .iter()
            .map(|input| input.name.name())
            .collect(),
    );
    let outputs = manifest.outputs.iter();
    let outputs: Vec<String> = outputs
        .map(|o| format!("{} [{}]", o.name, o.width))
        .collect();
    let mut lines = vec![
        ("model", manifest.source.architecture.clone()),
        ("weights", manifest.source.weights_hash.clone()),
        ("status", word(&manifest.status)),
        ("task", word(&manifest.task)),
        ("activation", word(&manifest.activation)),
        ("inputs", inputs),
        ("outputs", outputs.join(", ")),
        (
            "texts",
            format!(
                "up to {} tokens, ids below {}",
                tokenizer.max_length, tokenizer.vocab_size
            ),
        ),
        (
            "precision",
            format!("{}, GELU {}", word(&numerics.compute), word(&numerics.gelu)),
        ),
        ("weights are", place(manifest)),
    ];
    if !manifest.labels.is_empty() {
        lines.push(("labels", output::clip(&manifest.labels.join(", "), 100)));
    }
    if let Some(pooling) = &manifest.pooling {
        let length = if pooling.normalize {
            ", then divided by its length by the host"
        } else {
            ""
        };
        lines.push(("pooling", pooling.modes.join(" | ") + length));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:<width$}  {text}\n"));
    let lines: String = lines.collect();
    format!(
        "{lines}\n{}\noperations: {}\n",
        buckets(manifest),
        opcodes(manifest)
    )
}

/// A value of the manifest as it is written there.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn place(manifest: &Manifest) -> String {
    match &manifest.numerics.weights_file {
        None => "in each module".to_owned(),
        Some(file) => format!(
            "in {} ({}), {} tensors",
            file.file,
            mib(file.bytes),
            manifest.numerics.param_order.len()
        ),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The buckets, one a line.
fn buckets(manifest: &Manifest) -> String {
    let head = ["bucket", "module", "size", "off by", "compiled for"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let off = |parity: &Option<Parity>| match parity {
        None => "not executed".to_owned(),
        Some(parity) => format!("{:.1e} of {:.0e}", parity.max_abs, parity.tolerance),
    };
    for bucket in &manifest.buckets {
        rows.push(vec![
            format!("{} x {}", bucket.batch, bucket.seq),
            bucket.hlo.file.clone(),
            mib(bucket.hlo.bytes),
            off(&bucket.parity),
            bucket
                .neff
                .as_ref()
                .map_or_else(|| "-".to_owned(), |neff| word(&neff.target)),
        ]);
    }
    for portable in &manifest.portable {
        let beside = portable.data.as_ref();
        let beside = beside.map_or_else(String::new, |data| format!(" with {}", data.file));
        rows.push(vec![
            word(&portable.kind),
            portable.file.clone() + &beside,
            mib(portable.bytes),
            off(&portable.parity),
            "-".to_owned(),
        ]);
    }
    table(&rows)
}

/// The operations of all modules.
fn opcodes(manifest: &Manifest) -> String {
    let all = manifest
        .buckets
        .iter()
        .flat_map(|bucket| &bucket.hlo.opcodes);
    let all: BTreeSet<&str> = all.map(String::as_str).collect();
    all.into_iter().collect::<Vec<_>>().join(" ")
}
