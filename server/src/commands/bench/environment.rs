//! What a result was measured on, for its JSON.

use crate::config::ProcessConfig;
use koma_engine::ModelInfo;
use serde_json::{Value, json};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine, the system, the program and how it computes.
pub(crate) fn of_process(process: &ProcessConfig) -> Value {
    let mut all = describe();
    all["isa"] = json!(process.isa.name());
    all["threads"] = json!(process.threads);
    all
}

/// As [`of_process`], with what computed the model: `cpu`, `neuron`.
pub(super) fn of_model(process: &ProcessConfig, info: &ModelInfo) -> Value {
    let mut all = of_process(process);
    all["device"] = json!(info.device.name());
    all
}

/// The machine, the system and the program. What cannot be found out is null.
pub(super) fn describe() -> Value {
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH);
    json!({
        "koma": env!("CARGO_PKG_VERSION"),
        "commit": env!("KOMA_COMMIT"),
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "cpu": field("/proc/cpuinfo", "model name", ':'),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "memory_bytes": memory_bytes(),
        "os": field("/etc/os-release", "PRETTY_NAME", '='),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
        "architecture": std::env::consts::ARCH,
        "unix_time": unix_time.map(|since| since.as_secs()).ok(),
    })
}

fn memory_bytes() -> Option<u64> {
    let text = field("/proc/meminfo", "MemTotal", ':')?;
    let kib: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The value of the first line `name`, `separator`, value of a file.
fn field(path: &str, name: &str, separator: char) -> Option<String> {
    find(&fs::read_to_string(path).ok()?, name, separator)
}

fn find(text: &str, name: &str, separator: char) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let cpu = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU: fast\n";
        assert_eq!(find(cpu, "model name", ':').unwrap(), "Some CPU: fast");
        assert_eq!(find(cpu, "model", ':').unwrap(), "17");
        let os = "NAME=\"Linux\"\nPRETTY_NAME=\"Linux 12 (x)\"\n";
        assert_eq!(find(os, "PRETTY_NAME", '=').unwrap(), "Linux 12 (x)");
        assert_eq!(find(os, "ID", '='), None);
    }
}
