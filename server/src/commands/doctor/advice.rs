//! What is wrong with the surroundings, and what to do about it.

use super::disk::Disk;
use super::report::Report;
use koma_engine::models::kernels::Isa;

/// One sentence or two for each thing that costs speed or safety; empty if all is well.
pub(super) fn advice(report: &Report) -> Vec<String> {
    let (facts, process) = (&report.facts, &report.process);
    let (survey, threads) = (&facts.survey, process.threads);
    let mut all = Vec::new();
    let best = Isa::detect();
    if process.isa < best {
        all.push(format!(
            "the CPU path is {}, but this processor has {}: leave out --isa (KOMA_ISA)",
            process.isa.name(),
            best.name()
        ));
    } else if best == Isa::Portable {
        all.push(
            "no fast CPU path fits this processor: expect a tenth of the speed of one with AVX2"
                .to_owned(),
        );
    }
    let usable = usable(report);
    if threads > usable {
        all.push(format!(
            "{threads} threads on {usable} processors disturb each other: leave out --threads or set it to {usable}"
        ));
    }
    if let Some(cores) = survey.cores.filter(|cores| *cores < threads.min(usable)) {
        all.push(format!(
            "two threads share a core ({threads} threads, {cores} cores): --threads {cores} is often faster for products \
             that compute; try both with `koma bench throughput`"
        ));
    }
    if let Some(quota) = survey.group_cores.filter(|quota| quota.fract() > 0.0) {
        all.push(format!(
            "the container's limit of {quota:.2} processors is not whole: the last part is spent in stops of all threads; \
             set a whole number"
        ));
    }
    if survey.sockets.is_some_and(|sockets| sockets > 1) {
        all.push("the process may run on several sockets: bind it to one (numactl --cpunodebind=0 --membind=0), and run one Koma for each".to_owned());
    }
    if let Some(load) = facts.load.filter(|load| *load > 0.5 * usable as f64) {
        all.push(format!(
            "others are busy here (load {load:.1} on {usable} processors): rates measured now are too low"
        ));
    }
    if let Some(stolen) = report.stolen.filter(|stolen| *stolen > 0.02) {
        all.push(format!(
            "the hypervisor gave {:.0} % of the time to others while this was measured: use a machine with processors of \
             its own",
            stolen * 100.0
        ));
    }
    if let Some(governor) = facts.governor.as_deref().filter(|g| *g == "powersave") {
        all.push(format!(
            "the clock is governed for `{governor}`: set `performance` (cpupower frequency-set -g performance)"
        ));
    }
    if facts.huge_pages.as_deref() == Some("never") {
        all.push("transparent huge pages are off: set /sys/kernel/mm/transparent_hugepage/enabled to madvise or always".to_owned());
    }
    if facts.swap_used.is_some_and(|used| used > 64 << 20) {
        all.push(
            "swap is in use: memory is short, and weights that were swapped out make steps slow"
                .to_owned(),
        );
    }
    match &report.disk {
        Ok(Disk { read, direct: true }) if *read < 200e6 => all.push(format!(
            "the disk gives {:.0} MB/s: a model of 10 GB takes {:.0} s to load; put --data-dir on a faster one",
            read / 1e6,
            1e10 / read
        )),
        Err(reason) => all.push(format!("the disk could not be measured: {reason}")),
        Ok(_) => {}
    }
    all.extend(report.neuron.advice());
    if cfg!(debug_assertions) {
        all.push("this is not a release build: rates are too low; build with --release".to_owned());
    }
    all
}

/// Processors that this process can keep busy.
fn usable(report: &Report) -> usize {
    let survey = &report.facts.survey;
    let allowed = survey.allowed.len().max(1);
    let quota = survey
        .group_cores
        .map_or(usize::MAX, |quota| quota as usize);
    allowed.min(quota.max(1))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Facts;
    use super::super::neuron::Neuron;
    use super::*;
    use crate::config::{LogFormat, ProcessConfig};
    use koma_engine::Survey;

    fn healthy() -> Report {
        let survey = Survey {
            online: Some(4),
            allowed: vec![0, 1, 2, 3],
            cores: Some(4),
            sockets: Some(1),
            ..Survey::default()
        };
        Report {
            process: ProcessConfig {
                threads: 4,
                isa: Isa::detect(),
                log_format: LogFormat::Text,
                color: false,
                log_filter: "info".to_owned(),
                fetch: koma_engine::models::FetchOptions::default(),
            },
            facts: Facts {
                survey,
                load: Some(0.5),
                ..Facts::default()
            },
            neuron: Neuron::none(),
            stolen: Some(0.0),
            rates: Vec::new(),
            folder: "data".into(),
            free: Some(1 << 40),
            disk: Ok(Disk {
                read: 1e9,
                direct: true,
            }),
        }
    }

    #[test]
    fn each_thing_that_is_wrong_is_said_once_with_what_to_do() {
        let usual = advice(&healthy()).len();
        let check = |spoil: &dyn Fn(&mut Report), parts: &[&str]| {
            let mut report = healthy();
            spoil(&mut report);
            let all = advice(&report);
            assert_eq!(all.len(), usual + 1, "{all:?}");
            let found = all
                .iter()
                .any(|line| parts.iter().all(|part| line.contains(part)));
            assert!(found, "{parts:?} in {all:?}");
        };
        check(
            &|r| r.process.threads = 6,
            &["6 threads", "4 processors", "--threads"],
        );
        check(&|r| r.facts.survey.cores = Some(2), &["--threads 2"]);
        check(&|r| r.facts.survey.sockets = Some(2), &["numactl"]);
        check(&|r| r.facts.load = Some(3.0), &["load 3.0"]);
        check(&|r| r.stolen = Some(0.1), &["10 %"]);
        check(
            &|r| r.facts.governor = Some("powersave".to_owned()),
            &["performance"],
        );
        check(
            &|r| r.facts.huge_pages = Some("never".to_owned()),
            &["madvise"],
        );
        check(&|r| r.facts.swap_used = Some(1 << 30), &["swap"]);
        check(
            &|r| r.neuron.devices = vec!["/dev/neuron0".into()],
            &["Neuron device", "aws-neuronx-runtime-lib"],
        );
        let slow = Disk {
            read: 1e8,
            direct: true,
        };
        check(&|r| r.disk = Ok(slow), &["100 MB/s", "100 s", "--data-dir"]);
        check(&|r| r.disk = Err("read-only".to_owned()), &["read-only"]);
        if Isa::detect() > Isa::Portable {
            check(&|r| r.process.isa = Isa::Portable, &["--isa"]);
        }
        let mut report = healthy();
        report.facts.survey.group_cores = Some(2.5);
        let all = advice(&report).join("\n");
        assert!(
            all.contains("2.50 processors") && all.contains("set it to 2"),
            "{all}"
        );
    }
}
