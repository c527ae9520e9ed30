//! The binary as a user meets it: help, version, usage errors, exit codes. Nothing here loads a model.

use std::process::{Command, Output};

fn koma(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_koma"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary is built with this test")
}

/// Runs `koma`, and checks its exit code and that each of `parts` is in what it prints: to standard output if it
/// succeeds, else to standard error.
fn check(arguments: &[&str], variables: &[(&str, &str)], code: i32, parts: &[&str]) {
    let output = koma(arguments, variables);
    let text = |bytes| String::from_utf8(bytes).expect("koma prints UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {out}{err}"
    );
    let (text, other) = if code == 0 { (out, err) } else { (err, out) };
    assert!(other.is_empty(), "{arguments:?}: {other}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "{arguments:?}: `{part}` in\n{text}");
    }
}

#[test]
fn help_shows_every_command_with_examples() {
    let commands = [
        "serve",
        "chat",
        "run",
        "models",
        "bench",
        "completions",
        "man",
        "side by side",
    ];
    check(&["--help"], &[], 0, &commands);
    let flags = ["--system", "--temperature", "--seed", "/help", "Examples:"];
    check(&["chat", "--help"], &[], 0, &flags);
    let tasks = ["classify", "rerank", "embed", "complete", "Examples:"];
    check(&["run", "--help"], &[], 0, &tasks);
    check(&["completions", "bash"], &[], 0, &commands[..7]);
    check(&["man"], &[], 0, &["koma\\-serve(1)", "koma\\-run(1)"]);
    check(
        &["man", "run", "embed"],
        &[],
        0,
        &["koma\\-run\\-embed", "truncate"],
    );
    let nowhere = [("HF_HOME", "/nowhere")];
    check(&["models"], &nowhere, 0, &["nothing in /nowhere/hub"]);
    let flags = [
        "[NAME=]SOURCE",
        "--host",
        "--port",
        "--dtype",
        "--kv-dtype",
        "--threads",
        "--kv-cache-memory",
        "--max-model-len",
        "--max-running",
        "--max-batch-tokens",
        "--data-dir",
        "--config",
        "--log-format",
        "--drain-timeout",
        "KOMA_MAX_MODEL_LEN",
        "Examples:",
        "koma serve chat=chat.gguf",
    ];
    check(&["serve", "--help"], &[], 0, &flags);
    let flags = [
        "--batch",
        "--input-len",
        "--output-len",
        "--runs",
        "--warmup",
        "--seed",
        "--json",
        "Examples:",
    ];
    check(&["bench", "throughput", "--help"], &[], 0, &flags);
    check(&["bench", "latency", "--help"], &[], 0, &flags);
    let flags = [
        "--url",
        "--endpoint",
        "--concurrency",
        "--rate",
        "--goodput",
        "KOMA_API_KEY",
        "Examples:",
    ];
    check(&["bench", "serve", "--help"], &[], 0, &flags);
    check(
        &["plan", "--help"],
        &[],
        0,
        &["SOURCE", "--batch", "--json"],
    );
    check(&["doctor", "--help"], &[], 0, &["--data-dir", "--json"]);
}

/// A tiny checkpoint of the repository.
fn golden(name: &str) -> String {
    format!(
        "{}/../tests/golden/{name}/model",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn a_model_is_exported_and_the_export_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("intent-neuron");
    let (model, out) = (golden("distilbert_classify"), out.to_str().unwrap());
    let make = [
        "export", &model, "--out", out, "--batch", "1,2", "--seq", "16",
    ];
    let parts = [
        "DistilBertForSequenceClassification",
        "sequence-classification",
        "input_ids, attention_mask",
        "logits [3]",
        "x, y, z",
        "b1_s16.hlo.pb",
        "b2_s16.hlo.pb",
        "2 modules",
    ];
    check(&make, &[], 0, &parts);
    check(&["export", "inspect", out], &[], 0, &parts[..7]);
    let output = koma(&["export", "inspect", out, "--json"], &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["manifest"]["buckets"][1]["batch"], 2);
    assert!(json["bytes"].as_u64().is_some_and(|bytes| bytes > 100_000));

    check(
        &make,
        &[],
        1,
        &["intent-neuron: is there already", "--force"],
    );
    check(&[&make[..], &["--force"]].concat(), &[], 0, &["2 modules"]);
    let module = format!("{out}/b1_s16.hlo.pb");
    std::fs::write(&module, "other").unwrap();
    check(
        &["export", "inspect", out],
        &[],
        1,
        &["b1_s16.hlo.pb: has 5 bytes"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_exported_is_said_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a");
    let out = out.to_str().unwrap();
    let (bert, modern) = (golden("bert_cross"), golden("modernbert_classify"));
    let cases: [(&[&str], i32, &[&str]); 8] = [
        (&[&bert], 2, &["--out <DIR>"]),
        (&["--out", out], 2, &["<SOURCE>"]),
        (
            &[&bert, "--out", out, "--batch", "one"],
            2,
            &["--batch", "one"],
        ),
        (
            &[&bert, "--out", out, "--precision", "f16"],
            2,
            &["--precision", "f16"],
        ),
        (&[&bert, "--out", out, "--batch", "0"], 1, &["batch 0"]),
        (
            &[&bert, "--out", out, "--seq", "65"],
            1,
            &["seq 65", "at most 64 tokens"],
        ),
        (
            &[&bert, "--out", out, "--seq", "8,8"],
            1,
            &["seq 8 is there twice"],
        ),
        (
            &[&modern, "--out", out],
            1,
            &[
                "ModernBertForSequenceClassification",
                "those that can",
                "DistilBert",
            ],
        ),
    ];
    for (arguments, code, parts) in cases {
        check(&[&["export"], arguments].concat(), &[], code, parts);
    }
    check(
        &["export", "inspect", out],
        &[],
        1,
        &["manifest.json", "not an export"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let flags = [
        "SOURCE",
        "--out",
        "--batch",
        "--seq",
        "--weights",
        "--precision",
        "--force",
        "inspect",
        "Examples:",
    ];
    check(&["export", "--help"], &[], 0, &flags);
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = format!("koma {} (", env!("CARGO_PKG_VERSION"));
    check(&["--version"], &[], 0, &[&version]);
}

#[test]
fn usage_errors_have_code_2_and_name_what_is_wrong() {
    check(&[], &[], 2, &["Usage: koma"]);
    check(&["sever"], &[], 2, &["sever"]);
    check(&["serve", "--prot", "1"], &[], 2, &["--prot", "--port"]);
    check(&["serve"], &[], 2, &["no model is given", "[NAME=]SOURCE"]);
    check(&["serve", "x", "--port", "x"], &[], 2, &["x"]);
    check(
        &["serve", "a/b", "--port", "http"],
        &[],
        2,
        &["--port", "`http`", "0 to 65535"],
    );
    check(
        &["serve", "a/b", "--kv-dtype", "int4"],
        &[],
        2,
        &[
            "--kv-dtype",
            "`int4`",
            "auto, f32, bf16, int8, f16, fp8-e4m3",
        ],
    );
    check(
        &["serve", "a/b"],
        &[("KOMA_THREADS", "many")],
        2,
        &["KOMA_THREADS", "1 to 1024"],
    );
    check(
        &["serve", "a/b", "--config", "/none.toml"],
        &[],
        2,
        &["--config", "/none.toml"],
    );
    check(&["serve", "x/y", "z/y"], &[], 2, &["two models", "`y`"]);
    check(&["chat"], &[], 2, &["SOURCE"]);
    check(
        &["chat", "a/b", "--top-p", "2"],
        &[],
        2,
        &["--top-p: must be from 0 to 1, got 2.0"],
    );
    check(&["run", "rerank", "a/b", "query"], &[], 2, &["documents"]);
    check(&["man", "sever"], &[], 2, &["no command `sever`", "serve"]);
    check(&["bench", "throughput"], &[], 2, &["SOURCE"]);
    let no_url = ["bench", "serve", "--url", "localhost:1"];
    check(&no_url, &[], 2, &["--url", "http://127.0.0.1:8080"]);
    check(
        &["bench", "throughput", "a/b", "--batch", "0"],
        &[],
        2,
        &["--batch", "1..="],
    );
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_process_with_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    std::fs::write(&file, "this is not a model").unwrap();
    let source = file.to_str().unwrap();
    let output = koma(&["serve", "--port", "0", "--log", "error", source], &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("error: model `broken` cannot be loaded"),
        "{text}"
    );
    assert!(text.contains("broken.gguf"), "{text}");
    // What is wrong with the place of the result is said before anything is loaded.
    let json = "/nowhere/result.json";
    for command in ["bench throughput", "bench latency", "plan"] {
        let words = command.split(' ').chain(["--json", json, source]);
        let arguments: Vec<&str> = words.collect();
        let expected = "error: --json: /nowhere/result.json cannot be written: ";
        check(&arguments, &[], 1, &[expected]);
    }
    check(&["doctor", "--json", json], &[], 1, &["--json: ", json]);
    let url = [
        "bench",
        "serve",
        "--url",
        "http://127.0.0.1:1",
        "--json",
        json,
    ];
    check(&url, &[], 1, &["--json: ", json]);
    let arguments = ["bench", "throughput", "--log", "error", source];
    check(&arguments, &[], 1, &["model `broken` cannot be loaded"]);
}

#[test]
fn a_port_in_use_is_said_before_anything_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.gguf");
    std::fs::write(&source, "").unwrap();
    let arguments = [
        "serve",
        "--log",
        "error",
        "--port",
        &port,
        source.to_str().unwrap(),
    ];
    check(
        &arguments,
        &[],
        1,
        &["cannot listen on 127.0.0.1", "the port is in use", "--port"],
    );
}
