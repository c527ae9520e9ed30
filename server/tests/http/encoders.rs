//! Token classifiers, prompts, shorter vectors and cross-encoders with labels: over tiny real checkpoints, against what the
//! reference libraries answered (`tests/golden`).

use crate::bad_input::check;
use crate::server::{Reply, Server};
use koma_engine::models::kernels::{Isa, Team};
use koma_engine::models::{Dtype, LoadOptions, Source, load};
use koma_engine::{EngineConfig, EngineHandle, TaskKind};
use koma_server::{AppState, ServedModel, ServerLimits, Silent};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of the models, and the golden cases that they are.
const MODELS: [(&str, &str); 6] = [
    ("nli", "bert_cross_labels"),
    ("left-out", "bert_embed_prompts"),
    ("pooled", "bert_embed_prompted"),
    ("dense", "bert_embed_dense"),
    ("ner", "bert_tokens"),
    ("ner-xlm", "xlm_roberta_tokens"),
];

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(case)
}

fn case(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(name).join("case.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn server() -> Server {
    let names = MODELS.map(|(name, _)| name.to_owned());
    let state = AppState::new(names, ServerLimits::default(), Arc::new(Silent));
    let team = Arc::new(Team::new(1));
    for (name, case) in MODELS {
        let options = LoadOptions {
            name: name.to_owned(),
            dtype: Dtype::F32,
            ..LoadOptions::default()
        };
        let loaded = load(&Source::Folder(golden(case).join("model")), &options).unwrap();
        let config = EngineConfig::default();
        let handle = EngineHandle::start(loaded, config, Arc::clone(&team), Isa::detect());
        let model = ServedModel::new(handle.unwrap(), case).unwrap();
        assert!(state.set_ready(name, Arc::new(model)));
    }
    Server::over(state)
}

/// Input `i` of each entry, its scores taken out and checked to be probabilities.
fn without_scores(mut reply: Value) -> Value {
    let data = reply["data"].as_array_mut().unwrap();
    for (i, entry) in data.iter_mut().enumerate() {
        assert_eq!(entry["index"], i);
        for entity in entry["entities"].as_array_mut().unwrap() {
            let score = entity.as_object_mut().unwrap().remove("score").unwrap();
            let score = score.as_f64().unwrap();
            assert!(score > 0.0 && score <= 1.0, "{score}");
        }
    }
    data.iter().map(|entry| entry["entities"].clone()).collect()
}

#[tokio::test]
async fn entities_are_those_of_the_pipeline() {
    let server = server();
    for (model, name) in [("ner", "bert_tokens"), ("ner-xlm", "xlm_roberta_tokens")] {
        let case = case(name);
        let inputs = case["inputs"].as_array().unwrap();
        let texts: Value = inputs.iter().map(|input| input["text"].clone()).collect();
        for (strategy, expected) in case["entities"].as_object().unwrap() {
            let body = json!({"model": model, "input": texts, "aggregation_strategy": strategy});
            let reply = server.post("/classify", body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(
                &without_scores(reply.json()),
                expected,
                "{model} {strategy}"
            );
        }
        let plain = json!({"model": model, "input": texts});
        let plain = server.post("/classify", plain).await.json();
        assert!(plain["id"].as_str().unwrap().starts_with("classify-"));
        assert_eq!(plain["object"], "list");
        assert_eq!(plain["model"], model);
        let tokens: usize = inputs
            .iter()
            .map(|i| i["ids"].as_array().unwrap().len())
            .sum();
        assert_eq!(plain["usage"]["prompt_tokens"], tokens);
        assert_eq!(without_scores(plain), case["entities"]["none"], "{model}");
    }
}

#[tokio::test]
async fn entities_have_transformers_fields() {
    let server = server();
    let text = json!({"model": "ner", "input": "shipping", "ignore_labels": []});
    let entities = |reply: Reply| {
        let entities = reply.json()["data"][0]["entities"].clone();
        entities.as_array().unwrap().clone()
    };
    let keys =
        |entity: &Value| -> Vec<String> { entity.as_object().unwrap().keys().cloned().collect() };
    let tokens = entities(server.post("/classify", text.clone()).await);
    assert_eq!(tokens.len(), 2);
    assert_eq!(
        keys(&tokens[1]),
        ["entity", "score", "index", "word", "start", "end"]
    );
    assert_eq!(tokens[1]["word"], "##ping");
    assert_eq!(
        (&tokens[1]["start"], &tokens[1]["end"]),
        (&json!(4), &json!(8))
    );
    let mut words = text;
    words["aggregation_strategy"] = json!("first");
    let words = entities(server.post("/classify", words).await);
    assert_eq!(
        keys(&words[0]),
        ["entity_group", "score", "word", "start", "end"]
    );
    assert_eq!(
        (&words[0]["word"], &words[0]["end"]),
        (&json!("shipping"), &json!(8))
    );
    // Cut to [CLS], one token, [SEP].
    let cut = json!({"model": "ner", "input": "shipping", "ignore_labels": [], "truncate_prompt_tokens": 3});
    let cut = entities(server.post("/classify", cut).await);
    assert_eq!(cut.len(), 1);
    assert_eq!(
        (&cut[0]["word"], &cut[0]["end"]),
        (&json!("ship"), &json!(4))
    );
}

#[tokio::test]
async fn entities_by_the_shape_of_the_payload() {
    let server = server();
    for body in [
        json!({"inputs": "a shop", "parameters": {"aggregation_strategy": "simple"}}),
        json!({"input": "a shop", "aggregation_strategy": "simple"}),
        json!({"input": "a shop", "model": "ner"}),
        json!({"inputs": "a shop", "model": "ner"}),
    ] {
        let reply = server.post("/invocations", body.clone()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        assert_eq!(reply.json()["model"], "ner", "{body}");
        assert!(reply.json()["data"][0]["entities"].is_array(), "{body}");
    }
    let unnamed = json!({"input": "a shop", "aggregation_strategy": "max"});
    let reply = server.post("/classify", unnamed).await.json();
    assert_eq!(reply["model"], "ner");
    // Nothing but a label for whole inputs without it: the first that classifies.
    let reply = server
        .post("/classify", json!({"input": "a shop"}))
        .await
        .json();
    assert_eq!(reply["model"], "nli");
}

#[tokio::test]
async fn what_token_classifiers_do_not_serve_is_named() {
    let server = server();
    let ner = |field: &str, value: Value| json!({"model": "ner", "input": "a", field: value});
    for (body, field) in [
        (
            ner("aggregation_strategy", json!("FIRST")),
            "aggregation_strategy",
        ),
        (
            ner("aggregation_strategy", json!(1)),
            "aggregation_strategy",
        ),
        (ner("ignore_labels", json!("O")), "ignore_labels"),
        (ner("ignore_labels", json!([1])), "ignore_labels.0"),
        (ner("raw_scores", json!(true)), "raw_scores"),
        (ner("prompt_name", json!("query")), "prompt_name"),
        (json!({"model": "ner", "input": [["a", "b"]]}), "input"),
        (
            json!({"model": "ner", "input": ["a", "b"], "aggregation_strategy": "most"}),
            "aggregation_strategy",
        ),
        (json!({"model": "ner", "input": [1, 2]}), "input"),
        (json!({"model": "ner", "input": [[1, 2], "a"]}), "input.0"),
        (
            json!({"model": "nli", "input": "a", "aggregation_strategy": "none"}),
            "aggregation_strategy",
        ),
        (
            json!({"model": "nli", "input": "a", "ignore_labels": []}),
            "ignore_labels",
        ),
        (
            json!({"model": "dense", "input": "a", "aggregation_strategy": "none"}),
            "model",
        ),
    ] {
        check(&server, "/classify", &body.to_string(), 400, Some(field)).await;
    }
    let body = json!({"model": "ner", "input": "a ".repeat(100)}).to_string();
    check(&server, "/classify", &body, 400, Some("input")).await;
    let body = json!({"model": "ner", "query": "a", "documents": ["b"]}).to_string();
    check(&server, "/v1/rerank", &body, 400, Some("model")).await;
}

#[tokio::test]
async fn all_labels_of_a_pair_and_no_ranking() {
    let server = server();
    let pairs: Vec<Value> = case("bert_cross_labels")["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|input| input["text"] != "")
        .map(|input| json!([input["text"], input["pair"]]))
        .collect();
    let body = json!({"model": "nli", "input": pairs});
    let reply = server.post("/classify", body).await.json();
    let data = reply["data"].as_array().unwrap();
    assert_eq!(data.len(), pairs.len());
    for entry in data {
        let probs: Vec<f32> = serde_json::from_value(entry["probs"].clone()).unwrap();
        assert!(probs.len() == 3 && (probs.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let labels = ["contradiction", "entailment", "neutral"];
        assert!(labels.contains(&entry["label"].as_str().unwrap()));
    }
    let reply = server.post(
        "/v1/rerank",
        json!({"model": "nli", "query": "a", "documents": ["b"]}),
    );
    let error = reply.await.json()["error"].clone();
    assert_eq!(error["code"], "wrong_task");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("reranking") && message.contains("classification"),
        "{message}"
    );
}

async fn vectors(server: &Server, body: Value) -> Vec<Vec<f32>> {
    let reply = server.post("/v1/embeddings", body.clone()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    let data = reply.json()["data"].as_array().unwrap().clone();
    let vector = |entry: &Value| serde_json::from_value(entry["embedding"].clone()).unwrap();
    data.iter().map(vector).collect()
}

#[tokio::test]
async fn shorter_vectors_are_cut_and_normalised() {
    let server = server();
    let texts = json!(["manga", "漫画の第3巻はありますか。"]);
    let ask = |more: Value| {
        let mut body = json!({"model": "dense", "input": texts});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        vectors(&server, body)
    };
    let whole = ask(json!({})).await;
    assert_eq!(whole[0].len(), 12);
    assert_eq!(ask(json!({"dimensions": 12})).await, whole);
    for (whole, short) in whole.iter().zip(ask(json!({"dimensions": 5})).await) {
        let length = whole[..5].iter().map(|x| x * x).sum::<f32>().sqrt();
        assert_eq!(short.len(), 5);
        for (long, short) in whole.iter().zip(&short) {
            assert!((long / length - short).abs() < 1e-6);
        }
        assert!(
            length < 0.99,
            "the control: there was something to normalise"
        );
    }
    let raw = ask(json!({"normalize": false})).await;
    let short = ask(json!({"normalize": false, "dimensions": 5})).await;
    assert_eq!(short[1], raw[1][..5]);

    let model = server.state.lookup(Some("dense"), TaskKind::Embed).unwrap();
    let steps = model.handle.stats().steps;
    for size in [0, 13, 4_294_967_295_u64] {
        let body = json!({"model": "dense", "input": "a", "dimensions": size}).to_string();
        check(&server, "/v1/embeddings", &body, 400, Some("dimensions")).await;
    }
    assert_eq!(
        model.handle.stats().steps,
        steps,
        "refused before anything is computed"
    );
}

#[tokio::test]
async fn prompts_go_before_texts() {
    let server = server();
    let ask = |model: &str, input: Value, more: Value| {
        let mut body = json!({"model": model, "input": input});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        vectors(&server, body)
    };
    let bare = ask("pooled", json!("manga"), json!({})).await;
    for (more, text) in [
        (json!({"prompt_name": "query"}), "order: manga"),
        (json!({"input_type": "query"}), "order: manga"),
        (json!({"prompt_name": "passage"}), "the book. manga"),
        (json!({"prompt_name": "empty"}), "manga"),
        (json!({"prompt_name": null, "input_type": null}), "manga"),
    ] {
        let by_hand = ask("pooled", json!(text), json!({})).await;
        assert_eq!(
            ask("pooled", json!("manga"), more.clone()).await,
            by_hand,
            "{more}"
        );
        assert_eq!(by_hand == bare, text == "manga", "{more}");
    }
    // This model's default is the passage prompt, and prompts are not pooled.
    let passage = ask(
        "left-out",
        json!(["manga", "a"]),
        json!({"prompt_name": "passage"}),
    )
    .await;
    assert_eq!(
        ask("left-out", json!(["manga", "a"]), json!({})).await,
        passage
    );
    let query = ask("left-out", json!("manga"), json!({"input_type": "query"})).await;
    assert_ne!(query[0], passage[0]);
    let by_hand = json!({"prompt_name": "empty"});
    let by_hand = ask("left-out", json!("the book. manga"), by_hand).await;
    assert_ne!(by_hand[0], passage[0], "its tokens would count");
    // What the file has under "document", which sentence-transformers itself adds: nothing.
    let document = ask("pooled", json!("manga"), json!({"input_type": "document"})).await;
    assert_eq!(document, bare);
}

#[tokio::test]
async fn prompts_that_cannot_be_are_named() {
    let server = server();
    for (body, field) in [
        (
            json!({"model": "pooled", "prompt_name": "quer"}),
            "prompt_name",
        ),
        (
            json!({"model": "dense", "prompt_name": "quer"}),
            "prompt_name",
        ),
        (json!({"model": "pooled", "prompt_name": 5}), "prompt_name"),
        (
            json!({"model": "pooled", "input_type": "search"}),
            "input_type",
        ),
        (
            json!({"model": "pooled", "input_type": "query", "prompt_name": "query"}),
            "input_type",
        ),
        (
            json!({"model": "pooled", "input": [5, 6], "prompt_name": "query"}),
            "input",
        ),
        (json!({"model": "left-out", "input": [5, 6]}), "input"),
        (
            json!({"model": "left-out", "truncate_prompt_tokens": 3}),
            "input",
        ),
    ] {
        let mut body = body;
        if body.get("input").is_none() {
            body["input"] = json!("manga");
        }
        check(
            &server,
            "/v1/embeddings",
            &body.to_string(),
            400,
            Some(field),
        )
        .await;
    }
    let body = json!({"model": "pooled", "input": "a", "prompt_name": "quer"});
    let message = server.post("/v1/embeddings", body).await.json()["error"]["message"].clone();
    assert!(
        message.as_str().unwrap().contains("passage, query"),
        "{message}"
    );
    // Ids are taken as they are where a prompt may be missing.
    let ids = json!({"model": "pooled", "input": [5, 6]});
    assert_eq!(server.post("/v1/embeddings", ids).await.status, 200);
}

#[tokio::test]
async fn models_tell_sizes_and_prompts() {
    let server = server();
    let models = server.get("/v1/models").await.json();
    let of = |name: &str| {
        let models = models["data"].as_array().unwrap().iter();
        models.clone().find(|model| model["id"] == name).unwrap()["koma"].clone()
    };
    assert_eq!(of("dense")["dimensions"], 12);
    assert_eq!(of("ner")["tasks"], json!(["token classification"]));
    assert_eq!(of("ner")["dimensions"], Value::Null);
    let prompts = of("pooled")["prompts"].clone();
    assert!(
        prompts.as_array().unwrap().contains(&json!("query")),
        "{prompts}"
    );
}
