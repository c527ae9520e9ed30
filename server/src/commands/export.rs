//! `koma export`: from a model to what a Neuron device is given.
//!
//! Owns: what is said about it. Must not know: how an export is made or checked; that is `koma-neuron-export`'s.

pub(crate) mod compile;
pub(crate) mod cost;
pub(crate) mod inspect;
mod interrupt;
pub(crate) mod verify;

use super::start;
use crate::config::{ExportConfig, LogFormat};
use crate::output;
use crate::progress::{Progress, Unit};
use anyhow::Context;
use interrupt::interruptible;
use koma_engine::models::blueprint;
use koma_neuron_export::manifest::Manifest;
use koma_neuron_export::{Stop, export};

/// Makes an export, and says what is in it.
///
/// # Errors
/// If the model cannot be read or exported, or the export not be written.
pub(crate) fn make(config: &ExportConfig) -> anyhow::Result<()> {
    let manifest = interruptible(|stop| export(config, stop))??;
    output::print(&format!(
        "{}{}",
        inspect::text(&manifest),
        next(&config.options.out, &manifest)
    ))
}

fn export(config: &ExportConfig, stop: &Stop) -> anyhow::Result<Manifest> {
    let options = start::options(&config.local.model, &config.local.process);
    let model = blueprint(&config.local.model.source, &options);
    let model = model.with_context(|| start::cannot_load(&config.local.model))?;
    // Its bar must be gone before the next one.
    drop(options);
    let may_draw = config.local.process.log_format == LogFormat::Text;
    let bar = Progress::start(
        format!("exporting {}", config.local.model.name),
        Unit::Bytes,
        may_draw,
    );
    export::export(&model, &config.options, stop, &|done, total| {
        bar.set(done.min(total), total);
    })
    .with_context(|| format!("the model `{}` cannot be exported", config.local.model.name))
}

/// What can be done with an export.
fn next(out: &std::path::Path, manifest: &Manifest) -> String {
    let out = out.display();
    let modules = manifest.buckets.len();
    format!("\n{modules} modules written to {out}. Nothing has been executed yet.\n")
}
