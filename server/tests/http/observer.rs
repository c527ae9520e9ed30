//! What the observer hears: every exchange, every token, every end, every refusal.

use crate::server::{Server, state_with};
use koma_engine::{TaskKind, toy};
use koma_server::{AppState, Finished, Observer, ServerLimits};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Recorder {
    heard: Mutex<Vec<String>>,
}

impl Recorder {
    fn hear(&self, what: String) {
        self.heard.lock().unwrap().push(what);
    }

    fn count(&self, what: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|h| h.starts_with(what)).count()
    }
}

impl Observer for Recorder {
    fn first_token(&self, model: &str, _: Duration) {
        self.hear(format!("first {model}"));
    }

    fn next_tokens(&self, model: &str, tokens: usize, _: Duration) {
        for _ in 0..tokens {
            self.hear(format!("next {model}"));
        }
    }

    fn finished(&self, finished: &Finished<'_>) {
        let generated = finished.task == TaskKind::Generate;
        let tokens = if generated {
            finished.usage.completion
        } else {
            finished.usage.prompt
        };
        self.hear(format!(
            "finished {} {tokens} n={}",
            finished.model, finished.n
        ));
    }

    fn refused(&self, model: &str, code: &'static str) {
        self.hear(format!("refused {model} {code}"));
    }

    fn http(&self, route: &str, status: u16, _: Duration) {
        self.hear(format!("http {route} {status}"));
    }

    fn render(&self, state: &AppState) -> String {
        format!("models_ready {}\n", state.ready().count())
    }
}

#[tokio::test]
async fn all_of_it_is_heard() {
    let recorder = Arc::new(Recorder::default());
    let limits = ServerLimits::default();
    let server = Server::over(state_with(toy::decoder(), limits, recorder.clone()));
    let body = json!({"prompt": "a", "max_tokens": 5, "n": 2, "ignore_eos": true, "stop": []});
    server.post("/v1/completions", body).await;
    assert_eq!(recorder.count("first chat"), 2);
    assert_eq!(recorder.count("finished chat 5 n=2"), 2);
    assert!(
        recorder.count("next chat") <= 8,
        "the first ones count apart"
    );
    assert!(recorder.count("next chat") > 0);

    server
        .post("/v1/embeddings", json!({"input": ["abc", "abc"]}))
        .await;
    assert_eq!(recorder.count("finished embed 3 n=1"), 2);

    let long = json!({"prompt": "a", "max_tokens": 100_000});
    server.post("/v1/completions", long).await;
    assert_eq!(recorder.count("refused chat context_length_exceeded"), 1);

    server.get("/nowhere").await;
    assert_eq!(recorder.count("http /v1/completions 200"), 1);
    assert_eq!(recorder.count("http /v1/completions 400"), 1);
    assert_eq!(
        recorder.count("http unmatched 404"),
        1,
        "never the raw path"
    );
    assert_eq!(server.get("/metrics").await.text(), "models_ready 4\n");
}
