//! [`Client`]: sends a request and reads its reply, in bounded memory.

use super::answer::{Answer, Fault, FaultKind, Reading, message};
use super::sse::{Events, TooLong};
use crate::args::Endpoint;
use crate::config::BenchServeConfig;
use anyhow::Context;
use koma_engine::models::Secret;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Most bytes of a reply that is not a stream.
const MOST: usize = 256 << 20;
/// Most bytes of an error's text that are read.
const MOST_OF_ERROR: usize = 64 << 10;

/// A model of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) name: String,
    /// What computes it, where the server says so; Koma does.
    pub(super) device: Option<String>,
    /// As [`koma_engine::models::Identity::weights_hash`], where the server says so.
    pub(super) weights_hash: Option<String>,
}

impl Served {
    /// One of which the server says nothing.
    pub(super) fn unknown(name: String) -> Self {
        Self {
            name,
            device: None,
            weights_hash: None,
        }
    }

    fn of_card(card: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            name: text(&card["id"])?,
            device: text(&card["koma"]["device"]),
            weights_hash: text(&card["koma"]["weights_hash"]),
        })
    }
}

/// A connection pool to one server.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(config: &BenchServeConfig) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(if config.new_connections {
                0
            } else {
                usize::MAX
            })
            .build()
            .context("the HTTP client cannot start")?;
        Ok(Self {
            http,
            url: config.url.clone(),
            key: config.api_key.clone(),
            timeout: config.timeout,
        })
    }

    /// The server's models.
    pub(super) async fn models(&self) -> Result<Vec<Served>, Fault> {
        let request = self.http.get(format!("{}/v1/models", self.url));
        let reading = async {
            let mut response = self.send(request).await?;
            read(&mut response, MOST_OF_ERROR).await
        };
        let body = self.in_time(reading).await?;
        let list: Value = serde_json::from_slice(&body)
            .map_err(|error| Fault::new(FaultKind::Malformed, error.to_string()))?;
        let models = list["data"].as_array().cloned().unwrap_or_default();
        Ok(models.iter().filter_map(Served::of_card).collect())
    }

    /// Sends `body` to `endpoint` and reads the reply to its end.
    pub(super) async fn ask(&self, endpoint: Endpoint, body: String) -> Result<Answer, Fault> {
        let path = match endpoint {
            Endpoint::Completions => "/v1/completions",
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Classify => "/classify",
            Endpoint::Rerank => "/v1/rerank",
        };
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .body(body);
        let streams = matches!(endpoint, Endpoint::Completions | Endpoint::Chat);
        self.in_time(self.exchange(request, streams)).await
    }

    async fn exchange(&self, request: RequestBuilder, streams: bool) -> Result<Answer, Fault> {
        let started = Instant::now();
        let mut response = self.send(request).await?;
        if !streams {
            let body = read(&mut response, MOST).await?;
            return Answer::of_body(&body, started.elapsed());
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
        if !kind
            .as_deref()
            .is_some_and(|kind| kind.starts_with("text/event-stream"))
        {
            let kind = kind.unwrap_or_else(|| "nothing".to_owned());
            let message = format!("a stream was asked for, but the reply says it is {kind}");
            return Err(Fault::new(FaultKind::Malformed, message));
        }
        let (mut events, mut reading) = (Events::default(), Reading::default());
        while let Some(bytes) = response.chunk().await.map_err(broken)? {
            let at = started.elapsed();
            events
                .feed(&bytes, |data| reading.event(data, at))
                .map_err(|TooLong| {
                    Fault::new(FaultKind::Malformed, "an event is longer than 1 MiB")
                })?;
            if reading.is_over() {
                // The end of the body frees the connection for the next request.
                let end = started.elapsed();
                while let Ok(Some(_)) = response.chunk().await {}
                return reading.end(end);
            }
        }
        reading.end(started.elapsed())
    }

    /// Sends; a status that is no success is a fault.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Fault> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        };
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read(&mut response, MOST_OF_ERROR).await.unwrap_or_default();
        let kind = FaultKind::Status(status.as_u16());
        Err(Fault::new(kind, message(&body)))
    }

    async fn in_time<T>(
        &self,
        reading: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let ended = tokio::time::timeout(self.timeout, reading).await;
        ended.unwrap_or_else(|_| {
            let message = format!("no end after {} s", self.timeout.as_secs());
            Err(Fault::new(FaultKind::Timeout, message))
        })
    }
}

/// The whole body, of which at most `most` bytes are kept in memory.
async fn read(response: &mut Response, most: usize) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(broken)? {
        if body.len() + bytes.len() > most {
            let message = format!("the reply is longer than {} KiB", most >> 10);
            return Err(Fault::new(FaultKind::Malformed, message));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// What `error` of the transport is, with its causes: the outermost only names the address.
fn broken(error: reqwest::Error) -> Fault {
    let kind = if error.is_connect() {
        FaultKind::Connect
    } else {
        FaultKind::Disconnected
    };
    Fault::new(kind, format!("{:#}", anyhow::Error::new(error)))
}
