//! What a running server says of its models: `/v1/models`, and from `/metrics` how busy they are.
//!
//! Must not know: which server it is: what another than Koma does not tell is shown as `-`.

use super::size;
use anyhow::{Context, anyhow, bail};
use koma_engine::models::Secret;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Duration;

/// A server that has not answered by then is not asked any longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One model of a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Served {
    /// Its entry in `/v1/models`.
    card: Value,
    running: Option<f64>,
    waiting: Option<f64>,
    /// Part of its cache that is in use, 0 to 1.
    cache: Option<f64>,
}

/// Asks the server at `base`, with `key` if it wants one.
///
/// # Errors
/// If it does not answer, or not with a list of models.
pub(super) async fn ask(base: &str, key: Option<&Secret>) -> anyhow::Result<Vec<Served>> {
    let client = Client::builder().timeout(PATIENCE).no_proxy().build();
    let client = client.context("the HTTP client cannot start")?;
    let get = |path| get(&client, format!("{base}{path}"), key);
    let text = get("/v1/models").await?;
    // Not every server has metrics.
    let metrics = get("/metrics").await;
    let metrics = metrics.unwrap_or_default();
    read(&text, &metrics).with_context(|| format!("{base}/v1/models"))
}

async fn get(client: &Client, url: String, key: Option<&Secret>) -> anyhow::Result<String> {
    let failed = |error: &reqwest::Error| {
        let mut reason: &dyn Error = error;
        while let Some(deeper) = reason.source() {
            reason = deeper;
        }
        anyhow!("{url}: {reason}")
    };
    let mut request = client.get(&url);
    if let Some(key) = key {
        request = request.bearer_auth(key.reveal());
    }
    let reply = request.send().await.map_err(|e| failed(&e))?;
    let status = reply.status();
    if status != StatusCode::OK {
        bail!("{url}: the server answers {status}");
    }
    reply.text().await.map_err(|e| failed(&e))
}

/// The models in the bodies of the two routes.
fn read(models: &str, metrics: &str) -> anyhow::Result<Vec<Served>> {
    let list: Value = serde_json::from_str(models).context("the answer is not JSON")?;
    let cards = list["data"]
        .as_array()
        .context("the answer is no list of models")?;
    let one = |card: &Value| {
        let name = card["id"].as_str().context("a model without `id`")?;
        Ok(Served {
            card: card.clone(),
            running: gauge(metrics, "vllm:num_requests_running", name),
            waiting: gauge(metrics, "vllm:num_requests_waiting", name),
            cache: gauge(metrics, "vllm:kv_cache_usage_perc", name),
        })
    };
    cards.iter().map(one).collect()
}

/// The value of a series for a model, in Prometheus' text format.
fn gauge(metrics: &str, series: &str, model: &str) -> Option<f64> {
    let label = format!("model_name=\"{model}\"");
    let line = metrics.lines().find(|line| {
        let rest = line.strip_prefix(series).unwrap_or_default();
        rest.starts_with('{') && rest.contains(&label)
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

impl Served {
    pub(super) const HEAD: [&'static str; 9] = [
        "model",
        "state",
        "tasks",
        "architecture",
        "format",
        "weights",
        "max length",
        "running+waiting",
        "cache in use",
    ];

    pub(super) fn row(&self) -> [String; 9] {
        let koma = &self.card["koma"];
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let tasks = koma["tasks"].as_array().map_or("-".to_owned(), |tasks| {
            let tasks: Vec<_> = tasks.iter().filter_map(Value::as_str).collect();
            tasks.join(", ")
        });
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |n| format!("{n:.0}"));
        [
            text(&self.card["id"]),
            text(&koma["state"]),
            tasks,
            text(&koma["architecture"]),
            text(&koma["format"]),
            size(koma["weight_bytes"].as_u64().unwrap_or(0)),
            number(self.card["max_model_len"].as_f64()),
            format!("{}+{}", number(self.running), number(self.waiting)),
            self.cache
                .map_or("-".to_owned(), |part| format!("{:.0} %", part * 100.0)),
        ]
    }

    pub(super) fn json(&self) -> Value {
        let mut card = self.card.clone();
        card["load"] = json!({
            "running": self.running,
            "waiting": self.waiting,
            "cache_usage": self.cache,
        });
        card
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"chat2\"} 7
vllm:num_requests_running{engine=\"0\",model_name=\"chat\"} 3
vllm:num_requests_running_more{model_name=\"chat\"} 9
vllm:kv_cache_usage_perc{model_name=\"chat\"} 0.25
";

    #[test]
    fn cards_and_metrics_make_rows() {
        let models = json!({"data": [
            {"id": "chat", "max_model_len": 2048, "koma": {"state": "ready", "tasks": ["generation"],
                "architecture": "LlamaForCausalLM", "format": "Q4_1", "weight_bytes": 3 << 19}},
            {"id": "other"},
        ]});
        let found = read(&models.to_string(), METRICS).unwrap();
        assert_eq!(
            found[0].row(),
            [
                "chat",
                "ready",
                "generation",
                "LlamaForCausalLM",
                "Q4_1",
                "1.5 MiB",
                "2048",
                "3+-",
                "25 %"
            ]
        );
        assert_eq!(
            found[1].row(),
            ["other", "-", "-", "-", "-", "-", "-", "-+-", "-"]
        );
        assert_eq!(found[0].json()["load"]["running"], 3.0);
        assert_eq!(found[0].json()["id"], "chat");
    }

    #[test]
    fn an_answer_that_is_no_list_is_an_error() {
        let error = |text| read(text, "").unwrap_err().to_string();
        assert!(error("<html>").contains("not JSON"));
        assert!(error("{}").contains("no list of models"));
        assert!(error("{\"data\":[{}]}").contains("without `id`"));
    }
}
