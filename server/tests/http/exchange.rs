//! What every exchange has: ids, heads, errors of the router, health.

use crate::server::Server;
use serde_json::json;

#[tokio::test]
async fn request_ids_come_back_or_are_made() {
    let server = Server::start();
    for (header, id) in [
        ("x-request-id", "panel-7"),
        ("x-amzn-sagemaker-inference-id", "panel-8"),
    ] {
        let reply = server.get_with("/v1/models", &[(header, id)]).await;
        assert_eq!(reply.header("x-request-id"), Some(id));
    }
    let first = server.get("/v1/models").await;
    let second = server.get("/v1/models").await;
    assert_eq!(first.header("x-request-id").unwrap().len(), 32);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    let long = "x".repeat(129);
    for bad in [long.as_str(), "", "a\u{e9}"] {
        let reply = server.get_with("/nowhere", &[("x-request-id", bad)]).await;
        assert_eq!(
            reply.header("x-request-id").unwrap().len(),
            32,
            "{bad:?} is not taken over"
        );
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_have_the_envelope() {
    let server = Server::start();
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/chat/completions/", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/ping", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ] {
        let reply = server.send(method, path, Vec::new()).await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.json()["error"]["code"], code, "{method} {path}");
        assert!(reply.header("x-request-id").is_some());
    }
}

#[tokio::test]
async fn replies_name_the_model() {
    let server = Server::start();
    let reply = server
        .post("/v1/completions", json!({"prompt": "a", "max_tokens": 1}))
        .await;
    let value = reply.header("x-koma-model").unwrap();
    let (name, hash) = value.split_once('@').unwrap();
    let model = server.state.ready().next().unwrap();
    assert_eq!(name, "chat");
    assert!(!hash.is_empty() && model.handle.info().identity.weights_hash.starts_with(hash));
    let reply = server.post("/v1/embeddings", json!({"input": "a"})).await;
    assert!(reply.header("x-koma-model").unwrap().starts_with("embed@"));
}

#[tokio::test]
async fn plain_routes() {
    let server = Server::start();
    for path in [
        "/ping",
        "/health",
        "/ready",
        "/version",
        "/metrics",
        "/v1/models",
    ] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    assert_eq!(server.send("POST", "/ping", Vec::new()).await.status, 200);
    assert_eq!(
        server.get("/version").await.json(),
        json!({"version": env!("CARGO_PKG_VERSION")})
    );
    assert!(
        server
            .get("/metrics")
            .await
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
}

#[tokio::test]
async fn models_are_listed_in_order() {
    let server = Server::start();
    let reply = server.get("/v1/models").await.json();
    assert_eq!(reply["object"], "list");
    let data = reply["data"].as_array().unwrap();
    let ids: Vec<_> = data.iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["chat", "embed", "intent", "rerank"]);
    for card in data {
        assert_eq!(card["object"], "model");
        assert_eq!(card["owned_by"], "koma");
        assert!(card["created"].as_u64().unwrap() > 0);
        assert!(card["max_model_len"].as_u64().unwrap() > 0);
        assert_eq!(card["root"], "toy");
        assert_eq!(card["koma"]["state"], "ready");
    }
    assert_eq!(data[0]["koma"]["tasks"], json!(["generation"]));
    assert_eq!(data[3]["koma"]["tasks"], json!(["reranking"]));
}
