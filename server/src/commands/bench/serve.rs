//! `koma bench serve`: drives an OpenAI-compatible server and reports what its clients would see.
//!
//! Owns: prompts of exact length, arrivals, the clock, kinds of failure. Must not know: what kind of server answers.
//!
//! Invariants: at a rate, requests are sent when they are due, whatever became of those before, and times count from when a
//! request was due (no coordinated omission); requests before the first measurement count nowhere; a reply's memory is bounded.

mod answer;
mod client;
mod outcome;
mod pace;
mod report;
mod request;
mod sse;
#[cfg(test)]
mod tests;
mod totals;

use crate::config::{BenchServeConfig, LogFormat, Pace};
use crate::output::Results;
use crate::progress::{Progress, Unit};
use answer::{Fault, FaultKind};
use anyhow::{Context, anyhow, bail, ensure};
use client::{Client, Served};
use futures_util::{StreamExt, stream};
use outcome::{Outcome, Series};
use pace::arrivals;
use report::Report;
use request::Requests;
use tokio::time::Instant;

/// Attempts to find how many words make a prompt of the length that is asked for.
const FITTINGS: usize = 8;

/// Measures, and writes the result.
///
/// # Errors
/// If the server does not answer the first request, or none of a series, or Ctrl-C ends it early, or the result cannot be
/// written. Other failures are a part of the result.
pub(crate) fn serve(config: &BenchServeConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let results = Results::open(config.json.as_deref())?;
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Nobody will say so; the signal ends the process then.
            std::future::pending::<()>().await;
        }
    };
    let report = runtime.block_on(measure(config, stop))?;
    results.write(&report.json(), &report.table())?;
    report.check(config.paces.len())
}

/// Measures until the end or until `stop`, which leaves the measurements that are whole.
async fn measure(
    config: &BenchServeConfig,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Report> {
    let mut stop = std::pin::pin!(stop);
    let client = Client::new(config)?;
    let requests = tokio::select! {
        requests = prepare(&client, config) => requests?,
        () = &mut stop => bail!("stopped before anything was measured"),
    };
    let mut all = Vec::with_capacity(config.paces.len());
    for (index, pace) in config.paces.iter().enumerate() {
        let same = |other: &&Pace| *other == pace;
        let before = config.paces[..index].iter().filter(same).count();
        let plan = Plan {
            pace: *pace,
            series: pace::series(*pace, before),
            requests: config.requests,
            title: pace::name(*pace),
        };
        tokio::select! {
            series = drive(&client, &requests, &plan, config) => all.push(series),
            () = &mut stop => {
                ensure!(!all.is_empty(), "stopped before a measurement was whole");
                break;
            }
        }
    }
    Ok(Report::new(config, &requests, all))
}

/// Finds out what to send, and warms up.
async fn prepare(client: &Client, config: &BenchServeConfig) -> anyhow::Result<Requests> {
    let mut requests = Requests::new(config, model(client, config).await?);
    settle(client, &mut requests).await?;
    let warmup = Plan {
        pace: Pace::Concurrency(concurrency(config)),
        series: 0,
        requests: config.warmup,
        title: "warming up".to_owned(),
    };
    drive(client, &requests, &warmup, config).await;
    Ok(requests)
}

/// Requests in flight while warming up: as many as are measured first.
fn concurrency(config: &BenchServeConfig) -> usize {
    match config.paces.first() {
        Some(Pace::Concurrency(n)) => *n,
        _ => 8,
    }
}

/// The model that is asked: the one named, or the only one there is.
async fn model(client: &Client, config: &BenchServeConfig) -> anyhow::Result<Served> {
    let listed = client.models().await;
    if let Some(name) = &config.model {
        // A server need not list its models.
        let mut listed = listed.unwrap_or_default().into_iter();
        let found = listed.find(|one| one.name == *name);
        return Ok(found.unwrap_or_else(|| Served::unknown(name.clone())));
    }
    let listed = listed.map_err(|fault| {
        anyhow!(
            "{}/v1/models: {fault}; is it a server, and does it want --model?",
            config.url
        )
    })?;
    match listed.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("--model: {} names no model", config.url),
        several => {
            let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
            bail!(
                "--model: {} has several models; choose one of {}",
                config.url,
                names.join(", ")
            )
        }
    }
}

/// Finds out what the server takes: whether it knows `ignore_eos` and `min_tokens`, whether a prompt may be token ids, and
/// how many words make a text as long as asked.
async fn settle(client: &Client, requests: &mut Requests) -> anyhow::Result<()> {
    let mut answer = loop {
        match client.ask(requests.endpoint(), requests.body(0, 0)).await {
            Ok(answer) => break answer,
            Err(Fault {
                kind: FaultKind::Status(400 | 422),
                message,
            }) if requests.forces_length() && mentions_force(&message) => {
                requests.do_not_force_length();
            }
            Err(Fault {
                kind: FaultKind::Status(400 | 422),
                message,
            }) if requests.writes_ids() && wants_text(&message) => requests.write_words(),
            Err(fault) => return Err(first_failed(&fault)),
        }
    };
    if requests.writes_ids() {
        return Ok(());
    }
    for attempt in 1..FITTINGS {
        // Without the server's count nothing can be fitted; the report says so.
        let Some(found) = answer.input else { break };
        if !requests.fit(found)? {
            break;
        }
        let body = requests.body(0, attempt as u64);
        answer = client
            .ask(requests.endpoint(), body)
            .await
            .map_err(|fault| first_failed(&fault))?;
    }
    Ok(())
}

fn mentions_force(message: &str) -> bool {
    message.contains("ignore_eos") || message.contains("min_tokens")
}

/// Whether the message of a refusal is about a type: that of prompts is the one there are two of.
fn wants_text(message: &str) -> bool {
    message.contains("string") || message.contains("str type")
}

fn first_failed(fault: &Fault) -> anyhow::Error {
    anyhow!("the first request failed, nothing is measured: {fault}")
}

/// One measurement.
struct Plan {
    pace: Pace,
    /// Prompts of two series differ.
    series: u64,
    requests: usize,
    title: String,
}

/// Sends all requests of `plan` and waits for their ends.
async fn drive(
    client: &Client,
    requests: &Requests,
    plan: &Plan,
    config: &BenchServeConfig,
) -> Series {
    let may_draw = config.process.log_format == LogFormat::Text;
    let progress = Progress::start(plan.title.clone(), Unit::Runs, may_draw);
    let total = plan.requests as u64;
    progress.set(0, total);
    let due = arrivals(plan.pace, plan.requests, config.seed, plan.series);
    let started = Instant::now();
    // The body is made before the request is due, the reply's clock runs from when it is.
    let prepared = stream::iter(due.into_iter().enumerate()).then(async |(index, due)| {
        let body = requests.body(plan.series, (FITTINGS + index) as u64);
        if let Some(due) = due {
            tokio::time::sleep_until(started + due).await;
        }
        (due, body)
    });
    let sent = prepared.map(async |(due, body)| {
        let sent = started.elapsed();
        let answer = client.ask(requests.endpoint(), body).await;
        Outcome {
            due: due.unwrap_or(sent),
            sent,
            ended: started.elapsed(),
            answer,
        }
    });
    let at_once = match plan.pace {
        Pace::Concurrency(n) => n,
        Pace::Rate(_) => plan.requests.max(1),
    };
    let mut outcomes = Vec::with_capacity(plan.requests);
    let mut ended = std::pin::pin!(sent.buffer_unordered(at_once));
    while let Some(outcome) = ended.next().await {
        outcomes.push(outcome);
        progress.set(outcomes.len() as u64, total);
    }
    outcomes.sort_by_key(|outcome: &Outcome| outcome.due);
    Series {
        pace: plan.pace,
        outcomes,
    }
}
