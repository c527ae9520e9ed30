//! Wrong bodies: each gets its status and the name of its field, and the server goes on.

use crate::server::{Reply, Server};
use serde_json::{Value, json};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const TEXT: &str = "/v1/completions";
pub(crate) const EMBED: &str = "/v1/embeddings";
pub(crate) const RERANK: &str = "/v1/rerank";

/// `body` on `path` is refused with `status` and the field `param`.
pub(crate) async fn check(
    server: &Server,
    path: &str,
    body: &str,
    status: u16,
    param: Option<&str>,
) {
    let reply = server.send("POST", path, body.as_bytes().to_vec()).await;
    let shown: String = body.chars().take(200).collect();
    assert_eq!(reply.status, status, "{path} {shown}: {}", reply.text());
    let error = envelope(&reply);
    assert_eq!(error["param"], json!(param), "{path} {shown}: {error}");
    if let Some(param) = param.filter(|_| status == 400) {
        let message = error["message"].as_str().unwrap();
        let named = message.contains(param) || error["code"] == "context_length_exceeded";
        assert!(
            named,
            "{path} {shown}: the message does not name {param}: {message}"
        );
    }
}

/// The error of a reply, in exactly the envelope's four fields.
pub(crate) fn envelope(reply: &Reply) -> Value {
    let body = reply.json();
    let error = body["error"].as_object().unwrap();
    let fields: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(fields, ["message", "type", "param", "code"]);
    assert_eq!(body.as_object().unwrap().len(), 1);
    let kind = if reply.status < 500 {
        "invalid_request_error"
    } else {
        "server_error"
    };
    assert_eq!(error["type"], kind);
    body["error"].clone()
}

/// `base` with `field` set to the JSON text `value`.
pub(crate) fn with(base: &Value, field: &str, value: &str) -> String {
    let mut fields: Vec<String> = base
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != field)
        .map(|(name, value)| format!("{}: {value}", json!(name)))
        .collect();
    fields.push(format!("{}: {value}", json!(field)));
    format!("{{{}}}", fields.join(", "))
}

#[tokio::test]
async fn bodies_that_are_no_objects() {
    let server = Server::start();
    for path in [
        CHAT,
        TEXT,
        EMBED,
        RERANK,
        "/classify",
        "/tokenize",
        "/detokenize",
        "/invocations",
    ] {
        for body in [
            "",
            "{",
            "null",
            "[]",
            "1",
            "\"x\"",
            "{\"a\" 1}",
            "{} {}",
            "\u{0}",
            "NaN",
        ] {
            check(&server, path, body, 400, None).await;
        }
        let reply = server.send("POST", path, vec![b'"', 0xFF, b'"']).await;
        assert_eq!(reply.status, 400, "{path}: not UTF-8");
    }
}

/// Fields of both generating routes, with values that are refused.
const OUT_OF_RANGE: &[(&str, &str)] = &[
    ("n", "0"),
    ("n", "-1"),
    ("n", "1000000000"),
    ("max_tokens", "0"),
    ("max_tokens", "-1"),
    ("max_completion_tokens", "0"),
    ("min_tokens", "-1"),
    ("temperature", "-0.1"),
    ("temperature", "1e308"),
    ("temperature", "1e999"),
    ("temperature", "\"hot\""),
    ("top_p", "0"),
    ("top_p", "1.5"),
    ("top_p", "-1"),
    ("top_p", "[]"),
    ("min_p", "-0.1"),
    ("min_p", "1.1"),
    ("top_k", "-2"),
    ("timeout_ms", "0"),
    ("timeout_ms", "-5"),
    ("timeout_ms", "9223372036854775807"),
    ("queue_timeout_ms", "0"),
    ("queue_timeout_ms", "1e3"),
    ("priority", "2147483648"),
    ("truncate_prompt_tokens", "0"),
    ("truncate_prompt_tokens", "-2"),
    ("stop", "1"),
    ("stop", "{}"),
    ("stop", "[\"\"]"),
    ("stop_token_ids", "[-1]"),
    ("stop_token_ids", "[1000000]"),
    ("stop_token_ids", "3"),
    ("stream", "1"),
    ("stream", "\"yes\""),
    ("ignore_eos", "0"),
    ("presence_penalty", "2.1"),
    ("presence_penalty", "\"low\""),
    ("frequency_penalty", "-2.1"),
    ("repetition_penalty", "0"),
    ("repetition_penalty", "-1"),
    ("repetition_penalty", "1e9"),
    ("logit_bias", "[]"),
    ("logit_bias", "{\"a\": 1}"),
    ("logit_bias", "{\"-1\": 1}"),
    ("logit_bias", "{\"5\": 101}"),
    ("logit_bias", "{\"1000000\": 1}"),
    ("allowed_token_ids", "[]"),
    ("allowed_token_ids", "5"),
    ("allowed_token_ids", "[1000000]"),
];

#[tokio::test]
async fn prompts_times_n_are_bounded() {
    let server = Server::start();
    let body = |prompts: usize, n: usize| {
        let body = json!({"prompt": vec!["a"; prompts], "n": n, "max_tokens": 1});
        body.to_string()
    };
    check(&server, TEXT, &body(9, 128), 400, Some("n")).await;
    server.still_answers().await;
}

/// Text of more bytes than the window's tokens can have is not split into tokens.
#[tokio::test]
async fn text_that_is_surely_too_long() {
    let server = Server::start();
    for (path, field, name) in [(TEXT, "prompt", "chat"), (EMBED, "input", "embed")] {
        let mut models = server.state.ready();
        let model = models.find(|model| model.name() == name).unwrap();
        let most = model.handle.info().limits.max_len * 256 + (64 << 10);
        let mut body = json!({field: "é".repeat(most / 2 + 1)});
        let reply = server.post(path, body.clone()).await;
        assert_eq!(reply.status, 400, "{path}");
        let error = envelope(&reply);
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], field);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("are not looked at"), "{message}");
        body["truncate_prompt_tokens"] = json!(4);
        if path == TEXT {
            body["max_tokens"] = json!(1);
        }
        let reply = server.post(path, body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.json()["usage"]["prompt_tokens"], 4);
    }
}

#[tokio::test]
async fn decoding_options_out_of_range() {
    let server = Server::start();
    let text = json!({"prompt": "a b"});
    let chat = json!({"messages": [{"role": "user", "content": "a b"}]});
    let not_integers = [
        "1.5",
        "1.0",
        "\"1\"",
        "true",
        "[]",
        "{}",
        "9223372036854775808",
        "1e308",
    ];
    for field in [
        "n",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "top_k",
        "seed",
        "priority",
    ] {
        for value in not_integers {
            check(&server, TEXT, &with(&text, field, value), 400, Some(field)).await;
            check(&server, CHAT, &with(&chat, field, value), 400, Some(field)).await;
        }
    }
    for (field, value) in OUT_OF_RANGE {
        check(&server, TEXT, &with(&text, field, value), 400, Some(field)).await;
        check(&server, CHAT, &with(&chat, field, value), 400, Some(field)).await;
    }
    server.still_answers().await;
}

#[tokio::test]
async fn salts_lists_and_log_probabilities() {
    let server = Server::start();
    let text = json!({"prompt": "a b"});
    let chat = json!({"messages": [{"role": "user", "content": "a b"}]});
    let salt = format!("\"{}\"", "s".repeat(129));
    check(
        &server,
        TEXT,
        &with(&text, "cache_salt", &salt),
        400,
        Some("cache_salt"),
    )
    .await;
    check(
        &server,
        TEXT,
        &with(&text, "stop", "[\"a\", 7]"),
        400,
        Some("stop.1"),
    )
    .await;
    check(
        &server,
        TEXT,
        &with(&text, "logprobs", "true"),
        400,
        Some("logprobs"),
    )
    .await;
    check(
        &server,
        TEXT,
        &with(&text, "logprobs", "21"),
        400,
        Some("logprobs"),
    )
    .await;
    check(
        &server,
        CHAT,
        &with(&chat, "logprobs", "1"),
        400,
        Some("logprobs"),
    )
    .await;
    check(
        &server,
        CHAT,
        &with(&chat, "top_logprobs", "2"),
        400,
        Some("top_logprobs"),
    )
    .await;
    let mut asked = chat.clone();
    asked["logprobs"] = json!(true);
    check(
        &server,
        CHAT,
        &with(&asked, "top_logprobs", "21"),
        400,
        Some("top_logprobs"),
    )
    .await;
    check(
        &server,
        TEXT,
        &with(&text, "stream_options", "{}"),
        400,
        Some("stream_options"),
    )
    .await;
    server.still_answers().await;
}

#[tokio::test]
async fn prompts_and_inputs_that_say_nothing() {
    let server = Server::start();
    let empty = [
        "null",
        "\"\"",
        "[]",
        "[[]]",
        "[\"\"]",
        "[null]",
        "{}",
        "1",
        "[-1]",
        "[1.5]",
        "[[1], [-1]]",
        "[1, \"a\"]",
    ];
    for value in empty {
        for (path, field, base) in [
            (TEXT, "prompt", json!({})),
            (EMBED, "input", json!({})),
            ("/classify", "input", json!({})),
        ] {
            let body = with(&base, field, value);
            let reply = server.send("POST", path, body.clone().into_bytes()).await;
            assert_eq!(reply.status, 400, "{path} {body}");
            let param = envelope(&reply)["param"].as_str().unwrap().to_owned();
            assert!(
                param == field || param.starts_with(&format!("{field}.")),
                "{path} {body}: {param}"
            );
        }
    }
    check(&server, TEXT, "{}", 400, Some("prompt")).await;
    check(
        &server,
        TEXT,
        r#"{"prompt": [0, 4294967295]}"#,
        400,
        Some("prompt.1"),
    )
    .await;
    check(
        &server,
        TEXT,
        r#"{"prompt": [0, 4294967296]}"#,
        400,
        Some("prompt.1"),
    )
    .await;
    check(
        &server,
        EMBED,
        r#"{"input": [[1], [2, 999999]]}"#,
        400,
        Some("input.1.1"),
    )
    .await;
    check(
        &server,
        "/detokenize",
        r#"{"tokens": [999999]}"#,
        400,
        Some("tokens.0"),
    )
    .await;
    let many = format!(r#"{{"prompt": [{}]}}"#, vec!["\"a\""; 1025].join(","));
    check(&server, TEXT, &many, 400, Some("prompt")).await;
}

#[tokio::test]
async fn messages_that_are_none() {
    let server = Server::start();
    let cases = [
        ("{}", "messages"),
        (r#"{"messages": null}"#, "messages"),
        (r#"{"messages": []}"#, "messages"),
        (r#"{"messages": "hi"}"#, "messages"),
        (r#"{"messages": [null]}"#, "messages.0"),
        (r#"{"messages": ["hi"]}"#, "messages.0"),
        (r#"{"messages": [{}]}"#, "messages.0.role"),
        (r#"{"messages": [{"role": "user"}]}"#, "messages.0.content"),
        (
            r#"{"messages": [{"role": 1, "content": "a"}]}"#,
            "messages.0.role",
        ),
        (
            r#"{"messages": [{"role": "user", "content": 1}]}"#,
            "messages.0.content",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text"}]}]}"#,
            "messages.1.content.0.text",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]}"#,
            "messages.0.content.0.type",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"text": "a"}]}]}"#,
            "messages.0.content.0.type",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]}"#,
            "messages.0.tool_calls",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
            "messages.0.content",
        ),
    ];
    for (body, param) in cases {
        check(&server, CHAT, body, 400, Some(param)).await;
    }
}

#[tokio::test]
async fn what_is_not_served_yet_is_named_and_what_asks_for_nothing_is_fine() {
    let server = Server::start();
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
    let asks = [
        (
            "tools",
            r#"[{"type": "function", "function": {"name": "f"}}]"#,
            "[]",
        ),
        ("tool_choice", "\"required\"", "\"none\""),
        (
            "response_format",
            r#"{"type": "json_object"}"#,
            r#"{"type": "text"}"#,
        ),
        ("use_beam_search", "true", "false"),
        ("echo", "true", "false"),
        ("structured_outputs", r#"{"regex": "a"}"#, "{}"),
        ("prompt_logprobs", "1", "null"),
        ("bad_words", r#"["x"]"#, "[]"),
        ("reasoning_effort", "\"high\"", "\"none\""),
    ];
    for (field, asks, neutral) in asks {
        check(&server, CHAT, &with(&chat, field, asks), 400, Some(field)).await;
        for value in [neutral, "null"] {
            let reply = server
                .send("POST", CHAT, with(&chat, field, value).into_bytes())
                .await;
            assert_eq!(reply.status, 200, "{field}: {value}: {}", reply.text());
        }
    }
    let text = json!({"prompt": "a", "max_tokens": 1});
    check(
        &server,
        TEXT,
        &with(&text, "suffix", "\"end\""),
        400,
        Some("suffix"),
    )
    .await;
    check(
        &server,
        TEXT,
        &with(&text, "best_of", "2"),
        400,
        Some("best_of"),
    )
    .await;
    let reply = server
        .send("POST", TEXT, with(&text, "best_of", "1").into_bytes())
        .await;
    assert_eq!(reply.status, 200);
    let reply = server
        .send(
            "POST",
            CHAT,
            with(&chat, "nobody_knows_this", "[1]").into_bytes(),
        )
        .await;
    assert_eq!(reply.status, 200, "unknown fields are ignored");
}

#[tokio::test]
async fn small_models_fields() {
    let server = Server::start();
    let cases = [
        (RERANK, r#"{"documents": ["a"]}"#, "query"),
        (RERANK, r#"{"query": "", "documents": ["a"]}"#, "query"),
        (RERANK, r#"{"query": null, "documents": ["a"]}"#, "query"),
        (RERANK, r#"{"query": "a"}"#, "documents"),
        (RERANK, r#"{"query": "a", "documents": []}"#, "documents"),
        (RERANK, r#"{"query": "a", "documents": "b"}"#, "documents"),
        (
            RERANK,
            r#"{"query": "a", "documents": ["b", 1]}"#,
            "documents.1",
        ),
        (
            RERANK,
            r#"{"query": "a", "documents": [{"title": "b"}]}"#,
            "documents.0.text",
        ),
        (RERANK, r#"{"query": "a", "texts": [""]}"#, "texts.0"),
        (
            RERANK,
            r#"{"query": "a", "documents": ["b"], "top_n": 0}"#,
            "top_n",
        ),
        (
            RERANK,
            r#"{"query": "a", "documents": ["b"], "top_n": 1.5}"#,
            "top_n",
        ),
        (
            RERANK,
            r#"{"query": "a", "documents": ["b"], "return_documents": 1}"#,
            "return_documents",
        ),
        (
            EMBED,
            r#"{"input": "a", "encoding_format": "hex"}"#,
            "encoding_format",
        ),
        (EMBED, r#"{"input": "a", "dimensions": 0}"#, "dimensions"),
        (EMBED, r#"{"input": "a", "dimensions": 999}"#, "dimensions"),
        (EMBED, r#"{"input": "a", "truncate": "yes"}"#, "truncate"),
        ("/classify", r#"{"input": [["a", "b", "c"]]}"#, "input.0"),
        ("/classify", r#"{"input": [["a", "b"], "c"]}"#, "input.1"),
        ("/tokenize", "{}", "prompt"),
        (
            "/tokenize",
            r#"{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}"#,
            "messages",
        ),
        ("/detokenize", "{}", "tokens"),
        ("/detokenize", r#"{"tokens": [1, -1]}"#, "tokens.1"),
        (
            "/invocations",
            r#"{"inputs": "a", "model": "chat", "parameters": {"max_new_tokens": 0}}"#,
            "parameters.max_new_tokens",
        ),
        (
            "/invocations",
            r#"{"inputs": [""], "model": "chat"}"#,
            "inputs.0",
        ),
    ];
    for (path, body, param) in cases {
        check(&server, path, body, 400, Some(param)).await;
    }
    check(&server, "/invocations", r#"{"nothing": 1}"#, 400, None).await;
    let many = format!(
        r#"{{"query": "a", "documents": [{}]}}"#,
        vec!["\"a\""; 1001].join(",")
    );
    check(&server, RERANK, &many, 400, Some("documents")).await;
    let heavy = json!({"query": "a".repeat(1 << 20), "documents": vec!["b"; 30]}).to_string();
    check(&server, RERANK, &heavy, 400, Some("query")).await;
}
