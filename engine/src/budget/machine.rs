//! [`Machine`]: cores and memory, the smaller of what the machine has and what the container may use.
//!
//! Owns: reading `/proc` and `/sys/fs/cgroup` (version 1 and 2). Must not know: models.
//!
//! Invariant: a file that is not there, or says nothing, limits nothing.

use super::{Survey, Topology};
use std::path::Path;
use std::thread::available_parallelism;

/// What this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Threads that a team should have, at least 1: the smaller of what [`Topology::place`] says and what the container grants.
    pub cores: usize,
    /// Bytes of memory that can still be had.
    pub memory: usize,
}

impl Machine {
    /// Looks at the machine and its limits.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        // The scheduler's affinity is in here too.
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let machine = Self::from_files(cores, &read);
        let allowed = Survey::take().allowed;
        if allowed.is_empty() {
            return machine;
        }
        let place = Topology::from_files(&allowed, &read).place(machine.cores);
        Self {
            cores: place.threads,
            ..machine
        }
    }

    /// The same from what `read` gives for a path.
    pub(super) fn from_files(cores: usize, read: &dyn Fn(&str) -> Option<String>) -> Self {
        let free = read("/proc/meminfo").and_then(|text| available(&text));
        let own = read("/proc/self/cgroup").unwrap_or_default();
        let mut machine = Self {
            cores: cores.max(1),
            memory: free.unwrap_or(usize::MAX),
        };
        for dir in ["", "/cpu", "/cpu,cpuacct", "/memory"] {
            let root = format!("/sys/fs/cgroup{dir}");
            for folder in folders(&own, dir) {
                machine.limit(&format!("{root}{folder}"), read);
            }
        }
        machine
    }

    /// Applies the limits of one control group.
    fn limit(&mut self, folder: &str, read: &dyn Fn(&str) -> Option<String>) {
        let file = |name: &str| read(&format!("{folder}/{name}"));
        let number = |name: &str| file(name).and_then(|text| text.trim().parse::<usize>().ok());
        let quota = file("cpu.max")
            .and_then(|text| cores_v2(&text))
            .or_else(|| {
                let quota = file("cpu.cfs_quota_us")?;
                cores_v1(&quota, &file("cpu.cfs_period_us")?)
            });
        if let Some(cores) = quota {
            self.cores = self.cores.min(cores);
        }
        let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"));
        let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
        if let (Some(limit), Some(used)) = (limit, used) {
            let cached = file("memory.stat").map_or(0, |text| reclaimable(&text));
            let left = limit.saturating_sub(used.saturating_sub(cached));
            self.memory = self.memory.min(left);
        }
    }
}

/// The process's groups from its own up to the root, `""`, in the hierarchy mounted at `dir` (`""`: version 2).
pub(super) fn folders(own: &str, dir: &str) -> Vec<String> {
    let controllers = dir.trim_start_matches('/');
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let matches = if controllers.is_empty() {
            names.is_empty()
        } else {
            controllers
                .split(',')
                .any(|c| names.split(',').any(|n| n == c))
        };
        matches.then_some(path)
    });
    let path = Path::new(path.unwrap_or("/"));
    path.ancestors()
        .map(|folder| folder.to_string_lossy().trim_end_matches('/').to_owned())
        .collect()
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
pub(super) fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Whole cores of a version-2 `cpu.max` (`max 100000`, `150000 100000`), at least 1; none without a limit.
pub(super) fn cores_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    cores_v1(quota, period)
}

/// Whole cores of a quota and a period, at least 1; none without a limit (`-1`, `max`).
pub(super) fn cores_v1(quota: &str, period: &str) -> Option<usize> {
    let quota: usize = quota.trim().parse().ok()?;
    let period: usize = period.trim().parse().ok()?;
    Some(quota.checked_div(period)?.max(1))
}

/// Bytes of `memory.stat` that the kernel gives back when asked: file pages not in use.
pub(super) fn reclaimable(stat: &str) -> usize {
    let find = |name: &str| {
        stat.lines()
            .find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    };
    find("total_inactive_file ")
        .or_else(|| find("inactive_file "))
        .unwrap_or(0)
}
