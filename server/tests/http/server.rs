//! A server over toy engines, and ways to ask it.

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes, to_bytes};
use axum::http::{HeaderMap, Request};
use futures_util::StreamExt;
use koma_engine::models::kernels::{Error, Isa, Team};
use koma_engine::models::{Batch, Head, HeadKind, Loaded};
use koma_engine::{EngineConfig, EngineHandle, Stats, toy};
use koma_server::{AppState, Observer, ServedModel, ServerLimits, Silent, app};
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex};
use tower::ServiceExt;

/// The models of every test server, in this order.
pub(crate) const NAMES: [&str; 4] = ["chat", "embed", "intent", "rerank"];

/// A server with four toy models.
pub(crate) struct Server {
    pub(crate) state: AppState,
    app: Router,
}

/// A reply, read to its end.
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// A reply that is still coming.
pub(crate) struct Open {
    body: BodyDataStream,
}

/// All four models, ready.
pub(crate) fn toy_state() -> AppState {
    state_with(toy::decoder(), ServerLimits::default(), Arc::new(Silent))
}

/// All four models, ready, with this one for chat.
pub(crate) fn state_with(
    chat: Loaded,
    limits: ServerLimits,
    observer: Arc<dyn Observer>,
) -> AppState {
    let state = AppState::new(NAMES.map(str::to_owned), limits, observer);
    let team = Arc::new(Team::new(1));
    let free = || -> toy::Hook { Arc::new(|_: &Batch| Ok(())) };
    let embed = Head::embedding(true, 8);
    let rerank = HeadKind::Score { sigmoid: true };
    let rerank = Head::labelled(rerank, vec!["LABEL_0".to_owned()]);
    for (name, loaded) in NAMES.into_iter().zip([
        chat,
        toy::encoder_with(embed, free()),
        toy::encoder(),
        toy::encoder_with(rerank, free()),
    ]) {
        let handle = start(name, loaded, &team);
        let model = ServedModel::new(handle, "toy").unwrap();
        assert!(state.set_ready(name, Arc::new(model)));
    }
    state
}

fn start(name: &str, mut loaded: Loaded, team: &Arc<Team>) -> EngineHandle {
    name.clone_into(&mut loaded.identity.name);
    let config = EngineConfig {
        max_running: 8,
        max_waiting: 32,
        max_batch_tokens: 1024,
        cache_bytes: 4 << 20,
        ..EngineConfig::default()
    };
    EngineHandle::start(loaded, config, Arc::clone(team), Isa::detect()).unwrap()
}

/// Holds the steps of a toy decoder back until they are allowed.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<Passage>, Condvar)>);

#[derive(Default)]
struct Passage {
    /// Steps that may still pass.
    allowed: usize,
    /// Whether a step stands at the gate.
    stands: bool,
}

impl Gate {
    /// Lets `steps` more steps through.
    pub(crate) fn allow(&self, steps: usize) {
        self.0.0.lock().unwrap().allowed += steps;
        self.0.1.notify_all();
    }

    /// Waits until a step stands at the gate: from then on nothing is scheduled until it is let through.
    pub(crate) fn wait_for_step(&self) {
        let mut passage = self.0.0.lock().unwrap();
        while !passage.stands {
            passage = self.0.1.wait(passage).unwrap();
        }
    }

    fn pass(&self) {
        let mut passage = self.0.0.lock().unwrap();
        passage.stands = true;
        self.0.1.notify_all();
        while passage.allowed == 0 {
            passage = self.0.1.wait(passage).unwrap();
        }
        passage.allowed -= 1;
        passage.stands = false;
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::over(toy_state())
    }

    /// The chat model's steps wait for the gate.
    pub(crate) fn gated() -> (Self, Gate) {
        Self::gated_with(ServerLimits::default())
    }

    pub(crate) fn gated_with(limits: ServerLimits) -> (Self, Gate) {
        let gate = Gate::default();
        let hook = gate.clone();
        let server = Self::hooked(limits, move || {
            hook.pass();
            Ok(())
        });
        (server, gate)
    }

    /// `hook` is called before each step of the chat model.
    pub(crate) fn hooked(
        limits: ServerLimits,
        hook: impl Fn() -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        let chat = toy::decoder_with(Arc::new(move |_| hook()));
        Self::over(state_with(chat, limits, Arc::new(Silent)))
    }

    pub(crate) fn over(state: AppState) -> Self {
        Self {
            app: app(state.clone()),
            state,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, Vec::new()).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.exchange("GET", path, headers, Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.post_with(path, body, &[]).await
    }

    pub(crate) async fn post_with(
        &self,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Reply {
        let body = body.to_string().into_bytes();
        self.exchange("POST", path, headers, body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Reply {
        self.exchange(method, path, &[], body).await
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Reply {
        let (status, headers, body) = self.begin(method, path, headers, body).await;
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Reply {
            status,
            headers,
            body,
        }
    }

    /// Sends a POST and gives its reply before it has ended.
    pub(crate) async fn open(&self, path: &str, body: Value) -> Open {
        let body = body.to_string().into_bytes();
        let (status, _, body) = self.begin("POST", path, &[], body).await;
        assert_eq!(status, 200);
        let body = body.into_data_stream();
        Open { body }
    }

    /// Sends a request and gives its reply before it has ended.
    pub(crate) async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, HeaderMap, Body) {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value.as_bytes());
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status.as_u16(), head.headers, body)
    }

    /// Fails unless a plain request is still answered.
    pub(crate) async fn still_answers(&self) {
        let body = json!({"prompt": "a", "max_tokens": 1});
        assert_eq!(self.post("/v1/completions", body).await.status, 200);
        assert_eq!(self.get("/health").await.status, 200);
    }
}

/// Waits until `model`'s counters are as `wanted` says; fails if they never are.
pub(crate) async fn settled(model: &ServedModel, wanted: impl Fn(&Stats) -> bool) {
    for _ in 0..20_000_000u32 {
        if wanted(&model.handle.stats()) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never settled: {:?}", model.handle.stats());
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The data of a stream's events; comments are left out.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = self.text();
        let events = text.split("\n\n").filter(|event| !event.is_empty());
        let data = events.filter(|event| !event.starts_with(':'));
        data.map(|event| event.strip_prefix("data: ").unwrap().to_owned())
            .collect()
    }
}

impl Open {
    /// The next piece of the body.
    pub(crate) async fn next_chunk(&mut self) -> Option<Bytes> {
        self.body.next().await.map(Result::unwrap)
    }
}
