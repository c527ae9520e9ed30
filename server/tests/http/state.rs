//! Which model a request means, and what is answered while models load, fail, or the server goes down.

use crate::server::{Server, toy_state};
use koma_engine::TaskKind;
use koma_server::{AppState, ServerLimits, Silent};
use serde_json::json;
use std::sync::Arc;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[tokio::test]
async fn the_first_model_that_serves_the_task_is_the_default() {
    let server = Server::start();
    for (path, body, model) in [
        (
            "/v1/completions",
            json!({"prompt": "a", "max_tokens": 1}),
            "chat",
        ),
        (
            "/v1/completions",
            json!({"model": "", "prompt": "a", "max_tokens": 1}),
            "chat",
        ),
        (
            "/v1/completions",
            json!({"model": null, "prompt": "a", "max_tokens": 1}),
            "chat",
        ),
        ("/v1/embeddings", json!({"input": "a"}), "embed"),
        ("/classify", json!({"input": "a"}), "intent"),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["b"]}),
            "rerank",
        ),
    ] {
        let reply = server.post(path, body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.json()["model"], model, "{path}");
    }
}

#[tokio::test]
async fn models_load_one_by_one() {
    let state = AppState::new(
        names(&["chat", "late"]),
        ServerLimits::default(),
        Arc::new(Silent),
    );
    let server = Server::over(state.clone());
    for (path, status) in [
        ("/health", 200),
        ("/ready", 503),
        ("/ping", 503),
        ("/v1/models", 200),
    ] {
        assert_eq!(
            server.get(path).await.status,
            status,
            "{path} while loading"
        );
    }
    let body = json!({"prompt": "a", "max_tokens": 1});
    let reply = server.post("/v1/completions", body.clone()).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (503, &json!("model_loading"))
    );
    assert!(reply.header("retry-after").is_some());

    assert!(state.set_ready("chat", toy_state().ready().next().unwrap()));
    assert_eq!(server.post("/v1/completions", body).await.status, 200);
    assert_eq!(
        server.get("/ready").await.status,
        503,
        "one is still loading"
    );
    let reply = server.post("/classify", json!({"input": "a"})).await;
    assert_eq!(reply.status, 503, "the late model may serve it");

    assert!(state.set_failed("late", "no such file"));
    assert!(!state.set_failed("late", "again"), "a settled slot stays");
    assert!(!state.set_failed("nobody", "x"));
    let reply = server.post("/classify", json!({"input": "a"})).await;
    assert_eq!(reply.status, 400, "no model serves it");
    let reply = server
        .post("/classify", json!({"model": "late", "input": "a"}))
        .await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (503, &json!("model_failed"))
    );
    assert!(
        !reply.text().contains("no such file"),
        "reasons are for the log"
    );
    let cards = server.get("/v1/models").await.json();
    assert_eq!(cards["data"][1]["koma"], json!({"state": "failed"}));
}

#[tokio::test]
async fn a_draining_server_refuses_and_is_not_ready() {
    let server = Server::start();
    server.state.drain();
    for (path, status) in [("/health", 200), ("/ready", 503), ("/ping", 503)] {
        assert_eq!(server.get(path).await.status, status, "{path}");
    }
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "a"})),
        ("/v1/embeddings", json!({"input": "a"})),
    ] {
        let reply = server.post(path, body).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (503, &json!("shutting_down"))
        );
        assert!(reply.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn lookup_takes_the_first_task_that_fits() {
    let state = toy_state();
    let tasks = [TaskKind::Embed, TaskKind::Classify];
    let found = |name: Option<&str>| {
        state
            .lookup_any(name, &tasks)
            .map(|(m, t)| (m.name().to_owned(), t))
    };
    assert_eq!(found(None), Ok(("embed".to_owned(), TaskKind::Embed)));
    assert_eq!(
        found(Some("intent")),
        Ok(("intent".to_owned(), TaskKind::Classify))
    );
    assert!(found(Some("chat")).is_err_and(|e| e.message.contains("embeddings or classification")));
}
