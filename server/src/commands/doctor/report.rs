//! [`Report`]: what was found, as text for people and as JSON for programs.

use super::advice::advice;
use super::disk::Disk;
use super::facts::Facts;
use super::neuron::Neuron;
use super::rates::Rate;
use crate::config::ProcessConfig;
use koma_engine::models::kernels::{Format, Isa};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// The schema of [`Report::json`]; a change that breaks readers takes the next number.
const SCHEMA: &str = "koma.doctor/1";

/// Which of [`Isa::instructions`] multiplies weights of `format`.
fn instruction(format: Format) -> usize {
    match format {
        Format::F32 | Format::F16 => 0,
        Format::Bf16 => 1,
        _ => 2,
    }
}

/// Everything found.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) process: ProcessConfig,
    pub(super) facts: Facts,
    pub(super) neuron: Neuron,
    /// Part of the time that the hypervisor gave to others.
    pub(super) stolen: Option<f64>,
    pub(super) rates: Vec<Rate>,
    pub(super) folder: PathBuf,
    /// Bytes on the disk under it.
    pub(super) free: Option<u64>,
    pub(super) disk: Result<Disk, String>,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let Self { facts, process, .. } = self;
        let survey = &facts.survey;
        let rate = |rate: &Rate| {
            let value = json!({
                "unit": if rate.probe.counts_bytes() { "bytes/s" } else { "operations/s" },
                "one_thread": rate.one,
                "all_threads": rate.all,
            });
            (rate.probe.name().to_owned(), value)
        };
        let features: Map<String, Value> = Isa::features()
            .into_iter()
            .map(|(name, has)| (name.to_owned(), json!(has)))
            .collect();
        let how = process.isa.instructions();
        let kernels: Map<String, Value> = Format::ALL
            .iter()
            .map(|format| (format.name().to_owned(), json!(how[instruction(*format)])))
            .collect();
        json!({
            "schema": SCHEMA,
            "koma": env!("CARGO_PKG_VERSION"),
            "commit": env!("KOMA_COMMIT"),
            "rustc": env!("KOMA_RUSTC"),
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "cpu": facts.cpu,
            "os": facts.os,
            "kernel": facts.kernel,
            "isa": process.isa.name(),
            "features": features,
            "kernels": kernels,
            "threads": process.threads,
            "processors": {
                "online": survey.online,
                "allowed": survey.allowed,
                "cores": survey.cores,
                "sockets": survey.sockets,
                "memory_nodes": survey.memory_nodes,
                "cgroup": survey.group_cores,
            },
            "placement": {
                "threads": facts.placement.threads,
                "order": facts.placement.order,
                "nodes": facts.placement.nodes,
            },
            "memory_bytes": {
                "machine": survey.memory,
                "available": survey.memory_available,
                "cgroup": survey.group_memory,
                "cgroup_used": survey.group_memory_used,
                "last_level_cache": survey.last_level_cache,
            },
            "rates": self.rates.iter().map(rate).collect::<Map<_, _>>(),
            "disk": {
                "folder": self.folder,
                "free_bytes": self.free,
                "read_bytes_per_second": self.disk.as_ref().ok().map(|disk| disk.read),
                "past_the_cache": self.disk.as_ref().ok().map(|disk| disk.direct),
            },
            "neuron": self.neuron.json(),
            "load": facts.load,
            "stolen": self.stolen,
            "huge_pages": facts.huge_pages,
            "governor": facts.governor,
            "swap_used_bytes": facts.swap_used,
            "advice": advice(self),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name:<14}{value}");
        };
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        let profile = if cfg!(debug_assertions) {
            ", debug build"
        } else {
            ""
        };
        line(
            "koma",
            format!("{}, {}{profile}", crate::args::VERSION, env!("KOMA_RUSTC")),
        );
        line(
            "system",
            format!(
                "{}, kernel {}",
                known(&self.facts.os),
                known(&self.facts.kernel)
            ),
        );
        line("processor", known(&self.facts.cpu));
        line("CPU path", self.path());
        for (index, how) in self.process.isa.instructions().into_iter().enumerate() {
            let formats = Format::ALL.iter().filter(|f| instruction(**f) == index);
            let names: Vec<&str> = formats.map(|format| format.name()).collect();
            line("", format!("{}: {how}", names.join(", ")));
        }
        line("processors", self.processors());
        line("team", self.team());
        line("memory", self.memory());
        for rate in &self.rates {
            let unit = if rate.probe.counts_bytes() {
                "GB/s"
            } else {
                "G operations/s"
            };
            let (one, all) = (rate.one / 1e9, rate.all / 1e9);
            let threads = self.process.threads;
            line(
                rate.probe.name(),
                format!("{one:.1} {unit} with one thread, {all:.1} with {threads}"),
            );
        }
        let disk = match &self.disk {
            Ok(Disk { read, direct }) => {
                let how = if *direct {
                    ""
                } else {
                    " (from the system's cache)"
                };
                format!("{:.0} MB/s{how}", read / 1e6)
            }
            Err(_) => "unknown".to_owned(),
        };
        let free = match self.free {
            Some(bytes) => format!("{:.1} GiB free", bytes as f64 / f64::from(1 << 30)),
            None => "free space unknown".to_owned(),
        };
        line("disk", format!("{}: {disk}, {free}", self.folder.display()));
        line("neuron", self.neuron.text());
        let advice = advice(self);
        if advice.is_empty() {
            line("advice", "none: all is well".to_owned());
        }
        for (index, sentence) in advice.into_iter().enumerate() {
            line(if index == 0 { "advice" } else { "" }, sentence);
        }
        text
    }

    /// The path and why it is that one.
    fn path(&self) -> String {
        let (isa, best) = (self.process.isa, Isa::detect());
        let features = Isa::features();
        let missing: Vec<&str> = features
            .iter()
            .filter(|(_, has)| !has)
            .map(|(n, _)| *n)
            .collect();
        let why = if isa < best {
            format!("as asked; the processor has {}", best.name())
        } else if features.is_empty() {
            "there is no other for this kind of processor".to_owned()
        } else if isa == Isa::Avx512 {
            "the fastest; the processor has all that it needs".to_owned()
        } else {
            format!("the processor lacks {}", missing.join(", "))
        };
        format!("{} ({why})", isa.name())
    }

    fn processors(&self) -> String {
        let survey = &self.facts.survey;
        let count = |n: Option<usize>, one: &str| match n {
            Some(1) => format!("1 {one}"),
            Some(n) => format!("{n} {one}s"),
            None => format!("an unknown number of {one}s"),
        };
        let quota = survey
            .group_cores
            .map_or("no limit".to_owned(), |n| format!("{n:.2}"));
        format!(
            "{} threads; {} of {} allowed ({}), on {}, {}, {}; container: {quota}",
            self.process.threads,
            survey.allowed.len(),
            count(survey.online, "processor"),
            ranges(&survey.allowed),
            count(survey.cores, "core"),
            count(survey.sockets, "socket"),
            count(survey.memory_nodes, "memory node"),
        )
    }

    /// The rule of placement, and what it gives here.
    fn team(&self) -> String {
        let placement = &self.facts.placement;
        let first = placement.order.iter().take(placement.threads);
        let mut processors: Vec<usize> = first.copied().collect();
        processors.sort_unstable();
        let nodes: Vec<String> = placement
            .nodes
            .iter()
            .map(|(node, cores)| format!("{cores} in node {node}"))
            .collect();
        format!(
            "{} by default: one thread for each core of one memory node (cores allowed: {}); processors {}",
            placement.threads,
            nodes.join(", "),
            ranges(&processors),
        )
    }

    fn memory(&self) -> String {
        let survey = &self.facts.survey;
        let gib = |bytes: Option<usize>| match bytes {
            Some(bytes) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            None => "unknown".to_owned(),
        };
        let group = match survey.group_memory {
            Some(_) => format!(
                "{}, {} used",
                gib(survey.group_memory),
                gib(survey.group_memory_used)
            ),
            None => "no limit".to_owned(),
        };
        let cache = survey
            .last_level_cache
            .map(|bytes| format!("; last cache {} MiB", bytes >> 20));
        format!(
            "{}, {} available; container: {group}{}",
            gib(survey.memory),
            gib(survey.memory_available),
            cache.unwrap_or_default()
        )
    }
}

/// Numbers in order as `0-3, 7`.
fn ranges(numbers: &[usize]) -> String {
    let follows = |a: &usize, b: &usize| a + 1 == *b;
    let runs = numbers.chunk_by(follows).filter_map(|run| {
        let (first, last) = (run.first()?, run.last()?);
        Some(if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        })
    });
    let text = runs.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        return "unknown which".to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use koma_engine::models::kernels::Probe;

    #[test]
    fn text_and_json_say_the_same_and_what_is_unknown() {
        let report = Report {
            process: ProcessConfig {
                threads: 2,
                isa: Isa::Portable,
                log_format: LogFormat::Text,
                color: false,
                log_filter: "info".to_owned(),
                fetch: koma_engine::models::FetchOptions::default(),
            },
            facts: Facts {
                survey: koma_engine::Survey {
                    allowed: vec![0, 1, 2, 5, 7, 8],
                    ..Default::default()
                },
                ..Facts::default()
            },
            neuron: Neuron::none(),
            stolen: None,
            rates: vec![Rate {
                probe: Probe::Read,
                one: 1.5e10,
                all: 3e10,
            }],
            folder: "data".into(),
            free: Some(3 << 29),
            disk: Err("no such folder".to_owned()),
        };
        let (text, json) = (report.text(), report.json());
        for part in [
            "portable (",
            "read          15.0 GB/s with one thread, 30.0 with 2",
            "kernel unknown",
            "disk          data: unknown, 1.5 GiB free",
            "allowed (0-2, 5, 7-8)",
            "no such folder",
            "neuron        no device; no runtime (",
            "container: no limit",
        ] {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["rates"]["read"]["all_threads"], 3e10);
        assert_eq!(json["disk"]["read_bytes_per_second"], Value::Null);
        assert_eq!(json["disk"]["free_bytes"], 3 << 29);
        let advice = json["advice"].as_array().unwrap();
        assert!(
            advice
                .iter()
                .all(|line| text.contains(line.as_str().unwrap()))
        );
        assert_eq!(
            json["kernels"].as_object().map(Map::len),
            Some(Format::ALL.len())
        );
    }
}
