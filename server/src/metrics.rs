//! [`Metrics`]: what Prometheus sees of the server.
//!
//! Owns: every series and its name. The names, labels and buckets of vLLM are used for what they describe, so that its
//! dashboards, routers and autoscalers work here; everything else begins with `koma_`. Must not know: routes, requests.
//!
//! Counters of an engine are read from its [`Stats`](koma_engine::Stats) when somebody scrapes, so nothing is counted
//! twice and a scrape never waits for a model. Histograms of requests are filled through [`Observer`].
//!
//! Invariant: labels are bounded: served model names, the application's routes, status codes, error codes, finish
//! reasons. A name that is not served becomes [`UNKNOWN`].

mod engines;
mod histograms;

#[cfg(test)]
mod tests;

use crate::{AppState, Finished, Observer, ServedModel};
use engines::{Families, Source};
use histograms::Histograms;
use koma_engine::ModelInfo;
use koma_engine::models::kernels::Team;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The label `engine` of vLLM's series: the rank of the replica; there is one per model here.
const ENGINE: &str = "0";
/// The label for whatever is not a served model.
const UNKNOWN: &str = "unknown";
const VALID: &str = "constant, valid, registered once";

/// All series of the server. One per process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    names: Vec<String>,
    team: Arc<Team>,
    histograms: Histograms,
    http: IntCounterVec,
    http_seconds: HistogramVec,
    refused: IntCounterVec,
    ready: IntGauge,
    /// The newest step of each model that `iteration_tokens_total` has seen.
    steps_seen: Mutex<HashMap<String, u64>>,
}

/// What the process is, for `koma_build_info` and its like.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// Version of the program.
    pub version: &'a str,
    /// Commit it was built from.
    pub commit: &'a str,
    /// CPU path that it computes on.
    pub isa: &'a str,
}

impl Metrics {
    /// Series of a server of the models `names`, which `team` computes.
    ///
    /// # Panics
    /// Never: the names of the series are constants, each registered once (a test renders them all).
    pub fn new(
        names: impl IntoIterator<Item = String>,
        build: &Build<'_>,
        team: Arc<Team>,
    ) -> Self {
        let registry = Registry::new();
        let info = gauges(
            "koma_build_info",
            "What is running; always 1.",
            &["version", "commit", "isa"],
        );
        info.with_label_values(&[build.version, build.commit, build.isa])
            .set(1);
        register(&registry, &info);
        let metrics = Self {
            names: names.into_iter().collect(),
            team,
            histograms: Histograms::new(&registry),
            http: counters(
                "koma_http_requests_total",
                "HTTP requests answered, by route and status.",
                &["route", "status"],
            ),
            http_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "koma_http_request_seconds",
                    "Time until the head of a reply was ready, by route.",
                )
                .buckets(histograms::FIRST_TOKEN.to_vec()),
                &["route"],
            )
            .expect(VALID),
            refused: counters(
                "koma_refused_total",
                "Requests refused or failed, by model and error code.",
                &["model_name", "code"],
            ),
            ready: gauge(
                "koma_ready",
                "1 while all models are loaded and the server takes requests.",
            ),
            steps_seen: Mutex::default(),
            registry,
        };
        register(&metrics.registry, &metrics.http);
        register(&metrics.registry, &metrics.http_seconds);
        register(&metrics.registry, &metrics.refused);
        register(&metrics.registry, &metrics.ready);
        metrics
    }

    /// Reads the step records that are new since the last call into their histogram. A scrape does it too; calling it
    /// about every second keeps records from being overwritten in the engines' rings between two scrapes.
    pub fn collect_steps(&self, state: &AppState) {
        for model in state.ready() {
            self.collect_steps_of(model.name(), &model.handle);
        }
    }

    fn collect_steps_of(&self, name: &str, source: &dyn Source) {
        let mut all_seen = self
            .steps_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let seen = all_seen.entry(name.to_owned()).or_default();
        let total = source.stats().steps;
        let new = usize::try_from(total.saturating_sub(*seen)).unwrap_or(usize::MAX);
        // A step may end between the two reads: then there is one record more, which belongs to the next call.
        let unread = source.steps(new.saturating_add(1));
        let histogram = self.histograms.iteration_tokens(name);
        for record in unread {
            if record.step > *seen && record.step <= total {
                histogram.observe(f64::from(record.tokens));
            }
        }
        *seen = total;
    }

    fn text(&self, models: &[(&ModelInfo, &dyn Source)], ready: bool) -> String {
        self.ready.set(i64::from(ready));
        let mut families = Families::default();
        for (info, source) in models {
            self.histograms.touch(info);
            self.collect_steps_of(&info.identity.name, *source);
            families.model(info, *source);
        }
        families.team(&self.team);
        families.process();
        let mut all = self.registry.gather();
        all.extend(families.into_vec());
        all.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        match TextEncoder::new().encode(&all, &mut text) {
            Ok(()) => String::from_utf8(text).unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written");
                String::new()
            }
        }
    }

    fn known<'a>(&self, model: &'a str) -> &'a str {
        if self.names.iter().any(|name| name == model) {
            model
        } else {
            UNKNOWN
        }
    }
}

impl Observer for Metrics {
    fn first_token(&self, model: &str, after: Duration) {
        self.histograms.first_token(self.known(model), after);
    }

    fn next_tokens(&self, model: &str, tokens: usize, gap: Duration) {
        self.histograms.next_tokens(self.known(model), tokens, gap);
    }

    fn finished(&self, finished: &Finished<'_>) {
        self.histograms
            .finished(self.known(finished.model), finished);
    }

    fn refused(&self, model: &str, code: &'static str) {
        self.refused
            .with_label_values(&[self.known(model), code])
            .inc();
    }

    fn http(&self, route: &str, status: u16, elapsed: Duration) {
        let status = status.to_string();
        self.http.with_label_values(&[route, status.as_str()]).inc();
        self.http_seconds
            .with_label_values(&[route])
            .observe(elapsed.as_secs_f64());
    }

    fn render(&self, state: &AppState) -> String {
        let models: Vec<Arc<ServedModel>> = state.ready().collect();
        let sources: Vec<(&ModelInfo, &dyn Source)> = models
            .iter()
            .map(|model| (model.handle.info(), &model.handle as &dyn Source))
            .collect();
        self.text(&sources, state.is_ready())
    }
}

fn register(registry: &Registry, series: &(impl Collector + Clone + 'static)) {
    registry.register(Box::new(series.clone())).expect(VALID);
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect(VALID)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID)
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)
}
