//! Chat and completions: shapes, streams, log-probabilities, clients that leave.

use crate::server::{Reply, Server, settled};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(content: &str) -> Value {
    json!({"messages": [{"role": "user", "content": content}], "max_tokens": 6, "temperature": 0, "ignore_eos": true})
}

fn text(prompt: &str) -> Value {
    json!({"prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": true})
}

/// `body` with the fields of `more`.
fn and(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The chunks of a stream that ended well.
fn chunks(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("text/event-stream")
    );
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect()
}

#[tokio::test]
async fn the_whole_chat_reply() {
    let server = Server::start();
    let mut reply = server.post(CHAT, chat("a b")).await.json();
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(reply["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(
        reply["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("koma-")
    );
    let content = reply["choices"][0]["message"]["content"].take();
    assert!(!content.as_str().unwrap().is_empty());
    let prompt = reply["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 0);
    for field in ["id", "created", "system_fingerprint"] {
        reply[field] = Value::Null;
    }
    let expected = json!({
        "id": null, "object": "chat.completion", "created": null, "model": "chat", "system_fingerprint": null,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": null}, "logprobs": null,
            "finish_reason": "length", "stop_reason": null,
        }],
        "usage": {
            "prompt_tokens": prompt, "total_tokens": prompt + 6, "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    });
    assert_eq!(reply, expected);
}

#[tokio::test]
async fn the_chunks_of_a_chat() {
    let server = Server::start();
    let body = and(
        chat("a b"),
        &json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let chunks = chunks(&server.post(CHAT, body).await);
    let [first, middle @ .., last, usage] = chunks.as_slice() else {
        panic!("too few chunks: {chunks:?}")
    };
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert!(!middle.is_empty());
    for chunk in middle {
        assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null);
        let delta = chunk["choices"][0]["delta"].as_object().unwrap();
        assert!(delta.len() == 1 && delta["content"].is_string());
    }
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 6);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], first["id"]);
    }
    assert!(
        chunks[..chunks.len() - 1]
            .iter()
            .all(|c| c["usage"].is_null() && c.get("usage").is_some())
    );
}

/// Both routes, and `SageMaker`'s with its `parameters`: what is forbidden does not come, what is favoured does.
#[tokio::test]
async fn biases_penalties_and_masks_reach_the_sampler() {
    let server = Server::start();
    let letters = |id: u32| json!({"allowed_token_ids": [id], "max_tokens": 3, "ignore_eos": true});
    let bias = json!({"logit_bias": {"113": 100}, "max_tokens": 3, "ignore_eos": true});
    let mut hugging = json!({"inputs": "a b", "model": "chat", "parameters": bias});
    for (path, body, expected) in [
        (TEXT, and(text("a b"), &letters(122)), "zzz"),
        (TEXT, and(text("a b"), &bias), "qqq"),
        (CHAT, and(chat("a b"), &letters(121)), "yyy"),
        (CHAT, and(chat("a b"), &bias), "qqq"),
        ("/invocations", and(text("a b"), &bias), "qqq"),
        ("/invocations", hugging.take(), "qqq"),
    ] {
        let reply = server.post(path, body).await.json();
        let choice = &reply["choices"][0];
        let content = choice["text"].as_str();
        let content = content.or(choice["message"]["content"].as_str());
        assert_eq!(content, Some(expected), "{path}: {reply}");
    }
    // Twelve tokens of which none comes twice; without the penalty some do.
    let long = json!({"max_tokens": 12, "logprobs": 0});
    let ids = async |more: Value| {
        let reply = server.post(TEXT, and(and(text("a b"), &long), &more)).await;
        let reply = reply.json();
        let tokens = reply["choices"][0]["logprobs"]["tokens"].clone();
        let tokens: Vec<String> = serde_json::from_value(tokens).unwrap();
        (tokens.iter().collect::<BTreeSet<_>>().len(), tokens.len())
    };
    let (distinct, all) = ids(json!({})).await;
    assert!(distinct < all, "the toy repeats itself");
    let strong = json!({"presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 100});
    assert_eq!(ids(strong).await, (12, 12));
    // Nothing is left: the request is told.
    let none = json!({"allowed_token_ids": [113], "stop_token_ids": [113], "min_tokens": 2});
    let reply = server.post(TEXT, and(text("a b"), &none)).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "nothing_allowed");
}

#[tokio::test]
async fn a_stream_without_usage_does_not_mention_it() {
    let server = Server::start();
    let body = and(text("a b"), &json!({"stream": true}));
    let chunks = chunks(&server.post(TEXT, body).await);
    assert!(
        chunks
            .iter()
            .all(|c| c.get("usage").is_none() && c["object"] == "text_completion")
    );
}

/// Text, reason and log-probabilities of each choice.
type Choices = BTreeMap<u64, (String, Value, Vec<Value>)>;

fn add(choices: &mut Choices, choice: &Value, body: &str) {
    let entry = choices
        .entry(choice["index"].as_u64().unwrap())
        .or_default();
    let text = choice["text"].as_str().or(choice[body]["content"].as_str());
    entry.0.push_str(text.unwrap_or_default());
    if !choice["finish_reason"].is_null() {
        entry.1 = json!([choice["finish_reason"], choice["stop_reason"]]);
    }
    let columns = &choice["logprobs"];
    if let Some(tokens) = columns["content"].as_array() {
        entry.2.extend(tokens.iter().cloned());
    }
    for (i, token) in columns["tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let column = |name: &str| columns[name][i].clone();
        entry.2.push(json!([
            token,
            column("token_logprobs"),
            column("top_logprobs"),
            column("text_offset")
        ]));
    }
}

#[tokio::test]
async fn a_stream_is_the_whole_reply_in_parts() {
    let server = Server::start();
    let options = [
        json!({}),
        json!({"n": 3, "temperature": 1.5, "seed": 5}),
        json!({"temperature": 1.0, "seed": 9, "max_tokens": 40}),
        json!({"logprobs": true, "top_logprobs": 3}),
        json!({"stop": ["b", "c d"], "max_tokens": 30, "temperature": 2, "seed": 2}),
        json!({"stop": "b", "include_stop_str_in_output": true, "max_tokens": 30, "temperature": 2, "seed": 2}),
        json!({"ignore_eos": false, "max_tokens": 60, "temperature": 2, "seed": 1, "n": 4}),
    ];
    for options in &options {
        for (path, base) in [
            (CHAT, chat("a b c")),
            (TEXT, text("a b c")),
            (TEXT, and(text(""), &json!({"prompt": ["a", "b c"]}))),
        ] {
            let mut options = options.clone();
            if path == TEXT && options.get("logprobs").is_some() {
                options = json!({"logprobs": 3});
            }
            let body = and(base, &options);
            let whole = server.post(path, body.clone()).await;
            assert_eq!(whole.status, 200, "{}", whole.text());
            let whole = whole.json();
            let more = json!({"stream": true, "stream_options": {"include_usage": true}});
            let chunks = chunks(&server.post(path, and(body, &more)).await);
            let (mut expected, mut got) = (Choices::new(), Choices::new());
            for choice in whole["choices"].as_array().unwrap() {
                add(&mut expected, choice, "message");
            }
            for choice in chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()) {
                add(&mut got, choice, "delta");
            }
            assert_eq!(got, expected, "{path} {options}");
            let counts = |usage: &Value| {
                [
                    usage["prompt_tokens"].clone(),
                    usage["completion_tokens"].clone(),
                ]
            };
            assert_eq!(
                counts(&chunks.last().unwrap()["usage"]),
                counts(&whole["usage"]),
                "{path} {options}"
            );
        }
    }
}

#[tokio::test]
async fn logprobs_of_both_routes() {
    let server = Server::start();
    let reply = server
        .post(
            CHAT,
            and(chat("a"), &json!({"logprobs": true, "top_logprobs": 2})),
        )
        .await
        .json();
    let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
    let tokens = reply["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(tokens.len(), 6);
    let names = tokens.iter().map(|t| t["token"].as_str().unwrap());
    let joined: String = names.filter(|name| *name != "<|eos|>").collect();
    assert_eq!(joined, content, "special tokens are named, but no text");
    for token in tokens {
        let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).unwrap();
        assert_eq!(token["token"], String::from_utf8_lossy(&bytes).as_ref());
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!(token["logprob"], top[0]["logprob"], "greedy takes the best");
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    let reply = server
        .post(TEXT, and(text("a"), &json!({"logprobs": 2})))
        .await
        .json();
    let columns = &reply["choices"][0]["logprobs"];
    for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(columns[column].as_array().unwrap().len(), 6, "{column}");
    }
    assert_eq!(columns["text_offset"][0], 0);
    let none = server
        .post(CHAT, and(chat("a"), &json!({"logprobs": true})))
        .await
        .json();
    assert_eq!(
        none["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
        json!([])
    );
}

#[tokio::test]
async fn prompts_are_text_or_ids_one_or_several() {
    let server = Server::start();
    let ids = server
        .post("/tokenize", json!({"prompt": "a b"}))
        .await
        .json()["tokens"]
        .clone();
    let one = server.post(TEXT, text("a b")).await.json();
    for prompt in [ids.clone(), json!([ids]), json!(["a b"])] {
        let reply = server
            .post(TEXT, and(text(""), &json!({"prompt": prompt})))
            .await
            .json();
        assert_eq!(reply["choices"], one["choices"], "{prompt}");
    }
    let both = server
        .post(
            TEXT,
            and(text(""), &json!({"prompt": ["a b", "c"], "n": 2})),
        )
        .await
        .json();
    let indices: Vec<_> = both["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(both["choices"][0]["text"], one["choices"][0]["text"]);
    assert_eq!(both["choices"][1]["text"], one["choices"][0]["text"]);
    assert_eq!(both["usage"]["completion_tokens"], 24);
    let c = server.post(TEXT, text("c")).await.json();
    let prompt_tokens = |reply: &Value| reply["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        prompt_tokens(&both),
        prompt_tokens(&one) + prompt_tokens(&c),
        "a prompt counts once"
    );
}

#[tokio::test]
async fn completions_have_sixteen_tokens_by_default() {
    let server = Server::start();
    let reply = server
        .post(
            TEXT,
            json!({"prompt": "a", "temperature": 0, "ignore_eos": true}),
        )
        .await;
    assert_eq!(reply.json()["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn content_may_come_in_text_parts() {
    let server = Server::start();
    let parts = json!([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]);
    let body = and(
        chat(""),
        &json!({"messages": [{"role": "user", "content": parts}]}),
    );
    let reply = server.post(CHAT, body).await.json();
    let whole = server.post(CHAT, chat("a b")).await.json();
    assert_eq!(reply["choices"], whole["choices"]);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks() {
    for path in [CHAT, TEXT] {
        let (server, gate) = Server::gated();
        let model = server.state.ready().next().unwrap();
        let base = if path == CHAT {
            chat("a b c")
        } else {
            text("a b c")
        };
        let body = and(base, &json!({"stream": true, "max_tokens": 200}));
        gate.allow(3);
        let mut stream = server.open(path, body).await;
        assert!(stream.next_chunk().await.is_some(), "the stream has begun");
        settled(&model, |stats| stats.blocks_used > 0).await;
        drop(stream);
        gate.allow(10);
        settled(&model, |stats| {
            stats.finished_aborted == 1 && stats.blocks_used == 0
        })
        .await;
        let stats = model.handle.stats();
        assert!(
            stats.generation_tokens <= 13,
            "it went on after its client left: {stats:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_reply_frees_its_blocks() {
    let (server, gate) = Server::gated();
    let model = server.state.ready().next().unwrap();
    let body = and(text("a b c"), &json!({"max_tokens": 200}));
    let reply = tokio::spawn(async move { server.post(TEXT, body).await.status });
    gate.allow(2);
    settled(&model, |stats| stats.generation_tokens > 0).await;
    reply.abort();
    assert!(reply.await.is_err_and(|e| e.is_cancelled()));
    gate.allow(10);
    settled(&model, |stats| {
        stats.finished_aborted == 1 && stats.blocks_used == 0
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let (server, gate) = Server::gated();
    let model = server.state.ready().next().unwrap();
    let config = &model.handle.info().config;
    let body = and(text("a"), &json!({"stream": true, "ignore_eos": true}));
    let mut held = Vec::new();
    for _ in 0..config.max_waiting + config.max_running {
        let reply = server
            .begin("POST", TEXT, &[], body.to_string().into_bytes())
            .await;
        if reply.0 != 200 {
            break;
        }
        held.push(reply);
        // Whoever comes from here on waits.
        gate.wait_for_step();
    }
    assert!(held.len() >= config.max_waiting);
    let reply = server.post(TEXT, body.clone()).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (503, &json!("queue_full"))
    );
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    let left = held.len() as u64;
    drop(held);
    gate.allow(10_000);
    settled(&model, |stats| stats.finished_aborted == left).await;
    settled(&model, |_| !model.handle.health().pending).await;
    assert_eq!(server.post(TEXT, text("a")).await.status, 200);
}

#[tokio::test]
async fn a_failure_after_the_first_byte_is_an_event() {
    let (server, gate) = Server::gated();
    gate.allow(2);
    let mut stream = server
        .open(
            TEXT,
            and(
                text("a"),
                &json!({"stream": true, "timeout_ms": 1, "max_tokens": 200}),
            ),
        )
        .await;
    let mut body = Vec::new();
    gate.allow(10_000);
    while let Some(chunk) = stream.next_chunk().await {
        body.extend_from_slice(&chunk);
    }
    let body = String::from_utf8(body).unwrap();
    let events: Vec<&str> = body.split("\n\n").filter(|e| !e.is_empty()).collect();
    let [.., error, done] = events.as_slice() else {
        panic!("{body}")
    };
    assert_eq!(*done, "data: [DONE]");
    let error: Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn tenants_and_salts_share_no_prefix() {
    let server = Server::start();
    // Whole blocks: the toy's recurrent layer can go on only where a step has ended at one.
    let prefix = "a b c d e f g h ".repeat(6);
    let cached = async |prompt: &str, headers: &[(&str, &str)], more: &Value| {
        let body = and(text(prompt), more);
        let reply = server.post_with(TEXT, body, headers).await.json();
        let details = &reply["usage"]["prompt_tokens_details"];
        details["cached_tokens"].as_u64().unwrap()
    };
    let longer = format!("{prefix}and more");
    let key: &[(&str, &str)] = &[("authorization", "Bearer one")];
    let other: &[(&str, &str)] = &[("authorization", "Bearer two")];
    let tenants = [
        (&[][..], json!({})),
        (key, json!({})),
        (other, json!({})),
        (key, json!({"cache_salt": "s"})),
        (&[][..], json!({"cache_salt": "s"})),
    ];
    for (headers, salt) in &tenants {
        let tenant = format!("{headers:?} {salt}");
        assert_eq!(
            cached(&longer, headers, salt).await,
            0,
            "{tenant}: not another's"
        );
        cached(&prefix, headers, salt).await;
        assert_eq!(
            cached(&longer, headers, salt).await,
            96,
            "{tenant}: its own"
        );
    }
}
