//! `koma export cost`: the price of a million inferences, from a measurement and a price for an hour.
//!
//! Invariant: every number printed was given, measured by `koma bench`, or computed here from these two.

use crate::args::CostArgs;
use crate::output::{Results, table};
use anyhow::{Context, bail, ensure};
use koma_neuron_export::manifest::Manifest;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// The schemas that hold a throughput.
const THROUGHPUT: &str = "koma.bench.throughput/1";
const SERVE: &str = "koma.bench.serve/1";

/// One measured load on one machine.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    file: String,
    /// Processor or device.
    machine: String,
    /// `16 x 128 tokens`.
    load: String,
    /// Tokens of each request.
    tokens: u64,
    per_second: f64,
    /// Whether the file says which weights were measured, and they are the export's.
    same_weights: bool,
    /// Not of a release build.
    debug: bool,
}

/// A [`Measured`] with its price.
#[derive(Debug, Clone, PartialEq)]
struct Priced {
    measured: Measured,
    per_hour: f64,
}

impl Priced {
    /// Price of a million inferences at full load.
    fn per_million(&self) -> f64 {
        self.per_hour / (3600.0 * self.measured.per_second) * 1e6
    }

    fn json(&self) -> Value {
        let measured = &self.measured;
        json!({
            "file": measured.file,
            "machine": measured.machine,
            "load": measured.load,
            "tokens": measured.tokens,
            "inferences_per_second": measured.per_second,
            "price_per_hour": self.per_hour,
            "price_per_million": self.per_million(),
            "same_weights": measured.same_weights,
            "release_build": !measured.debug,
        })
    }
}

/// Prints the table.
///
/// # Errors
/// If flags do not pair up, the export is refused, or a file is no measurement of its model.
pub(crate) fn cost(args: &CostArgs) -> anyhow::Result<()> {
    let (files, prices) = (&args.bench, &args.price_per_hour);
    ensure!(
        files.len() == prices.len(),
        "--price-per-hour: {} prices for {} files of --bench; each file has its own",
        prices.len(),
        files.len()
    );
    let manifest = Manifest::read(&args.artifact)?;
    let mut all = Vec::new();
    for (path, per_hour) in files.iter().zip(prices) {
        let found = read(path, &manifest.source.weights_hash)
            .with_context(|| format!("--bench: {}", path.display()))?;
        all.extend(found.into_iter().map(|measured| Priced {
            measured,
            per_hour: *per_hour,
        }));
    }
    let json = json!({
        "schema": "koma.export.cost/1",
        "weights_hash": manifest.source.weights_hash,
        "rows": all.iter().map(Priced::json).collect::<Vec<_>>(),
    });
    Results::open(args.json.as_deref())?.write(&json, &text(&all))
}

/// The measurements in a file, of the model with these weights.
fn read(path: &Path, weights_hash: &str) -> anyhow::Result<Vec<Measured>> {
    let json: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let file = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    of_json(&json, file, weights_hash)
}

fn of_json(json: &Value, file: String, weights_hash: &str) -> anyhow::Result<Vec<Measured>> {
    let settings = &json["settings"];
    let tokens = settings["input_len"].as_u64();
    let tokens = tokens.context("field `settings.input_len` is not a number of tokens")?;
    let common = Measured {
        file,
        machine: machine(json),
        load: String::new(),
        tokens,
        per_second: 0.0,
        same_weights: weights(json, weights_hash)?,
        debug: json["environment"]["profile"] == "debug",
    };
    let found = match json["schema"].as_str() {
        Some(THROUGHPUT) => {
            ensure!(
                settings["output_len"].is_null(),
                "field `settings.output_len`: it measures a model that generates"
            );
            ensure!(
                common.same_weights,
                "field `model.weights_hash` is not there"
            );
            vec![Measured {
                load: format!("{} x {tokens} tokens", settings["batch"]),
                per_second: rate(&json["results"]["requests_per_second"]["median"])?,
                ..common
            }]
        }
        Some(SERVE) => {
            let series = json["series"]
                .as_array()
                .context("field `series` is no list")?;
            let one = |series: &Value| served(series, &common, settings["documents"].as_u64());
            series.iter().map(one).collect::<anyhow::Result<_>>()?
        }
        other => bail!(
            "field `schema` is {}; a throughput is in {THROUGHPUT} and {SERVE}",
            other.unwrap_or("not there")
        ),
    };
    ensure!(!found.is_empty(), "field `series` is empty");
    Ok(found)
}

/// Whether the file says that the weights are the export's.
///
/// # Errors
/// If it says that they are others.
fn weights(json: &Value, expected: &str) -> anyhow::Result<bool> {
    for part in ["model", "server"] {
        if let Some(theirs) = json[part]["weights_hash"].as_str() {
            ensure!(
                theirs == expected,
                "field `{part}.weights_hash` is {theirs}, the export's is {expected}: another model was measured"
            );
            return Ok(true);
        }
    }
    Ok(false)
}

/// What computed: a device, or a processor. A file knows the processor of the machine that measured, which need not be the server's.
fn machine(json: &Value) -> String {
    let environment = &json["environment"];
    let device = environment["device"].as_str().filter(|name| *name != "cpu");
    let here = |url: &&str| {
        let hosts = ["//localhost", "//127.", "//[::1]"];
        hosts.iter().any(|host| url.contains(host))
    };
    let elsewhere = json["server"]["url"].as_str().filter(|url| !here(url));
    match (device, elsewhere) {
        (Some(device), _) => device.to_owned(),
        (None, Some(url)) => format!("processor of {url}"),
        (None, None) => environment["cpu"].as_str().unwrap_or("unknown").to_owned(),
    }
}

/// A series of requests to a server. A request with several documents is as many inferences.
fn served(series: &Value, common: &Measured, documents: Option<u64>) -> anyhow::Result<Measured> {
    let failed = series["failed"].as_u64().unwrap_or(0);
    ensure!(
        failed == 0,
        "{failed} requests failed: that is no measurement of a throughput"
    );
    let documents = documents.unwrap_or(1).max(1);
    let pace = match (&series["concurrency"], &series["rate"]) {
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, rate) => format!("{rate} requests/s sent, "),
        (at_once, _) => format!("{at_once} at once, "),
    };
    let many = if documents > 1 {
        format!("{documents} x ")
    } else {
        String::new()
    };
    Ok(Measured {
        load: format!("{pace}{many}{} tokens", common.tokens),
        per_second: rate(&series["requests_per_second"])? * documents as f64,
        ..common.clone()
    })
}

fn rate(value: &Value) -> anyhow::Result<f64> {
    let rate = value
        .as_f64()
        .filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.context("field `requests_per_second` is not a number above 0")
}

fn text(all: &[Priced]) -> String {
    let compares = all.len() > 1
        && all
            .iter()
            .all(|one| one.measured.tokens == all[0].measured.tokens);
    let head = [
        "",
        "load",
        "machine",
        "inferences/s",
        "price/h",
        "price per million",
        "of the first",
    ];
    let columns = if compares { head.len() } else { head.len() - 1 };
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|one| {
        vec![
            one.measured.file.clone(),
            one.measured.load.clone(),
            one.measured.machine.clone(),
            format!("{:.2}", one.measured.per_second),
            one.per_hour.to_string(),
            format!("{:.4}", one.per_million()),
            format!("{:.0} %", 100.0 * one.per_million() / all[0].per_million()),
        ]
    }));
    for row in &mut rows {
        row.truncate(columns);
    }
    let mut text = table(&rows);
    text += "price per million = price/h / (3600 x inferences/s) x 1000000, under full load\n";
    if all.len() > 1 && !compares {
        text += "the requests differ in tokens: these prices do not compare\n";
    }
    for one in all.iter().map(|one| &one.measured) {
        // Writing to a String does not fail.
        if !one.same_weights {
            let _ = writeln!(
                text,
                "{}: a server was measured; which weights it had is not in the file",
                one.file
            );
        }
        if one.debug {
            let _ = writeln!(text, "{}: not of a release build", one.file);
        }
    }
    text
}

#[cfg(test)]
mod tests;
