//! What a server says of itself at start: who gets how much memory, and which models answer. For people as tables on
//! standard error, for programs as one event each.

use crate::config::{LogFormat, ServeConfig};
use crate::output::{note, table};
use koma_engine::models::Device;
use koma_engine::{Budget, TaskKind};
use koma_server::AppState;

const MIB: f64 = 1024.0 * 1024.0;

/// The memory budget.
pub(super) fn memory(config: &ServeConfig, budget: &Budget) {
    if config.process.log_format == LogFormat::Json {
        tracing::info!("{budget}");
        return;
    }
    let mut rows = vec![["memory", "weights", "cache"].map(str::to_owned).to_vec()];
    rows.extend(budget.models.iter().map(|model| {
        vec![
            model.name.clone(),
            mib(model.weight_bytes),
            mib(model.cache_bytes),
        ]
    }));
    let sum = |of: &dyn Fn(&koma_engine::ModelBudget) -> usize| {
        mib(budget.models.iter().map(of).fold(0, usize::saturating_add))
    };
    rows.push(vec![
        "in all".to_owned(),
        sum(&|model| model.weight_bytes),
        sum(&|model| model.cache_bytes),
    ]);
    let from = format!(
        "of {} free, the smaller of machine and container; {} threads\n",
        mib(budget.memory),
        budget.threads
    );
    note(&(table(&rows) + &from));
}

/// The models that answer.
pub(super) fn models(config: &ServeConfig, state: &AppState) {
    let head = [
        "model",
        "tasks",
        "device",
        "format",
        "weights",
        "max length",
        "cache tokens",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for model in state.ready() {
        let info = model.handle.info();
        let tasks: Vec<&str> = info
            .tasks
            .iter()
            .map(|task: &TaskKind| task.name())
            .collect();
        let (name, tasks) = (model.name().to_owned(), tasks.join(", "));
        let (max_len, cache_tokens) = (info.limits.max_len, info.blocks * info.config.block_size);
        let format = info.identity.format.clone();
        let device = device(&info.device);
        let weights = model.short_hash().to_owned();
        if config.process.log_format == LogFormat::Json {
            tracing::info!(
                name,
                tasks,
                device,
                format,
                weights,
                max_len,
                cache_tokens,
                "model"
            );
        }
        rows.push(vec![
            name,
            tasks,
            device,
            format,
            weights,
            max_len.to_string(),
            match cache_tokens {
                0 => "-".to_owned(),
                _ => cache_tokens.to_string(),
            },
        ]);
    }
    if config.process.log_format == LogFormat::Text {
        note(&table(&rows));
    }
}

/// What computes a model, with the number of cores where they are counted.
fn device(device: &Device) -> String {
    let name = device.name();
    match device {
        Device::Cpu => name.to_owned(),
        Device::Neuron(counters) => format!("{name} x {}", counters.cores()),
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => format!("{name}:{} ({})", gpu.info().number, gpu.info().name),
    }
}

fn mib(bytes: usize) -> String {
    match bytes {
        0 => "-".to_owned(),
        _ => format!("{:.1} MiB", bytes as f64 / MIB),
    }
}
