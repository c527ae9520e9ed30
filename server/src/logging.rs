//! Where log lines go: standard error, as text for people or as one JSON object per line.
//!
//! Must not know: what is logged. Invariant (kept by everybody who logs): no text of prompts or answers.

use crate::config::{LogFormat, ProcessConfig};
use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging for the process.
pub(crate) fn start(config: &ProcessConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_filter).context("the log filter")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(config.color && std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))?;
    // The message of a panic may quote a prompt; where it happened does not.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let at = panic.location().map(ToString::to_string);
        tracing::error!(thread = thread.name(), at, "a thread panicked");
    }));
    Ok(())
}
