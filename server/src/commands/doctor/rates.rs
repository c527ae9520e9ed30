//! Rates of memory and arithmetic, by one thread and by all.

use crate::config::DoctorConfig;
use koma_engine::Survey;
use koma_engine::models::kernels::{Class, Cx, Isa, Probe, ProbeMemory, Team, probe};
use std::sync::Arc;
use std::time::Duration;

/// Time of each measurement; there are two for each [`Probe`].
const TIME: Duration = Duration::from_millis(200);
/// Least and most memory that is read: several times the last cache, but not what others need.
const MEMORY: [usize; 2] = [64 << 20, 512 << 20];

/// Bytes or operations a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    pub(super) probe: Probe,
    pub(super) one: f64,
    pub(super) all: f64,
}

/// Measures all of them.
pub(super) fn measure(config: &DoctorConfig, survey: &Survey) -> Vec<Rate> {
    let Some(mut memory) = ProbeMemory::new(memory(survey)) else {
        return Vec::new();
    };
    let process = &config.process;
    let alone = context(1, process.isa);
    let together = context(process.threads, process.isa);
    let mut rate = |what| Rate {
        probe: what,
        one: probe(&alone, what, &mut memory, TIME),
        all: probe(&together, what, &mut memory, TIME),
    };
    Probe::ALL.into_iter().map(&mut rate).collect()
}

fn context(threads: usize, isa: Isa) -> Cx {
    Cx::new(Arc::new(Team::new(threads)), Class::Throughput, isa)
}

/// Four times the last cache, if an eighth of the memory that can be had holds it.
fn memory(survey: &Survey) -> usize {
    let [least, most] = MEMORY;
    let group = match (survey.group_memory, survey.group_memory_used) {
        (Some(limit), Some(used)) => limit.saturating_sub(used),
        _ => usize::MAX,
    };
    let free = survey.memory_available.unwrap_or(usize::MAX).min(group);
    let wanted = survey
        .last_level_cache
        .map_or(least, |cache| cache.saturating_mul(4));
    wanted.clamp(least, most).min((free / 8).max(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_several_caches_but_not_what_others_need() {
        let check = |cache, free, limit, expected| {
            let survey = Survey {
                last_level_cache: cache,
                memory_available: free,
                group_memory: limit,
                group_memory_used: limit.map(|_| 0),
                ..Survey::default()
            };
            assert_eq!(memory(&survey), expected);
        };
        check(Some(32 << 20), Some(16 << 30), None, 128 << 20);
        check(Some(1 << 20), Some(16 << 30), None, 64 << 20);
        check(Some(1 << 30), Some(16 << 30), None, 512 << 20);
        check(Some(32 << 20), Some(16 << 30), Some(256 << 20), 32 << 20);
        check(None, None, None, 64 << 20);
    }
}
