//! `koma completions`: the script that lets a shell complete commands and flags.

use crate::args::Cli;
use crate::output;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Prints the script for `shell`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "koma", &mut script);
    output::print_bytes(&script)
}
