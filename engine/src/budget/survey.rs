//! [`Survey`]: what the machine has, and beside it what this process may use of it.
//!
//! Must not know: what either is needed for. Invariant: what cannot be found out is none, and limits nothing.

use super::machine::{available, folders};

/// Processors and memory of the machine, and the limits on this process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// Logical processors that are switched on.
    pub online: Option<usize>,
    /// Those that this process may run on.
    pub allowed: Vec<usize>,
    /// Of the allowed ones, different cores: less than `allowed` where two share one.
    pub cores: Option<usize>,
    /// Of the allowed ones, different sockets.
    pub sockets: Option<usize>,
    /// Memory nodes of the machine.
    pub memory_nodes: Option<usize>,
    /// Processors' worth of time that the control group grants.
    pub group_cores: Option<f64>,
    /// Bytes of memory of the machine.
    pub memory: Option<usize>,
    /// Bytes of it that can still be had.
    pub memory_available: Option<usize>,
    /// Bytes that the control group may use.
    pub group_memory: Option<usize>,
    /// Bytes that it uses.
    pub group_memory_used: Option<usize>,
    /// Bytes of the largest cache of the first processor.
    pub last_level_cache: Option<usize>,
}

impl Survey {
    /// Looks at the machine.
    pub fn take() -> Self {
        Self::from_files(&|path: &str| std::fs::read_to_string(path).ok())
    }

    /// The same from what `read` gives for a path.
    pub fn from_files(read: &dyn Fn(&str) -> Option<String>) -> Self {
        let list = |path: &str| read(path).map(|text| numbers(text.trim()));
        let status = read("/proc/self/status").unwrap_or_default();
        let allowed = field(&status, "Cpus_allowed_list").map(numbers);
        let online = list("/sys/devices/system/cpu/online");
        let allowed = allowed.or_else(|| online.clone()).unwrap_or_default();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let total = field(&meminfo, "MemTotal").and_then(|text| kib(text.trim_end_matches("kB")));
        let mut survey = Self {
            online: online.as_ref().map(Vec::len),
            cores: different(&allowed, "core_id", read),
            sockets: different(&allowed, "physical_package_id", read),
            memory_nodes: list("/sys/devices/system/node/online").map(|nodes| nodes.len()),
            memory: total,
            memory_available: available(&meminfo),
            last_level_cache: (0..8).rev().find_map(|level| cache(level, read)),
            allowed,
            ..Self::default()
        };
        survey.look_at_groups(read);
        survey
    }

    /// The tightest limits of the groups that this process is in.
    fn look_at_groups(&mut self, read: &dyn Fn(&str) -> Option<String>) {
        let own = read("/proc/self/cgroup").unwrap_or_default();
        for dir in ["", "/cpu", "/cpu,cpuacct", "/memory"] {
            for folder in folders(&own, dir) {
                let file = |name: &str| read(&format!("/sys/fs/cgroup{dir}{folder}/{name}"));
                let number = |name: &str| file(name)?.trim().parse::<usize>().ok();
                let quota = file("cpu.max").and_then(|text| quota(&text)).or_else(|| {
                    let (quota, period) = (file("cpu.cfs_quota_us")?, file("cpu.cfs_period_us")?);
                    self::quota(&format!("{} {}", quota.trim(), period.trim()))
                });
                if let Some(cores) = quota {
                    self.group_cores = Some(self.group_cores.map_or(cores, |c| c.min(cores)));
                }
                let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"));
                let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
                // Version 1 writes a limit beyond the machine where there is none.
                let limit = limit.filter(|limit| self.memory.is_none_or(|all| *limit < all));
                if let Some(limit) = limit.filter(|l| self.group_memory.is_none_or(|g| *l < g)) {
                    (self.group_memory, self.group_memory_used) = (Some(limit), used);
                }
            }
        }
    }
}

/// The value of `name` in lines of `name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Bytes of a number of KiB.
fn kib(text: &str) -> Option<usize> {
    text.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// `0-2,5` is 0, 1, 2, 5. A part that is none is left out.
pub(super) fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?;
        // No machine has more; a damaged file must not fill the memory.
        (*range.end() < 1 << 16).then_some(range)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Processors' worth of `QUOTA PERIOD`; none without a limit.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.trim().parse().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

/// How many values the file `name` of the topology has over these processors, within their sockets.
fn different(
    processors: &[usize],
    name: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> Option<usize> {
    let value = |processor: &usize, name: &str| {
        read(&format!(
            "/sys/devices/system/cpu/cpu{processor}/topology/{name}"
        ))
    };
    let mut all = processors
        .iter()
        .map(|processor| {
            Some((
                value(processor, "physical_package_id")?,
                value(processor, name)?,
            ))
        })
        .collect::<Option<Vec<_>>>()?;
    all.sort();
    all.dedup();
    (!all.is_empty()).then_some(all.len())
}

/// Bytes of the first processor's cache number `index`.
fn cache(index: usize, read: &dyn Fn(&str) -> Option<String>) -> Option<usize> {
    let text = read(&format!(
        "/sys/devices/system/cpu/cpu0/cache/index{index}/size"
    ))?;
    let text = text.trim();
    match text.strip_suffix('M') {
        Some(mib) => mib.parse::<usize>().ok()?.checked_mul(1 << 20),
        None => kib(text.trim_end_matches('K')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn survey(files: &[(&str, &str)]) -> Survey {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        Survey::from_files(&|path| files.get(path).map(|text| (*text).to_owned()))
    }

    #[test]
    fn a_container_on_a_machine_with_two_threads_a_core() {
        let topology =
            |cpu: usize, name: &str| format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        let mut files = vec![
            (
                "/proc/self/status".to_owned(),
                "Name:\tkoma\nCpus_allowed_list:\t0-3\n".to_owned(),
            ),
            (
                "/sys/devices/system/cpu/online".to_owned(),
                "0-7\n".to_owned(),
            ),
            (
                "/sys/devices/system/node/online".to_owned(),
                "0-1\n".to_owned(),
            ),
            (
                "/proc/meminfo".to_owned(),
                "MemTotal: 1000 kB\nMemAvailable: 900 kB\n".to_owned(),
            ),
            ("/proc/self/cgroup".to_owned(), "0::/a/b\n".to_owned()),
            (
                "/sys/fs/cgroup/a/cpu.max".to_owned(),
                "250000 100000\n".to_owned(),
            ),
            (
                "/sys/fs/cgroup/a/b/cpu.max".to_owned(),
                "max 100000\n".to_owned(),
            ),
            (
                "/sys/fs/cgroup/a/b/memory.max".to_owned(),
                "512000\n".to_owned(),
            ),
            (
                "/sys/fs/cgroup/a/b/memory.current".to_owned(),
                "1000\n".to_owned(),
            ),
            (
                "/sys/fs/cgroup/memory.max".to_owned(),
                "9223372036854771712\n".to_owned(),
            ),
            (
                "/sys/devices/system/cpu/cpu0/cache/index2/size".to_owned(),
                "1024K\n".to_owned(),
            ),
            (
                "/sys/devices/system/cpu/cpu0/cache/index3/size".to_owned(),
                "32M\n".to_owned(),
            ),
        ];
        for cpu in 0..4 {
            files.push((topology(cpu, "core_id"), format!("{}\n", cpu / 2)));
            files.push((topology(cpu, "physical_package_id"), "0\n".to_owned()));
        }
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let expected = Survey {
            online: Some(8),
            allowed: vec![0, 1, 2, 3],
            cores: Some(2),
            sockets: Some(1),
            memory_nodes: Some(2),
            group_cores: Some(2.5),
            memory: Some(1_024_000),
            memory_available: Some(921_600),
            group_memory: Some(512_000),
            group_memory_used: Some(1000),
            last_level_cache: Some(32 << 20),
        };
        assert_eq!(survey(&files), expected);
    }

    #[test]
    fn nothing_to_read_says_nothing() {
        assert_eq!(survey(&[]), Survey::default());
        let odd = survey(&[
            ("/sys/devices/system/cpu/online", "x,1-,3-99999999999,2"),
            ("/proc/self/cgroup", "0::/"),
            ("/sys/fs/cgroup/cpu.max", "5 0"),
        ]);
        assert_eq!((odd.allowed, odd.group_cores), (vec![2], None));
    }
}
