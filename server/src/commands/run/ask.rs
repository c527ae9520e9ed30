//! [`Asked`]: one model behind the server's routes, in this process.

use crate::output;
use anyhow::{Context, anyhow};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, header};
use axum::response::Response;
use futures_util::StreamExt;
use koma_server::{AppState, ServedModel, ServerLimits, Silent};
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt;

/// Texts of one run: the limits of a server guard it from its callers, and here is only one.
const MOST: usize = 1 << 24;

/// A route and the body for it.
pub(super) struct Question {
    route: &'static str,
    body: Value,
}

impl Question {
    pub(super) fn new(route: &'static str, body: Value) -> Self {
        Self { route, body }
    }
}

/// A model that can be asked.
pub(super) struct Asked {
    app: Router,
    model: Arc<ServedModel>,
}

impl Asked {
    pub(super) fn new(model: ServedModel) -> Self {
        let (name, model) = (model.name().to_owned(), Arc::new(model));
        let limits = ServerLimits {
            body_bytes: usize::MAX,
            inputs: MOST,
            documents: MOST,
            ..ServerLimits::default()
        };
        let state = AppState::new([name.clone()], limits, Arc::new(Silent));
        state.set_ready(&name, Arc::clone(&model));
        let app = koma_server::app(state);
        Self { app, model }
    }

    /// The names of a classifier's classes; empty if it has none.
    pub(super) fn labels(&self) -> &[String] {
        let head = self.model.handle.info().head.as_ref();
        head.map_or(&[], |head| &head.labels)
    }

    /// The whole answer, as the server would send it.
    ///
    /// # Errors
    /// The server's message.
    pub(super) async fn whole(&self, question: &Question) -> anyhow::Result<Bytes> {
        let reply = self.ask(question).await?;
        let (status, body) = (reply.status(), reply.into_body());
        let body = to_bytes(body, usize::MAX).await.context("the answer")?;
        if status.is_success() {
            return Ok(body);
        }
        let error = serde_json::from_slice(&body).unwrap_or_default();
        Err(failure(&error))
    }

    /// Prints a completion as it comes, with a line's end behind it.
    ///
    /// # Errors
    /// The server's message, or that the text cannot be printed.
    pub(super) async fn stream(&self, question: &Question) -> anyhow::Result<()> {
        let reply = self.ask(question).await?;
        if !reply.status().is_success() {
            let body = to_bytes(reply.into_body(), usize::MAX).await?;
            return Err(failure(&serde_json::from_slice(&body).unwrap_or_default()));
        }
        let mut chunks = reply.into_body().into_data_stream();
        let mut waiting = Vec::new();
        while let Some(chunk) = chunks.next().await {
            waiting.extend_from_slice(&chunk.context("the answer")?);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                if let Some(event) = event(&line) {
                    let event = event?;
                    let text = &event["choices"][0]["text"];
                    output::print(text.as_str().unwrap_or_default())?;
                }
            }
        }
        output::print("\n")
    }

    async fn ask(&self, question: &Question) -> anyhow::Result<Response> {
        let request = Request::post(question.route)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(question.body.to_string()))
            .context("the question")?;
        let answered = self.app.clone().oneshot(request).await;
        Ok(answered.unwrap_or_else(|never| match never {}))
    }
}

/// The event of a line of a stream: none for comments and the end.
fn event(line: &[u8]) -> Option<anyhow::Result<Value>> {
    let data = line.strip_prefix(b"data: ")?;
    let event: Value = serde_json::from_slice(data).ok()?;
    Some(match event.get("error") {
        Some(_) => Err(failure(&event)),
        None => Ok(event),
    })
}

/// The message of an error's envelope.
fn failure(envelope: &Value) -> anyhow::Error {
    let message = envelope["error"]["message"].as_str();
    anyhow!(message.unwrap_or("there is no answer").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_stream_is_an_event_an_error_or_nothing() {
        let text =
            |line: &str| event(line.as_bytes()).map(|event| event.map_err(|e| e.to_string()));
        assert!(text("").is_none());
        assert!(text(": a comment").is_none());
        assert!(text("data: [DONE]\n").is_none());
        let found = text("data: {\"choices\":[{\"text\":\"a\"}]}\n").unwrap();
        assert_eq!(found.unwrap()["choices"][0]["text"], "a");
        let failed = text("data: {\"error\":{\"message\":\"no\"}}\n").unwrap();
        assert_eq!(failed.unwrap_err(), "no");
    }
}
