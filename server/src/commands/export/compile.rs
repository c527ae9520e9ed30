//! `koma export compile`: modules become NEFFs.

use super::interrupt::interruptible;
use crate::output::{self, table};
use koma_neuron_export::compile::{CompileOptions, compile as all};
use koma_neuron_export::manifest::{Manifest, Status};
use std::path::Path;

/// Compiles every bucket of the export `artifact`, and shows what came of it.
///
/// # Errors
/// If the compiler is not there, or fails; the export is then as it was.
pub(crate) fn compile(artifact: &Path, options: &CompileOptions) -> anyhow::Result<()> {
    let told = |index: usize, manifest: &Manifest| {
        let (file, count) = (&manifest.buckets[index].hlo.file, manifest.buckets.len());
        output::note(&format!("compiling {file} ({} of {count})\n", index + 1));
    };
    let manifest = interruptible(|stop| all(artifact, options, stop, told))??;
    output::print(&text(&manifest))
}

fn text(manifest: &Manifest) -> String {
    let head = ["", "bytes", "NEFF", "blocks", "compiler"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let neffs = manifest.buckets.iter().filter_map(|b| b.neff.as_ref());
    rows.extend(neffs.clone().map(|neff| {
        let [major, minor] = neff.neff_version;
        vec![
            neff.file.clone(),
            neff.bytes.to_string(),
            format!("{major}.{minor}"),
            neff.num_tpb.to_string(),
            neff.compiler.clone(),
        ]
    }));
    let status = match manifest.status {
        Status::Exported => "exported: the modules are not verified (koma export verify)",
        Status::HloVerified => {
            "hlo-verified: the legacy compiler's NEFFs do not count, nobody has checked them"
        }
        Status::NeffCompiled => "neff-compiled: no device has executed the NEFFs yet",
        Status::DeviceVerified => "device-verified",
    };
    format!("{}status: {status}\n", table(&rows))
}
