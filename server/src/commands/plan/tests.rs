//! What is said of memory before loading is what loading says; wrong loads are refused with their flag.

use super::*;
use crate::args::{Cli, Command, Environment};
use crate::commands::device::Devices;
use crate::config::Surroundings;
use clap::Parser;
use koma_engine::EngineHandle;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests")
        .join(name)
}

pub(super) fn config(source: &Path, arguments: &str) -> PlanConfig {
    let words = ["koma", "plan", source.to_str().unwrap()].into_iter();
    let cli = Cli::try_parse_from(words.chain(arguments.split_whitespace())).unwrap();
    let Command::Plan(args) = cli.command else {
        panic!("another command");
    };
    let around = Surroundings {
        cores: 1,
        sagemaker: "/nowhere".into(),
        ..Surroundings::default()
    };
    PlanConfig::resolve(&args, &Environment::default(), &around).unwrap()
}

#[test]
fn memory_is_what_loading_reports() {
    for (name, arguments) in [
        ("models/intent", "--input-len 8"),
        ("models/rerank", "--input-len 8 --dtype f32"),
        (
            "golden/llama/model",
            "--input-len 4 --output-len 3 --kv-cache-memory 3M",
        ),
        (
            "golden/llama/model",
            "--input-len 4 --output-len 3 --dtype bf16 --kv-cache-memory 3M",
        ),
        (
            "golden/gemma2/model",
            "--input-len 4 --output-len 3 --kv-dtype int8 --kv-cache-memory 3M",
        ),
    ] {
        let config = config(&folder(name), arguments);
        let report = forecast_of(&config).unwrap();
        let generates = !report.outline.cache_groups.is_empty();
        let engine = start::engine_config(&config.model, generates, report.memory.cache);
        let loaded =
            start::load_model(&config.model, &config.process, (&Devices::default(), &None))
                .unwrap();
        assert_eq!(report.memory.weights, loaded.weight_bytes, "{name}");
        assert_eq!(report.outline, loaded.outline(), "{name}");
        let team = Arc::new(Team::new(1));
        let handle = EngineHandle::start(loaded, engine, team, config.process.isa).unwrap();
        let info = handle.info();
        let tokens = info.blocks * info.config.block_size;
        assert_eq!(report.memory.cache_tokens, tokens, "{name}");
        assert_eq!(report.memory.cache, if generates { 3 << 20 } else { 0 });
        // Products are read from hollow weights, each with its bytes.
        let prefill = &report.found.prefill;
        assert!(prefill.bytes > 0.0 && prefill.products > 0.0, "{name}");
        assert_eq!(report.found.decode.is_some(), generates);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(handle.shutdown(Instant::now()));
    }
}

#[test]
fn a_load_that_the_model_cannot_take_is_refused_with_its_flag() {
    for (name, arguments, part) in [
        ("models/intent", "--output-len 3", "--output-len"),
        ("models/intent", "--batch 9 --max-running 8", "--batch"),
        ("models/intent", "--device neuron", "koma bench serve"),
        ("models/intent", "--input-len 100000", "--input-len"),
        (
            "golden/llama/model",
            "--input-len 4 --output-len 3 --kv-cache-memory 1K",
            "--kv-cache-memory",
        ),
    ] {
        let error = forecast_of(&config(&folder(name), arguments)).unwrap_err();
        assert!(
            format!("{error:#}").contains(part),
            "{arguments}: {error:#}"
        );
    }
}
