//! `koma`: reads the command line, resolves it, runs a command.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod config;
mod logging;
mod output;
mod progress;
mod shutdown;

use args::{BenchCommand, Cli, Command, Environment, ExportArgs, ExportCommand, ManArgs};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use config::{
    BenchConfig, BenchServeConfig, ChatConfig, DoctorConfig, ExportConfig, LogFormat, ModelsConfig,
    PlanConfig, ProcessConfig, RunConfig, ServeConfig, Surroundings, VerifyConfig, compile_options,
};
use std::process::ExitCode;

// Many short-lived buffers from several threads: the system's allocator is the slower one there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            usage(&Cli::command().error(ErrorKind::ValueValidation, message))
        }
        Err(Failure::Logged) => ExitCode::FAILURE,
        // Whoever reads has seen enough: that is no failure.
        Err(Failure::Failed(error)) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            output::note(&format!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Why a command ends badly.
enum Failure {
    /// What was typed is wrong.
    Usage(String),
    /// It was right, and did not work.
    Failed(anyhow::Error),
    /// The same, and the log says so: its reader expects nothing but log lines.
    Logged,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let around = Surroundings::detect(&environment);
    match command {
        Command::Serve(args) => {
            let config =
                ServeConfig::resolve(&args, &environment, &around).map_err(Failure::Usage)?;
            logging::start(&config.process)?;
            commands::serve::serve(&config).map_err(|error| told(&config.process, error))?;
        }
        Command::Plan(args) => {
            let config =
                PlanConfig::resolve(&args, &environment, &around).map_err(Failure::Usage)?;
            logging::start(&config.process)?;
            commands::plan::plan(&config)?;
        }
        Command::Doctor(args) => {
            let config =
                DoctorConfig::resolve(&args, &environment, &around).map_err(Failure::Usage)?;
            logging::start(&config.process)?;
            commands::doctor::doctor(&config)?;
        }
        Command::Chat(args) => {
            let config =
                ChatConfig::resolve(&args, &environment, &around).map_err(Failure::Usage)?;
            logging::start(&config.local.process)?;
            commands::chat::chat(config)?;
        }
        Command::Run(command) => {
            let config =
                RunConfig::resolve(&command, &environment, &around).map_err(Failure::Usage)?;
            logging::start(&config.local.process)?;
            commands::run::run(&config)?;
        }
        Command::Models(args) => {
            let config =
                ModelsConfig::resolve(&args, &environment, &around).map_err(Failure::Usage)?;
            commands::models::models(&config)?;
        }
        Command::Export(args) => export(args, &environment, &around)?,
        Command::Completions(args) => commands::completions::completions(args.shell)?,
        Command::Man(ManArgs { dir: Some(dir), .. }) => commands::man::write_all(&dir)?,
        Command::Man(args) => {
            let command = commands::man::find(&args.command).map_err(Failure::Usage)?;
            commands::man::page(&command)?;
        }
        Command::Bench(command) => bench(&command, &environment, &around)?,
    }
    Ok(())
}

fn export(
    args: ExportArgs,
    environment: &Environment,
    around: &Surroundings,
) -> Result<(), Failure> {
    match args.command {
        Some(ExportCommand::Verify(args)) => {
            let config =
                VerifyConfig::resolve(&args, environment, around).map_err(Failure::Usage)?;
            logging::start(&config.process)?;
            commands::export::verify::verify(&config)?;
        }
        Some(ExportCommand::Compile(args)) => {
            let options = compile_options(&args, environment);
            commands::export::compile::compile(&args.artifact, &options)?;
        }
        Some(ExportCommand::Cost(args)) => commands::export::cost::cost(&args)?,
        Some(ExportCommand::Inspect(args)) => commands::export::inspect::inspect(&args)?,
        None => {
            let config =
                ExportConfig::resolve(&args.make, environment, around).map_err(Failure::Usage)?;
            logging::start(&config.local.process)?;
            commands::export::make(&config)?;
        }
    }
    Ok(())
}

fn bench(
    command: &BenchCommand,
    environment: &Environment,
    around: &Surroundings,
) -> Result<(), Failure> {
    let load = |args, runs, warmup| {
        let config = BenchConfig::resolve(args, (runs, warmup), environment, around)
            .map_err(Failure::Usage)?;
        logging::start(&config.process)?;
        Ok::<_, Failure>(config)
    };
    match command {
        BenchCommand::Throughput(args) => commands::bench::throughput(&load(args, 5, 1)?)?,
        BenchCommand::Latency(args) => commands::bench::latency(&load(args, 20, 2)?)?,
        BenchCommand::Serve(args) => {
            let config =
                BenchServeConfig::resolve(args, environment, around).map_err(Failure::Usage)?;
            logging::start(&config.process)?;
            commands::bench::serve(&config)?;
        }
    }
    Ok(())
}

/// With JSON logs an error is a log line as well.
fn told(process: &ProcessConfig, error: anyhow::Error) -> Failure {
    if process.log_format == LogFormat::Text {
        return Failure::Failed(error);
    }
    tracing::error!(error = format!("{error:#}"), "koma ends");
    Failure::Logged
}

/// Prints help, version or what is wrong, and gives the status that goes with it.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to do if the terminal is closed.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
