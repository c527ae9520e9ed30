//! `koma doctor`: what this machine gives, what this process may use of it, and what to do about what is wrong.
//!
//! Owns: the questions and the advice. Must not know: models.
//!
//! Invariant: every number shown was read or measured in this run; what could not be is said to be unknown.

mod advice;
mod disk;
mod facts;
mod neuron;
mod rates;
mod report;

use crate::config::DoctorConfig;
use crate::output::Results;
use facts::Facts;
use neuron::Neuron;
use report::Report;

/// Looks, measures for a few seconds, and writes what was found.
///
/// # Errors
/// If the result cannot be written.
pub(crate) fn doctor(config: &DoctorConfig) -> anyhow::Result<()> {
    let results = Results::open(config.json.as_deref())?;
    let folder = config.folder.clone();
    let folder = folder.unwrap_or_else(crate::args::temporary_folder);
    let before = Facts::take();
    let rates = rates::measure(config, &before.survey);
    let disk = disk::measure(&folder);
    let report = Report {
        process: config.process.clone(),
        stolen: before.stolen_until_now(),
        facts: before,
        neuron: Neuron::look(config.neuron_library.as_deref()),
        rates,
        free: disk::free(&folder).ok(),
        folder,
        disk: disk.map_err(|error| error.to_string()),
    };
    results.write(&report.json(), &report.text())
}
