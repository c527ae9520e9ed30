//! `koma serve`: listens, loads, serves, drains.
//!
//! Owns: the order of these, and the process's runtime. Must not know: routes. Invariant: the server answers `/health`
//! before it loads anything, and is ready only when every model is; a configuration that cannot be served whole is not
//! served at all.

use super::device::{Devices, OnGpu};
use super::{announce, start};
use crate::config::{ModelConfig, ServeConfig};
use crate::shutdown::{self, Signals};
use anyhow::{Context, anyhow};
use axum::serve::ListenerExt;
use koma_engine::models::Loaded;
use koma_engine::models::kernels::Team;
use koma_engine::{EngineHandle, Machine, ModelNeed, plan_budget};
use koma_server::metrics::Build;
use koma_server::{AppState, Metrics, ServedModel, ServerLimits};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Replies that are being written when the engines have ended get what is left of the drain, and at least this long.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// An engine that has not ended this long after its deadline hangs in a step, and is left behind.
const HUNG: Duration = Duration::from_secs(3);

/// Serves until a signal asks it to end.
///
/// # Errors
/// If the address cannot be had, or a model cannot be loaded.
pub(crate) fn serve(config: &ServeConfig) -> anyhow::Result<()> {
    // The reactor moves bytes and reads JSON; tokenizing and templates run on the blocking threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_name("koma-http")
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let ended = runtime.block_on(run(config));
    // A model that is still loading must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn run(config: &ServeConfig) -> anyhow::Result<()> {
    let started = Instant::now();
    tracing::info!(version = crate::args::VERSION, config = %config.describe(), "koma starts");
    let mut signals = Signals::listen().context("signals cannot be received")?;
    let listener = listen(config).await?;
    let address = listener.local_addr()?;
    let team = Arc::new(Team::new(config.process.threads));
    let (state, metrics) = state(config, &team);
    let (close, closed) = oneshot::channel::<()>();
    let service = axum::serve(
        listener.tap_io(|stream| {
            // Tokens are small packets; if the system refuses, they only come later.
            let _ = stream.set_nodelay(true);
        }),
        koma_server::app(state.clone()),
    );
    let server = tokio::spawn(
        service
            .with_graceful_shutdown(async move {
                let _ = closed.await;
            })
            .into_future(),
    );

    let loading = {
        let (config, state) = (config.clone(), state.clone());
        tokio::task::spawn_blocking(move || load_all(&config, &state, &team))
    };
    tokio::select! {
        loaded = loading => loaded.map_err(|panic| anyhow!("loading failed: {panic}"))??,
        signal = signals.next() => {
            tracing::info!(signal, "ended while loading");
            return Ok(());
        }
    }
    announce::models(config, &state);
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!("ready at http://{address} after {seconds:.1} s");
    let steps = tokio::spawn(watch_steps(metrics, state.clone()));

    let signal = signals.next().await;
    let timeout = config.drain_timeout;
    let deadline = Instant::now() + timeout;
    tracing::info!(
        signal,
        seconds = timeout.as_secs(),
        "draining; another signal ends at once"
    );
    tokio::select! {
        drained = tokio::time::timeout(timeout + HUNG, shutdown::drain(&state, timeout)) => {
            if drained.is_ok() {
                tracing::info!("drained");
            } else {
                tracing::error!("an engine hangs in a step; ended without it");
            }
        }
        signal = signals.next() => tracing::warn!(signal, "ended before all requests were"),
    }
    steps.abort();
    let _ = close.send(());
    let left = deadline.saturating_duration_since(Instant::now());
    let last_writes = left.max(LAST_WRITES);
    match tokio::time::timeout(last_writes, server).await {
        Ok(Ok(Err(error))) => Err(error).context("the server failed"),
        _ => Ok(()),
    }
}

async fn listen(config: &ServeConfig) -> anyhow::Result<TcpListener> {
    let (host, port) = (config.host.as_str(), config.port);
    TcpListener::bind((host, port)).await.map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::AddrInUse => "the port is in use; choose another with --port",
            ErrorKind::PermissionDenied => {
                "ports below 1024 need more rights; choose another with --port"
            }
            ErrorKind::AddrNotAvailable => "this machine does not have the address; see --host",
            _ => return anyhow!(error).context(format!("cannot listen on {host}:{port}")),
        };
        anyhow!("cannot listen on {host}:{port}: {reason}")
    })
}

fn state(config: &ServeConfig, team: &Arc<Team>) -> (AppState, Arc<Metrics>) {
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("KOMA_COMMIT"),
        isa: config.process.isa.name(),
    };
    let names = || config.models.iter().map(|model| model.name.clone());
    let metrics = Arc::new(Metrics::new(names(), &build, Arc::clone(team)));
    let observer: Arc<dyn koma_server::Observer> = metrics.clone();
    (
        AppState::new(names(), ServerLimits::default(), observer),
        metrics,
    )
}

/// Step records live in a ring: they are read every second, so that none is lost between two scrapes.
async fn watch_steps(metrics: Arc<Metrics>, state: AppState) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        metrics.collect_steps(&state);
    }
}

/// Loads one model after the other, splits the memory, starts the engines. Refused as soon as it is clear that the memory
/// does not hold.
fn load_all(config: &ServeConfig, state: &AppState, team: &Arc<Team>) -> anyhow::Result<()> {
    let machine = Machine {
        cores: config.process.threads,
        ..Machine::detect()
    };
    // The process ends then; who asks meanwhile hears why.
    let failed = |model: &ModelConfig| {
        state.set_failed(&model.name, "it cannot be loaded");
    };
    let fetched = |model| start::fetched(model, &config.process).inspect_err(|_| failed(model));
    let models = config.models.iter().map(fetched);
    let models: Vec<ModelConfig> = models.collect::<Result<_, _>>()?;
    let gpus = models
        .iter()
        .map(|model| Devices::gpu(model).inspect_err(|_| failed(model)));
    let gpus: Vec<OnGpu> = gpus.collect::<Result<_, _>>()?;
    let expected = |(model, gpu)| {
        start::expected_need(model, &config.process, gpu).inspect_err(|_| failed(model))
    };
    let needs = models.iter().zip(&gpus).map(expected);
    let mut needs: Vec<ModelNeed> = needs.collect::<Result<_, _>>()?;
    plan_budget(&machine, &needs)?;
    let data_dir = config.data_dir.as_deref();
    let devices = Devices::default();
    let mut all_loaded = Vec::with_capacity(needs.len());
    for (index, model) in models.iter().enumerate() {
        let gpu = &gpus[index];
        let loaded = start::load_model(model, &config.process, (&devices, gpu));
        let loaded = loaded.inspect_err(|_| failed(model))?;
        needs[index] = start::need(model, gpu, &loaded.outline());
        plan_budget(&machine, &needs)?;
        all_loaded.push(loaded);
    }
    let budget = plan_budget(&machine, &needs)?;
    announce::memory(config, &budget);
    let mut starting: Vec<_> = models.iter().zip(all_loaded).zip(&budget.models).collect();
    // Caches of a GPU share what everything else leaves, so encoders come first.
    starting.sort_by_key(|((_, loaded), _)| start::generates(loaded));
    let measured = |((model, loaded), _): &((&ModelConfig, Loaded), _)| {
        let device = loaded.device.number();
        device.filter(|_| start::generates(loaded) && model.kv_cache_bytes.is_none())
    };
    let mut waiting: Vec<_> = starting.iter().map(measured).collect();
    for (index, ((model, loaded), share)) in starting.into_iter().enumerate() {
        let mut engine = start::engine_config(model, start::generates(&loaded), share.cache_bytes);
        let device = waiting[index];
        let parts = waiting
            .iter()
            .filter(|other| device.is_some() && **other == device)
            .count();
        waiting[index] = None;
        engine.cache_parts = loaded
            .device
            .number()
            .filter(|_| model.kv_cache_bytes.is_none())
            .map(|_| parts.max(1));
        engine.dump_dir = Some(start::dump_dir(data_dir));
        let handle = EngineHandle::start(loaded, engine, Arc::clone(team), config.process.isa)?;
        let served = ServedModel::new(handle, model.root.clone())
            .map_err(|reason| anyhow!("model `{}`: {reason}", model.name))?;
        state.set_ready(&model.name, Arc::new(served));
    }
    Ok(())
}
