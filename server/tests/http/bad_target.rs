//! Models that are not there, requests longer than the window, bodies larger than the limit: refused by name, and the server
//! goes on.

use crate::bad_input::{CHAT, EMBED, RERANK, TEXT, check, envelope};
use crate::server::Server;
use serde_json::json;

#[tokio::test]
async fn models_that_do_not_exist_or_do_something_else() {
    let server = Server::start();
    check(
        &server,
        TEXT,
        r#"{"model": "nobody", "prompt": "a"}"#,
        404,
        Some("model"),
    )
    .await;
    check(
        &server,
        TEXT,
        r#"{"model": "intent", "prompt": "a"}"#,
        400,
        Some("model"),
    )
    .await;
    check(
        &server,
        EMBED,
        r#"{"model": "chat", "input": "a"}"#,
        400,
        Some("model"),
    )
    .await;
    check(
        &server,
        "/classify",
        r#"{"model": "rerank", "input": "a"}"#,
        400,
        Some("model"),
    )
    .await;
    check(
        &server,
        RERANK,
        r#"{"model": 7, "query": "a", "documents": ["b"]}"#,
        400,
        Some("model"),
    )
    .await;
    let reply = server
        .post(TEXT, json!({"model": "nobody", "prompt": "a"}))
        .await;
    let error = envelope(&reply);
    assert_eq!(error["code"], "model_not_found");
    for name in ["chat", "embed", "intent", "rerank"] {
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
    }
    let reply = server
        .post(EMBED, json!({"model": "chat", "input": "a"}))
        .await;
    assert!(
        envelope(&reply)["message"]
            .as_str()
            .unwrap()
            .contains("generation")
    );
}

#[tokio::test]
async fn longer_than_the_window() {
    let server = Server::start();
    let long = "a ".repeat(10_000);
    let cases = [
        (TEXT, json!({"prompt": long}), "prompt"),
        (
            TEXT,
            json!({"prompt": "a", "max_tokens": 1_000_000}),
            "prompt",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": long}]}),
            "messages",
        ),
        (EMBED, json!({"input": long}), "input"),
        (EMBED, json!({"input": ["a", long]}), "input.1"),
        (
            RERANK,
            json!({"query": "a", "documents": ["a", "b", long]}),
            "documents.2",
        ),
        ("/classify", json!({"input": long}), "input"),
    ];
    for (path, body, param) in cases {
        let reply = server.post(path, body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        let error = envelope(&reply);
        assert_eq!(error["code"], "context_length_exceeded", "{path}: {error}");
        assert_eq!(error["param"], param, "{path}: {error}");
    }
    for (path, mut body) in [
        (TEXT, json!({"prompt": long, "max_tokens": 2})),
        (EMBED, json!({"input": long})),
        (RERANK, json!({"query": "a", "documents": ["b", long]})),
        ("/classify", json!({"input": long})),
    ] {
        for (field, value) in [
            ("truncate", json!(true)),
            ("truncate_prompt_tokens", json!(4)),
            ("truncate_prompt_tokens", json!(-1)),
        ] {
            body[field] = value;
            let reply = server.post(path, body.clone()).await;
            assert_eq!(reply.status, 200, "{path} {field}: {}", reply.text());
            body.as_object_mut().unwrap().remove(field);
        }
    }
    let reply = server
        .post(EMBED, json!({"input": long, "truncate_prompt_tokens": 4}))
        .await;
    assert_eq!(reply.json()["usage"]["prompt_tokens"], 4);
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let server = Server::start();
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(30_000_000));
    for path in [CHAT, TEXT, RERANK, "/invocations"] {
        let reply = server.send("POST", path, large.clone().into_bytes()).await;
        assert_eq!(reply.status, 413, "{path}");
        assert_eq!(envelope(&reply)["code"], "body_too_large");
    }
    server.still_answers().await;
}

#[tokio::test]
async fn a_connection_outlives_a_body_that_is_too_large() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = koma_server::app(server.state.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; 30_000_000]).await.unwrap();
    let next = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client.write_all(next.as_bytes()).await.unwrap();
    let mut replies = String::new();
    client.read_to_string(&mut replies).await.unwrap();
    assert!(replies.starts_with("HTTP/1.1 413"), "{replies}");
    assert!(replies.contains("body_too_large"), "{replies}");
    assert!(
        replies.contains("HTTP/1.1 200"),
        "the next request on the connection: {replies}"
    );
    serving.abort();
}
