//! `koma run`: one question to one model.
//!
//! Owns: what is asked, and the answer for people. Must not know: how it is answered: the question goes to the server's own
//! routes, inside this process and without a network, so that answers and errors are the server's.
//!
//! Invariant: texts are read before the model is loaded, and nothing but the answer is on standard output.

mod ask;
mod show;

use super::start;
use crate::config::{RunConfig, RunTask};
use crate::output;
use anyhow::{Context, bail, ensure};
use ask::{Asked, Question};
use koma_engine::{SamplingOptions, TaskKind};
use serde_json::{Map, Value, json};
use std::io::Read;

/// Asks, and prints the answer.
///
/// # Errors
/// If standard input cannot be read, the model cannot be loaded or does not do what is asked, or the answer is an error.
pub(crate) fn run(config: &RunConfig) -> anyhow::Result<()> {
    let texts = texts(config)?;
    let model = start::single(&config.local)?;
    let kinds = kinds(&config.task);
    ensure!(
        kinds.iter().any(|kind| model.serves(*kind)),
        "the model `{}` does not serve {}; it serves {}",
        model.name(),
        kinds[0].name(),
        serves(&model)
    );
    let asked = Asked::new(model);
    start::runtime()?.block_on(answer(config, &asked, &texts))
}

async fn answer(config: &RunConfig, asked: &Asked, texts: &[String]) -> anyhow::Result<()> {
    if config.json {
        let reply = asked.whole(&question(config, texts)?).await?;
        output::print_bytes(&reply)?;
        return output::print("\n");
    }
    if let RunTask::Complete(options) = &config.task {
        // For a person one text after the other, as it comes.
        for text in texts {
            let body = complete(json!(text), options, config.truncate, true);
            asked
                .stream(&Question::new("/v1/completions", body))
                .await?;
        }
        return Ok(());
    }
    let reply = asked.whole(&question(config, texts)?).await?;
    let reply: Value = serde_json::from_slice(&reply).context("the answer")?;
    output::print(&match config.task {
        RunTask::Classify { .. } => show::classified(&reply, texts, asked.labels()),
        RunTask::Rerank { .. } => show::ranked(&reply, texts),
        RunTask::Embed | RunTask::Complete(_) => show::vectors(&reply),
    })
}

/// What a model may serve to be asked this; the first gives the task its name.
fn kinds(task: &RunTask) -> &'static [TaskKind] {
    match task {
        RunTask::Classify { .. } => &[TaskKind::Classify, TaskKind::Tag],
        RunTask::Rerank { .. } => &[TaskKind::Score],
        RunTask::Embed => &[TaskKind::Embed],
        RunTask::Complete(_) => &[TaskKind::Generate],
    }
}

/// What a model serves, and the command for it.
fn serves(model: &koma_server::ServedModel) -> String {
    let command = |kind: &TaskKind| match kind {
        TaskKind::Generate => "koma run complete, koma chat",
        TaskKind::Embed => "koma run embed",
        TaskKind::Classify | TaskKind::Tag => "koma run classify",
        TaskKind::Score => "koma run rerank",
    };
    let tasks = model.handle.info().tasks.iter();
    let tasks: Vec<_> = tasks
        .map(|kind| format!("{} ({})", kind.name(), command(kind)))
        .collect();
    tasks.join(", ")
}

/// The body of a request, as the route reads it.
fn question(config: &RunConfig, texts: &[String]) -> anyhow::Result<Question> {
    let truncate = config.truncate;
    let (route, body) = match &config.task {
        RunTask::Classify { raw, aggregation } => {
            let mut body = json!({"input": texts, "raw_scores": raw, "truncate": truncate});
            if let Some(strategy) = aggregation {
                body["aggregation_strategy"] = json!(strategy);
            }
            ("/classify", body)
        }
        RunTask::Embed => (
            "/v1/embeddings",
            json!({"input": texts, "truncate": truncate}),
        ),
        RunTask::Complete(options) => (
            "/v1/completions",
            complete(json!(texts), options, truncate, false),
        ),
        RunTask::Rerank { raw, top_n } => {
            let [query, documents @ ..] = texts else {
                bail!("a query and documents are needed");
            };
            let body = json!({
                "query": query,
                "documents": documents,
                "top_n": top_n,
                "raw_scores": raw,
                "truncate": truncate,
            });
            ("/v1/rerank", body)
        }
    };
    Ok(Question::new(route, body))
}

/// The body of a completion, with the options that were given.
fn complete(prompt: Value, options: &SamplingOptions, truncate: bool, stream: bool) -> Value {
    let given = [
        ("max_tokens", options.max_tokens.map(Value::from)),
        ("temperature", options.temperature.map(Value::from)),
        ("top_p", options.top_p.map(Value::from)),
        ("top_k", options.top_k.map(Value::from)),
        ("min_p", options.min_p.map(Value::from)),
        ("seed", options.seed.map(Value::from)),
        (
            "presence_penalty",
            options.presence_penalty.map(Value::from),
        ),
        (
            "frequency_penalty",
            options.frequency_penalty.map(Value::from),
        ),
        (
            "repetition_penalty",
            options.repetition_penalty.map(Value::from),
        ),
    ];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let mut body: Map<String, Value> = given.collect();
    body.insert("prompt".to_owned(), prompt);
    body.insert("stop".to_owned(), json!(options.stop));
    body.insert("truncate".to_owned(), json!(truncate));
    body.insert("stream".to_owned(), json!(stream));
    Value::Object(body)
}

/// The texts, `-` replaced by what standard input holds; enough of them, and none empty.
fn texts(config: &RunConfig) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::with_capacity(config.texts.len());
    for text in &config.texts {
        if text != "-" {
            texts.push(text.clone());
            continue;
        }
        let mut all = String::new();
        let mut input = std::io::stdin().lock();
        input.read_to_string(&mut all).context("standard input")?;
        if config.lines {
            let lines = all.lines().filter(|line| !line.trim().is_empty());
            texts.extend(lines.map(str::to_owned));
        } else {
            let end = all.strip_suffix('\n').unwrap_or(&all);
            texts.push(end.strip_suffix('\r').unwrap_or(end).to_owned());
        }
    }
    ensure!(!texts.is_empty(), "standard input holds no text");
    ensure!(texts.iter().all(|text| !text.is_empty()), "a text is empty");
    if matches!(config.task, RunTask::Rerank { .. }) {
        ensure!(
            texts.len() > 1,
            "nothing to rank: the first TEXT is the query, and there are no documents after it"
        );
    }
    Ok(texts)
}
