//! [`Facts`]: what the system tells, beside processors and memory.

use koma_engine::{Placement, Survey, Topology};

/// What was read at the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) survey: Survey,
    /// Where a team belongs.
    pub(super) placement: Placement,
    /// Name of the processor.
    pub(super) cpu: Option<String>,
    /// Name of the distribution.
    pub(super) os: Option<String>,
    pub(super) kernel: Option<String>,
    /// Mean number of processes that ran or wanted to in the last minute.
    pub(super) load: Option<f64>,
    /// `always`, `madvise` or `never`.
    pub(super) huge_pages: Option<String>,
    /// How the clock is governed, where that can be told.
    pub(super) governor: Option<String>,
    /// Bytes of swap in use.
    pub(super) swap_used: Option<u64>,
    pub(super) times: Option<Times>,
}

/// Times of all processors together, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    all: u64,
    stolen: u64,
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

impl Facts {
    pub(super) fn take() -> Self {
        let survey = Survey::take();
        let granted = survey
            .group_cores
            .map_or(usize::MAX, |cores| cores as usize);
        Self {
            placement: Topology::from_files(&survey.allowed, &read).place(granted),
            survey,
            ..Self::from_files(&read)
        }
    }

    /// All but the survey, from what `read` gives for a path.
    fn from_files(read: &dyn Fn(&str) -> Option<String>) -> Self {
        let line = |path: &str| Some(read(path)?.trim().to_owned());
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let kib = |name: &str| {
            let text = find(&meminfo, name, ':')?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let swap = || Some((kib("SwapTotal")?.saturating_sub(kib("SwapFree")?)) << 10);
        Self {
            survey: Survey::default(),
            placement: Placement::default(),
            cpu: read("/proc/cpuinfo").and_then(|text| find(&text, "model name", ':')),
            os: read("/etc/os-release").and_then(|text| find(&text, "PRETTY_NAME", '=')),
            kernel: line("/proc/sys/kernel/osrelease"),
            load: read("/proc/loadavg")
                .and_then(|text| text.split_whitespace().next()?.parse().ok()),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            swap_used: swap(),
            times: read("/proc/stat").and_then(|text| times(&text)),
        }
    }

    /// The part of the processors' time that the hypervisor gave to others since these facts were taken.
    pub(super) fn stolen_until_now(&self) -> Option<f64> {
        let (before, now) = (self.times?, times(&read("/proc/stat")?)?);
        let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
        Some(now.stolen.saturating_sub(before.stolen) as f64 / all as f64)
    }
}

fn find(text: &str, name: &str, separator: char) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn times(stat: &str) -> Option<Times> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|t| t.parse().ok())
        .collect();
    Some(Times {
        all: ticks.iter().take(8).sum(),
        stolen: *ticks.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_files_of_the_system() {
        let facts = Facts::from_files(&|path| {
            let text = match path {
                "/proc/cpuinfo" => "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU: fast\n",
                "/etc/os-release" => "NAME=\"Linux\"\nPRETTY_NAME=\"Linux 12 (x)\"\n",
                "/proc/sys/kernel/osrelease" => "6.1.0\n",
                "/proc/loadavg" => "1.50 0.7 0.6 3/99 123\n",
                "/proc/meminfo" => "SwapTotal: 100 kB\nSwapFree: 60 kB\n",
                "/proc/stat" => "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1\n",
                "/sys/kernel/mm/transparent_hugepage/enabled" => "always [madvise] never\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        let expected = Facts {
            survey: Survey::default(),
            placement: Placement::default(),
            cpu: Some("Some CPU: fast".to_owned()),
            os: Some("Linux 12 (x)".to_owned()),
            kernel: Some("6.1.0".to_owned()),
            load: Some(1.5),
            huge_pages: Some("madvise".to_owned()),
            governor: None,
            swap_used: Some(40 << 10),
            times: Some(Times { all: 36, stolen: 8 }),
        };
        assert_eq!(facts, expected);
        assert_eq!(Facts::from_files(&|_| None), Facts::default());
    }
}
