//! Embeddings, rerank, classify, tokenize, invocations.

use crate::server::Server;
use serde_json::{Value, json};

#[tokio::test]
async fn embeddings_as_numbers_and_as_base64() {
    let server = Server::start();
    let body = json!({"input": ["a b", "c"]});
    let plain = server.post("/v1/embeddings", body.clone()).await.json();
    assert_eq!(plain["object"], "list");
    assert_eq!(plain["model"], "embed");
    let data = plain["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(data[1]["object"], "embedding");
    assert_eq!(data[1]["index"], 1);
    assert!(plain["usage"]["prompt_tokens"].as_u64() == plain["usage"]["total_tokens"].as_u64());

    let mut coded = body;
    coded["encoding_format"] = json!("base64");
    let coded = server.post("/v1/embeddings", coded).await.json();
    for (plain, coded) in data.iter().zip(coded["data"].as_array().unwrap()) {
        let numbers: Vec<f32> = serde_json::from_value(plain["embedding"].clone()).unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(coded["embedding"], base64(&bytes));
    }
    let alone = server
        .post("/v1/embeddings", json!({"input": "c"}))
        .await
        .json();
    assert_eq!(alone["data"][0]["embedding"], data[1]["embedding"]);
    let size = data[0]["embedding"].as_array().unwrap().len();
    let same = server
        .post("/v1/embeddings", json!({"input": "c", "dimensions": size}))
        .await;
    assert_eq!(same.status, 200);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn rerank_sorts_and_keeps_places() {
    let server = Server::start();
    let documents = ["a", "b b", "c c c", "d", "e e"];
    let body = json!({"query": "b", "documents": documents, "return_documents": true});
    let reply = server.post("/v1/rerank", body.clone()).await.json();
    assert!(reply["id"].as_str().unwrap().starts_with("rerank-"));
    assert_eq!(reply["model"], "rerank");
    assert!(reply["usage"]["total_tokens"].as_u64().unwrap() > 0);
    let results = reply["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    let scores: Vec<f64> = results
        .iter()
        .map(|r| r["relevance_score"].as_f64().unwrap())
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let mut places: Vec<u64> = results
        .iter()
        .map(|r| r["index"].as_u64().unwrap())
        .collect();
    for result in results {
        let index = result["index"].as_u64().unwrap() as usize;
        assert_eq!(result["document"], json!({"text": documents[index]}));
    }
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3, 4]);

    let objects: Vec<Value> = documents.iter().map(|d| json!({"text": d})).collect();
    let top = server
        .post(
            "/rerank",
            json!({"query": "b", "documents": objects, "top_n": 2}),
        )
        .await
        .json();
    assert_eq!(top["results"].as_array().unwrap().len(), 2);
    for (a, b) in top["results"].as_array().unwrap().iter().zip(results) {
        assert_eq!(
            (&a["index"], &a["relevance_score"]),
            (&b["index"], &b["relevance_score"])
        );
        assert!(a.get("document").is_none());
    }
    let texts = server
        .post("/rerank", json!({"query": "b", "texts": documents}))
        .await
        .json();
    assert_eq!(texts["results"].as_array().unwrap().len(), 5);
}

/// The toy's tokens are bytes: parts of three are known. A document's score is that of its best part.
#[tokio::test]
async fn a_long_document_counts_by_its_best_part() {
    let server = Server::start();
    let rerank = async |body: Value| {
        let reply = server.post("/rerank", body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let scores = |reply: &Value, documents: usize| {
        let mut scores = vec![f64::NAN; documents];
        for result in reply["results"].as_array().unwrap() {
            let index = result["index"].as_u64().unwrap() as usize;
            scores[index] = result["relevance_score"].as_f64().unwrap();
        }
        scores
    };
    let documents = ["abcdefgh", "xyz", "q", "aaabbbccc"];
    let parts = ["abc", "def", "gh", "xyz", "q", "aaa", "bbb", "ccc"];
    for raw in [false, true] {
        let body = json!({"query": "b", "documents": documents, "raw_scores": raw});
        let mut cut = body.clone();
        cut["max_tokens_per_doc"] = json!(3);
        let whole = scores(&rerank(body).await, 4);
        let cut = rerank(cut).await;
        let body = json!({"query": "b", "documents": parts, "raw_scores": raw});
        let alone = rerank(body).await;
        assert_eq!(cut["usage"], alone["usage"]);
        let (cut, alone) = (scores(&cut, 4), scores(&alone, 8));
        let best =
            |range: std::ops::Range<usize>| alone[range].iter().copied().fold(f64::MIN, f64::max);
        assert_eq!(cut, [best(0..3), alone[3], alone[4], best(5..8)]);
        assert_ne!(
            cut[0], whole[0],
            "the control: in one piece it is another score"
        );
    }
    // A document that the model's 512 tokens do not hold has parts that they do.
    let long = "ab".repeat(1000);
    let body = json!({"query": "b", "documents": [long], "max_tokens_per_doc": 4096, "top_n": 1});
    assert_eq!(rerank(body).await["results"].as_array().unwrap().len(), 1);
    let refused = |body: Value, part: &'static str| {
        let server = &server;
        async move {
            let reply = server.post("/rerank", body).await;
            assert_eq!(reply.status, 400);
            assert!(reply.text().contains(part), "{}", reply.text());
        }
    };
    let body = json!({"query": "b", "documents": ["ab".repeat(1000)]});
    refused(body.clone(), "documents").await;
    let mut small = body;
    small["max_tokens_per_doc"] = json!(1);
    refused(small.clone(), "more than 1000 parts").await;
    small["max_tokens_per_doc"] = json!(0);
    refused(small, "max_tokens_per_doc").await;
}

#[tokio::test]
async fn more_documents_than_the_queue_holds() {
    let server = Server::start();
    let model = server
        .state
        .lookup(Some("rerank"), koma_engine::TaskKind::Score)
        .unwrap();
    let queue = model.handle.info().config.max_waiting;
    assert!(
        queue < 200,
        "the toy's queue is short, so that this test says something: {queue}"
    );
    let documents: Vec<String> = (0..200).map(|i| format!("a{i}")).collect();
    let reply = server
        .post("/rerank", json!({"query": "b", "documents": documents}))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["results"].as_array().unwrap().len(), 200);
}

#[tokio::test]
async fn classify_names_the_best_class() {
    let server = Server::start();
    let reply = server
        .post("/classify", json!({"input": ["a", "b c"]}))
        .await
        .json();
    let model = server
        .state
        .lookup(Some("intent"), koma_engine::TaskKind::Classify)
        .unwrap();
    let labels = &model.handle.info().head.as_ref().unwrap().labels;
    assert_eq!(reply["object"], "list");
    for (i, entry) in reply["data"].as_array().unwrap().iter().enumerate() {
        let probs: Vec<f32> = serde_json::from_value(entry["probs"].clone()).unwrap();
        assert_eq!(entry["index"], i);
        assert_eq!(entry["num_classes"], probs.len());
        assert_eq!(probs.len(), labels.len());
        let best = probs.iter().copied().fold(f32::MIN, f32::max);
        let place = probs.iter().position(|p| *p == best).unwrap();
        assert_eq!(entry["label"], labels[place]);
    }
    let alone = server
        .post("/classify", json!({"input": "b c"}))
        .await
        .json();
    assert_eq!(alone["data"][0]["probs"], reply["data"][1]["probs"]);
    let pairs = server
        .post("/classify", json!({"input": [["a", "b"], ["c", "d"]]}))
        .await
        .json();
    assert_eq!(pairs["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn raw_scores_leave_the_activation_out() {
    let server = Server::start();
    let classes = async |more: Value| {
        let mut body = json!({"input": "a"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let reply = server.post("/classify", body).await.json();
        serde_json::from_value::<Vec<f32>>(reply["data"][0]["probs"].clone()).unwrap()
    };
    let mut raw = classes(json!({"raw_scores": true})).await;
    assert_eq!(raw, classes(json!({"use_activation": false})).await);
    let plain = classes(json!({})).await;
    assert_ne!(raw, plain);
    let models = &server.state;
    let model = models
        .lookup(Some("intent"), koma_engine::TaskKind::Classify)
        .unwrap();
    model
        .handle
        .info()
        .head
        .as_ref()
        .unwrap()
        .activate(&mut raw);
    assert_eq!(raw, plain);

    let length = async |more: Value| {
        let mut body = json!({"input": "a"});
        body["normalize"] = more;
        let reply = server.post("/v1/embeddings", body).await.json();
        let row: Vec<f32> = serde_json::from_value(reply["data"][0]["embedding"].clone()).unwrap();
        row.iter().map(|x| x * x).sum::<f32>().sqrt()
    };
    assert!((length(json!(null)).await - 1.0).abs() < 1e-6);
    assert!((length(json!(true)).await - 1.0).abs() < 1e-6);
    assert!((length(json!(false)).await - 1.0).abs() > 1e-3);
}

#[tokio::test]
async fn tokenize_and_back() {
    let server = Server::start();
    let reply = server
        .post(
            "/tokenize",
            json!({"prompt": "a b", "return_token_strs": true}),
        )
        .await
        .json();
    let tokens = reply["tokens"].as_array().unwrap();
    assert_eq!(reply["count"], tokens.len());
    assert_eq!(reply["token_strs"].as_array().unwrap().len(), tokens.len());
    assert!(reply["max_model_len"].as_u64().unwrap() > 0);
    let back = server
        .post("/detokenize", json!({"tokens": tokens}))
        .await
        .json();
    assert_eq!(back, json!({"prompt": "a b"}));
    let plain = server
        .post("/tokenize", json!({"prompt": "a b"}))
        .await
        .json();
    assert_eq!(plain["token_strs"], Value::Null);
    let chat = json!({"messages": [{"role": "user", "content": "a b"}]});
    let chat = server.post("/tokenize", chat).await.json();
    assert!(
        chat["count"].as_u64().unwrap() > tokens.len() as u64,
        "the template adds something"
    );
}

#[tokio::test]
async fn invocations_follow_fields_and_models() {
    let server = Server::start();
    for (body, object) in [
        (
            json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
            "chat.completion",
        ),
        (json!({"prompt": "a", "max_tokens": 1}), "text_completion"),
        (
            json!({"inputs": "a", "parameters": {"max_new_tokens": 2, "temperature": 0}}),
            "text_completion",
        ),
        (json!({"inputs": "a", "model": "embed"}), "list"),
        (json!({"input": "a"}), "list"),
        (json!({"input": "a", "model": "intent"}), "list"),
        (
            json!({"inputs": ["a", "b"], "model": "intent", "parameters": {}}),
            "list",
        ),
    ] {
        let reply = server.post("/invocations", body.clone()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        assert_eq!(reply.json()["object"], object, "{body}");
    }
    for body in [
        json!({"query": "a", "documents": ["b"]}),
        json!({"query": "a", "texts": ["b"]}),
    ] {
        let reply = server.post("/invocations", body).await.json();
        assert_eq!(reply["results"].as_array().unwrap().len(), 1);
    }
    let embed = server
        .post("/invocations", json!({"input": "a", "model": "embed"}))
        .await
        .json();
    assert!(embed["data"][0]["embedding"].is_array());
    let intent = server
        .post("/invocations", json!({"input": "a", "model": "intent"}))
        .await
        .json();
    assert!(intent["data"][0]["label"].is_string());
    let stream = json!({"inputs": "a", "model": "chat", "stream": true, "max_tokens": 2});
    let stream = server.post("/invocations", stream).await;
    assert_eq!(stream.events().last().map(String::as_str), Some("[DONE]"));
}
