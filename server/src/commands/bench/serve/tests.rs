//! `koma bench serve` against our own server over toy models, and against a scripted one. Counts only; nothing is timed.

use super::report::Report;
use crate::args::{BenchCommand, Cli, Command};
use crate::config::{BenchServeConfig, Surroundings};
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use clap::Parser;
use koma_engine::models::kernels::{Isa, Team};
use koma_engine::models::{Head, HeadKind, Loaded};
use koma_engine::{EngineConfig, EngineHandle, toy};
use koma_server::{AppState, ServedModel, ServerLimits, Silent};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify};

fn config(url: &str, arguments: &str) -> BenchServeConfig {
    let words = ["koma", "bench", "serve", "--url", url].into_iter();
    let cli = Cli::try_parse_from(words.chain(arguments.split_whitespace())).unwrap();
    let Command::Bench(BenchCommand::Serve(args)) = cli.command else {
        panic!("another command");
    };
    let around = Surroundings {
        cores: 1,
        sagemaker: Path::new("/nowhere").to_owned(),
        ..Surroundings::default()
    };
    let environment = std::iter::empty::<(String, String)>().collect();
    BenchServeConfig::resolve(&args, &environment, &around).unwrap()
}

async fn measure(config: &BenchServeConfig) -> anyhow::Result<Report> {
    super::measure(config, std::future::pending()).await
}

/// The JSON of a measurement.
async fn bench(url: &str, arguments: &str) -> Value {
    measure(&config(url, arguments)).await.unwrap().json()
}

/// A server over these toys; its address.
async fn koma(models: Vec<(&str, Loaded)>) -> String {
    let names = models.iter().map(|(name, _)| (*name).to_owned());
    let state = AppState::new(names, ServerLimits::default(), Arc::new(Silent));
    let team = Arc::new(Team::new(1));
    for (name, mut loaded) in models {
        name.clone_into(&mut loaded.identity.name);
        let config = EngineConfig {
            cache_bytes: 4 << 20,
            ..EngineConfig::default()
        };
        let handle = EngineHandle::start(loaded, config, Arc::clone(&team), Isa::detect()).unwrap();
        state.set_ready(name, Arc::new(ServedModel::new(handle, "toy").unwrap()));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, koma_server::app(state)).into_future());
    url
}

fn encoder(kind: HeadKind, labels: &[&str]) -> Loaded {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    toy::encoder_with(Head::labelled(kind, labels), Arc::new(|_| Ok(())))
}

/// Checks the one series of `found`: requests answered, tokens in and out, all lengths exact.
fn check(found: &Value, requests: u64, [input, output]: [u64; 2]) {
    let series = &found["series"][0];
    assert_eq!(series["answered"], requests, "{series:#}");
    assert_eq!(series["failed"], 0);
    assert_eq!(series["input_tokens"], requests * input);
    assert_eq!(series["output_tokens"], requests * output);
    assert_eq!(series["input_lengths"]["exact"], requests);
    let whole = &series["results"]["end_to_end"]["samples"];
    assert_eq!(whole.as_array().map(Vec::len), Some(requests as usize));
}

#[tokio::test]
async fn our_own_server_gives_exact_lengths_at_every_endpoint() {
    let url = koma(vec![
        ("chat", toy::decoder()),
        (
            "embed",
            toy::encoder_with(Head::embedding(true, 8), Arc::new(|_| Ok(()))),
        ),
        ("intent", toy::encoder()),
        (
            "rerank",
            encoder(HeadKind::Score { sigmoid: true }, &["LABEL_0"]),
        ),
    ])
    .await;
    let common = "--requests 6 --warmup 3 --token-ids 97..122";
    let generate = "--model chat --input-len 40 --output-len 20";
    let found = bench(&url, &format!("{common} {generate} --concurrency 3")).await;
    check(&found, 6, [40, 20]);
    assert_eq!(found["schema"], "koma.bench.serve/1");
    // As `koma export cost` wants to know it.
    assert_eq!(found["environment"]["device"], "cpu");
    assert_eq!(found["server"]["model"], "chat");
    assert!(found["server"]["weights_hash"].is_string());
    let series = &found["series"][0];
    assert_eq!(
        series["output_lengths"],
        json!({"exact": 6, "other": 0, "not_counted": 0})
    );
    let firsts = &series["results"]["time_to_first_token"]["samples"];
    assert_eq!(firsts.as_array().map(Vec::len), Some(6));
    assert_eq!(found["settings"]["ignore_eos"], true);

    let url_v1 = format!("{url}/v1");
    let found = bench(&url_v1, &format!("{common} {generate} --rate 500,1000")).await;
    check(&found, 6, [40, 20]);
    assert_eq!(found["series"][1]["rate"], 1000.0);
    assert_eq!(found["series"].as_array().map(Vec::len), Some(2));

    for (model, endpoint) in [("embed", "embeddings"), ("intent", "classify")] {
        let arguments = format!("{common} --model {model} --endpoint {endpoint} --input-len 30");
        let found = bench(&url, &arguments).await;
        check(&found, 6, [30, 0]);
        assert_eq!(
            found["series"][0]["results"].get("time_to_first_token"),
            None
        );
    }
}

/// From how many ports some requests came, one after another.
async fn ports(arguments: &str) -> usize {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let note = Arc::clone(&seen);
    let reply = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\ndata: [DONE]\n\n";
    let answer = async move |ConnectInfo(from): ConnectInfo<SocketAddr>| {
        note.lock().unwrap().insert(from.port());
        ([(CONTENT_TYPE, "text/event-stream")], reply)
    };
    let app = Router::new().route("/v1/completions", post(answer));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    bench(&url, &format!("{SMALL} --model x {arguments}")).await;
    seen.lock().unwrap().len()
}

#[tokio::test]
async fn a_connection_serves_one_request_or_many() {
    // One more request comes before those that are measured.
    let arguments = "--requests 9 --concurrency 1";
    assert!(ports(arguments).await < 10);
    assert_eq!(ports(&format!("{arguments} --new-connections")).await, 10);
}

/// What a scripted server does with a request.
#[derive(Clone)]
enum Act {
    /// Answers with this status, content type and body, and closes.
    Say(u16, &'static str, String),
    /// Sends this much of a stream, and closes without an end.
    Break(String),
    /// Answers when this many requests are there.
    Meet(Arc<Barrier>),
    /// Does not answer.
    Never,
}

/// A server that answers request `i` (bodies only, not the question for models) as `act` says.
struct Stub {
    url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Stub {
    async fn start(act: impl Fn(usize, &Value) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let (seen, act) = (Arc::clone(&bodies), Arc::new(act));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, act) = (Arc::clone(&seen), Arc::clone(&act));
                tokio::spawn(async move { answer(stream, &seen, &*act).await });
            }
        });
        Self { url, bodies }
    }

    fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().clone()
    }
}

async fn answer(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Value>>,
    act: &(dyn Fn(usize, &Value) -> Act + Send + Sync),
) -> Option<()> {
    let (head, body) = request(&mut stream).await?;
    let act = if head.starts_with("GET /v1/models ") {
        let list = json!({"data": [{"id": "only"}]});
        Act::Say(200, "application/json", list.to_string())
    } else {
        let body: Value = serde_json::from_slice(&body).ok()?;
        let index = {
            let mut seen = seen.lock().unwrap();
            seen.push(body.clone());
            seen.len() - 1
        };
        act(index, &body)
    };
    let sse =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let reply = match act {
        Act::Say(status, kind, body) => {
            let length = body.len();
            format!(
                "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
        }
        Act::Break(part) => format!("{sse}{:x}\r\n{part}\r\n", part.len()),
        Act::Meet(barrier) => {
            barrier.wait().await;
            let body = tokens(2);
            format!("{sse}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        }
        Act::Never => std::future::pending().await,
    };
    stream.write_all(reply.as_bytes()).await.ok()
}

/// Head and body of the next request.
async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |n| n.trim().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                let body = bytes[end + 4..end + 4 + length].to_vec();
                return Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), body));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A stream of `n` tokens that an input of 5 tokens had.
fn tokens(n: usize) -> String {
    let token = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\n";
    let usage = json!({"prompt_tokens": 5, "completion_tokens": n});
    let end = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n");
    token.repeat(n) + &end
}

fn stream(body: String) -> Act {
    Act::Say(200, "text/event-stream; charset=utf-8", body)
}

const SMALL: &str = "--input-len 5 --output-len 2 --warmup 0";

#[tokio::test]
async fn failures_are_told_apart_and_none_ends_the_measurement() {
    let token = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
    let acts = [
        stream(tokens(2)), // what the server takes
        stream(tokens(2)),
        Act::Say(
            503,
            "application/json",
            json!({"error": {"message": "full"}}).to_string(),
        ),
        Act::Break(token.to_owned()),
        stream(token.to_owned()), // a whole body, but no end of the answer
        stream(format!(
            "{token}data: {{\"error\": {{\"message\": \"dead\"}}}}\n\n"
        )),
        stream("data: {broken\n\n".to_owned()),
        Act::Say(200, "application/json", "{}".to_owned()),
        stream(tokens(1)),
    ];
    let count = acts.len() - 1;
    let stub = Stub::start(move |index, _| acts[index].clone()).await;
    let arguments = format!("{SMALL} --requests {count} --concurrency 1");
    let found = bench(&stub.url, &arguments).await;
    let series = &found["series"][0];
    assert_eq!(
        series["errors"],
        json!({"disconnected": 2, "error in stream": 1, "http 503": 1, "malformed": 2})
    );
    assert_eq!(
        (&series["answered"], &series["failed"]),
        (&json!(2), &json!(6))
    );
    assert_eq!(
        series["output_lengths"],
        json!({"exact": 1, "other": 1, "not_counted": 0})
    );
    assert_eq!(series["output_tokens"], 3);
    assert_eq!(series["requests"][1]["error"]["message"], "full");
    assert_eq!(series["requests"][4]["error"]["message"], "dead");
    assert_eq!(found["server"]["model"], "only");
    assert!(stub.bodies().iter().all(|body| body["model"] == "only"));
}

#[tokio::test]
async fn a_request_without_an_end_is_given_up() {
    let stub = Stub::start(|index, _| match index {
        0 => stream(tokens(2)),
        _ => Act::Never,
    })
    .await;
    let mut config = config(&stub.url, &format!("{SMALL} --requests 2"));
    // Long enough for what is answered, which this bound holds for too.
    config.timeout = Duration::from_secs(3);
    let found = measure(&config).await.unwrap().json();
    assert_eq!(found["series"][0]["errors"], json!({"timeout": 2}));
}

#[tokio::test]
async fn at_a_rate_requests_are_sent_though_none_is_answered() {
    let all = Arc::new(Barrier::new(12));
    let stub = Stub::start(move |index, _| match index {
        0 => stream(tokens(2)),
        _ => Act::Meet(Arc::clone(&all)),
    })
    .await;
    let arguments = format!("{SMALL} --requests 12 --rate 1000");
    let found = bench(&stub.url, &arguments).await;
    check(&found, 12, [5, 2]);
    let requests = found["series"][0]["requests"].as_array().unwrap().clone();
    let time = |request: &Value, key: &str| request[key].as_f64().unwrap();
    assert!(requests.iter().all(|r| time(r, "sent") >= time(r, "due")));
    // Times count from when a request was due: until the reply, of which the client's lateness is a part.
    let whole = &found["series"][0]["results"]["end_to_end"]["samples"];
    for (request, whole) in requests.iter().zip(whole.as_array().unwrap()) {
        let least = time(request, "sent") - time(request, "due");
        assert!(whole.as_f64().unwrap() >= least);
    }
}

#[tokio::test]
async fn at_fixed_concurrency_so_many_are_in_flight() {
    // Fewer would wait for each other without end; more would answer in other company.
    let three = Arc::new(Barrier::new(3));
    let stub = Stub::start(move |index, _| match index {
        0 => stream(tokens(2)),
        _ => Act::Meet(Arc::clone(&three)),
    })
    .await;
    let arguments = format!("{SMALL} --requests 9 --concurrency 3");
    check(&bench(&stub.url, &arguments).await, 9, [5, 2]);
    assert_eq!(stub.bodies().len(), 10);
}

#[tokio::test]
async fn warm_up_is_sent_and_not_counted_and_no_prompt_comes_twice() {
    let stub = Stub::start(|_, _| stream(tokens(2))).await;
    let arguments = "--input-len 5 --output-len 2 --warmup 4 --requests 3 --concurrency 1,2";
    let found = bench(&stub.url, arguments).await;
    check(&found, 3, [5, 2]);
    let bodies = stub.bodies();
    assert_eq!(bodies.len(), 1 + 4 + 3 + 3);
    let mut prompts: Vec<String> = bodies.iter().map(|b| b["prompt"].to_string()).collect();
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), bodies.len());
}

#[tokio::test]
async fn a_server_that_refuses_ignore_eos_is_asked_without() {
    let stub = Stub::start(|_, body| match body.get("ignore_eos") {
        Some(_) => Act::Say(
            400,
            "application/json",
            json!({"error": {"message": "unknown: ignore_eos"}}).to_string(),
        ),
        None => stream(tokens(1)),
    })
    .await;
    let report = measure(&config(&stub.url, &format!("{SMALL} --requests 2")))
        .await
        .unwrap();
    let found = report.json();
    assert_eq!(found["settings"]["ignore_eos"], false);
    assert_eq!(found["series"][0]["output_lengths"]["other"], 2);
    assert!(report.table().contains("outputs may end early"));
}

#[tokio::test]
async fn a_server_that_wants_text_gets_words_of_the_length_asked_for() {
    let stub = Stub::start(|_, body| match body["prompt"].as_str() {
        None => Act::Say(
            422,
            "application/json",
            json!({"detail": [{"msg": "Input should be a valid string"}]}).to_string(),
        ),
        Some(text) => {
            let usage =
                json!({"prompt_tokens": text.split(' ').count() + 1, "completion_tokens": 2});
            stream(tokens(2).replace(
                &json!({"prompt_tokens": 5, "completion_tokens": 2}).to_string(),
                &usage.to_string(),
            ))
        }
    })
    .await;
    let arguments = "--input-len 9 --output-len 2 --warmup 0 --requests 3";
    let report = measure(&config(&stub.url, arguments)).await.unwrap();
    check(&report.json(), 3, [9, 2]);
    assert_eq!(report.json()["settings"]["token_ids"], false);
    assert!(report.table().contains("prompts are words"));
}

#[tokio::test]
async fn counts_alone_may_come_with_null_for_choices() {
    let body = tokens(2).replace("\"choices\":[],", "\"choices\":null,");
    assert!(body.contains("null,\"usage\""));
    let stub = Stub::start(move |_, _| stream(body.clone())).await;
    let found = bench(&stub.url, &format!("{SMALL} --requests 2")).await;
    check(&found, 2, [5, 2]);
    assert_eq!(found["settings"]["token_ids"], true);
}

#[tokio::test]
async fn runs_at_other_paces_have_other_prompts_and_what_is_cached_is_counted() {
    let stub = Stub::start(|_, _| {
        let usage = json!({
            "prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4},
        });
        stream(tokens(2).replace(
            &json!({"prompt_tokens": 5, "completion_tokens": 2}).to_string(),
            &usage.to_string(),
        ))
    })
    .await;
    for pace in [
        "--rate 2000",
        "--rate 4000",
        "--concurrency 3",
        "--rate 3000,3000",
    ] {
        let found = bench(&stub.url, &format!("{SMALL} --requests 3 {pace}")).await;
        assert_eq!(found["series"][0]["cached_input_tokens"], 12, "{found:#}");
    }
    // The first request of each run, which is not measured, is the same.
    let bodies = stub.bodies();
    let prompts: BTreeSet<String> = bodies.iter().map(|b| b["prompt"].to_string()).collect();
    assert_eq!((bodies.len(), prompts.len()), (4 + 5 * 3, 1 + 5 * 3));
}

#[tokio::test]
async fn a_series_without_an_answer_is_named() {
    let stub = Stub::start(|index, _| match index {
        0..4 => stream(tokens(2)),
        _ => Act::Say(503, "text/plain", "full".to_owned()),
    })
    .await;
    let arguments = format!("{SMALL} --requests 3 --concurrency 1,2");
    let report = measure(&config(&stub.url, &arguments)).await.unwrap();
    let error = report.check(2).unwrap_err().to_string();
    assert_eq!(error, "2 at once: no request was answered");
    assert_eq!(report.json()["series"][0]["answered"], 3);
}

#[tokio::test]
async fn what_was_measured_before_it_was_stopped_is_kept() {
    let stopped = Arc::new(Notify::new());
    let stop = Arc::clone(&stopped);
    let stub = Stub::start(move |index, _| {
        if index < 4 {
            return stream(tokens(2));
        }
        stop.notify_one();
        Act::Never
    })
    .await;
    let config = config(
        &stub.url,
        &format!("{SMALL} --requests 3 --concurrency 1,2"),
    );
    let report = super::measure(&config, stopped.notified()).await.unwrap();
    let error = report.check(2).unwrap_err().to_string();
    assert_eq!(error, "stopped: 1 of 2 measurements are whole");
    check(&report.json(), 3, [5, 2]);
    report.check(1).unwrap();
    // Control: nothing is whole.
    let stopped = super::measure(&config, std::future::ready(())).await;
    assert!(stopped.unwrap_err().to_string().contains("stopped before"));
}

#[tokio::test]
async fn texts_are_made_as_long_as_asked() {
    // A word is a token, and a template adds seven.
    let words = |body: &Value| {
        let text = body["messages"][0]["content"].as_str().unwrap();
        text.split(' ').count()
    };
    let stub = Stub::start(move |_, body| {
        let delta =
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
        let usage = json!({"prompt_tokens": words(body) + 7, "completion_tokens": 2});
        stream(format!(
            "{delta}{delta}data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n"
        ))
    })
    .await;
    let arguments = "--endpoint chat --input-len 50 --output-len 2 --warmup 0 --requests 5";
    check(&bench(&stub.url, arguments).await, 5, [50, 2]);
    let error = measure(&config(&stub.url, "--endpoint chat --input-len 7"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--input-len"), "{error}");
}

#[tokio::test]
async fn what_cannot_begin_is_an_error() {
    let check = async |url: &str, arguments: &str, parts: &[&str]| {
        let error = measure(&config(url, arguments))
            .await
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` in {error}");
        }
    };
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    check(&url, "", &["/v1/models", "connect"]).await;
    check(&url, "--model x", &["nothing is measured", "connect"]).await;
    let stub = Stub::start(|_, _| Act::Say(404, "text/plain", "no such model".to_owned())).await;
    check(&stub.url, "", &["http 404", "no such model"]).await;
    let url = koma(vec![("a", toy::decoder()), ("b", toy::decoder())]).await;
    check(&url, "", &["--model", "a, b"]).await;
    check(&url, "--model c", &["http 404", "c"]).await;
    // Ids that the model does not have: the server's own words.
    check(&url, "--model a", &["http 400", "prompt"]).await;
}
