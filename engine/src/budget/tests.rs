use super::machine::{available, cores_v1, cores_v2, folders, reclaimable};
use super::*;
use koma_models::kernels::HeadLayout;
use std::collections::HashMap;

#[test]
fn reads_the_kernels_files() {
    for (text, cores) in [
        ("max 100000\n", None),
        ("200000 100000\n", Some(2)),
        ("150000 100000\n", Some(1)),
        ("5000 100000\n", Some(1)),
        ("1000 0\n", None),
        ("", None),
        ("nonsense", None),
    ] {
        assert_eq!(cores_v2(text), cores, "cpu.max {text:?}");
    }
    assert_eq!(cores_v1("-1\n", "100000\n"), None);
    assert_eq!(cores_v1("400000\n", "100000\n"), Some(4));
    let meminfo = "MemTotal:       16 kB\nMemFree: 1 kB\nMemAvailable:    7 kB\n";
    assert_eq!(available(meminfo), Some(7 * 1024));
    assert_eq!(available("MemTotal: 16 kB\n"), None);
    assert_eq!(reclaimable("anon 5\ninactive_file 42\n"), 42);
    assert_eq!(reclaimable("inactive_file 1\ntotal_inactive_file 42\n"), 42);
    assert_eq!(reclaimable(""), 0);
    assert_eq!(folders("0::/a/b\n", ""), ["/a/b", "/a", ""]);
    assert_eq!(folders("0::/\n", ""), [""]);
    assert_eq!(
        folders("4:cpu,cpuacct:/x\n2:memory:/y\n", "/cpu"),
        ["/x", ""]
    );
    assert_eq!(
        folders("4:cpu,cpuacct:/x\n2:memory:/y\n", "/memory"),
        ["/y", ""]
    );
    assert_eq!(folders("", "/memory"), [""]);
}

fn machine(cores: usize, files: &[(&str, &str)]) -> Machine {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    Machine::from_files(cores, &|path| files.get(path).map(|&text| text.to_owned()))
}

#[test]
fn takes_the_smaller_of_machine_and_container() {
    let meminfo = ("/proc/meminfo", "MemAvailable: 1000 kB");
    let got = machine(8, &[meminfo]);
    assert_eq!((got.cores, got.memory), (8, 1_024_000));
    // Version 2: the parent's limit counts too, and cached files do not.
    let got = machine(
        8,
        &[
            meminfo,
            ("/proc/self/cgroup", "0::/pod/app\n"),
            ("/sys/fs/cgroup/pod/app/cpu.max", "max 100000"),
            ("/sys/fs/cgroup/pod/cpu.max", "300000 100000"),
            ("/sys/fs/cgroup/pod/memory.max", "500000"),
            ("/sys/fs/cgroup/pod/memory.current", "300000"),
            ("/sys/fs/cgroup/pod/memory.stat", "inactive_file 100000\n"),
            ("/sys/fs/cgroup/pod/app/memory.max", "max"),
        ],
    );
    assert_eq!((got.cores, got.memory), (3, 300_000));
    // Version 1, seen from inside a container.
    let got = machine(
        8,
        &[
            meminfo,
            (
                "/proc/self/cgroup",
                "4:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
            ),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712",
            ),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000"),
        ],
    );
    assert_eq!((got.cores, got.memory), (2, 1_024_000));
    let here = Machine::detect();
    assert!(here.cores >= 1 && here.memory > 0, "{here:?}");
}

const MIB: usize = 1 << 20;

fn need(name: &str, weights: usize, request: usize, cache: Option<usize>) -> ModelNeed {
    ModelNeed {
        name: name.to_owned(),
        weight_bytes: weights * MIB,
        request_bytes: request * MIB,
        max_len: 1000,
        cache_bytes: cache.map(|c| c * MIB),
    }
}

#[test]
fn splits_memory_over_models() {
    let check = |memory: usize, needs: &[ModelNeed], caches: &[usize]| {
        let machine = Machine {
            cores: 2,
            memory: memory * MIB,
        };
        let budget = plan(&machine, needs).unwrap();
        let got: Vec<_> = budget.models.iter().map(|m| m.cache_bytes / MIB).collect();
        assert_eq!(got, caches, "{needs:?}");
        let all = budget.models.iter().map(|m| m.cache_bytes + m.weight_bytes);
        assert!(all.sum::<usize>() <= machine.memory);
    };
    // Half of what is left.
    check(1000, &[need("a", 100, 100, None)], &[100 + 400]);
    // At most 4 GiB, but at least one request.
    check(100_000, &[need("a", 100, 100, None)], &[4096]);
    check(100_000, &[need("a", 100, 9000, None)], &[9000]);
    // Encoders take none; what is given is given.
    let three = [
        need("a", 100, 100, None),
        need("b", 200, 0, Some(50)),
        need("c", 100, 100, Some(300)),
    ];
    check(1000, &three, &[100 + 100, 0, 300]);
}

/// What one value more or less in a block would change: blocks are counted to the byte, for each kind of cache and group.
#[test]
fn a_cache_holds_as_many_blocks_as_its_bytes_say() {
    let layout = |kv_heads, dim| HeadLayout {
        q_heads: 9,
        kv_heads,
        k_dim: dim,
        v_dim: dim,
    };
    let full = CacheGroup {
        kind: GroupKind::Full(layout(3, 64)),
        layers: 30,
    };
    let sliding = CacheGroup {
        kind: GroupKind::Sliding {
            layout: layout(1, 40),
            window: 100,
        },
        layers: 2,
    };
    let states = CacheGroup {
        kind: GroupKind::Recurrent { values: 77 },
        layers: 3,
    };
    let check = |groups: &[CacheGroup], dtype, bytes: usize| {
        for (short, expected) in [(0, 1000), (1, 999)] {
            let config = EngineConfig {
                kv_dtype: dtype,
                cache_bytes: 1000 * bytes - short,
                ..EngineConfig::default()
            };
            let found = blocks(groups, &config, 160, "a").unwrap();
            assert_eq!(found, expected, "{dtype:?} of {groups:?}");
        }
    };
    for (dtype, full_bytes, sliding_bytes) in [
        (KvDtype::F32, 30 * 3 * 128 * 4, 2 * (40 + 48) * 4),
        (KvDtype::Bf16, 30 * 3 * 128 * 2, 2 * (40 + 48) * 2),
        (KvDtype::Int8, 30 * 3 * (128 + 8), 2 * (40 + 48 + 8)),
    ] {
        check(&[full], dtype, 16 * full_bytes);
        check(&[full, sliding], dtype, 16 * (full_bytes + sliding_bytes));
        check(&[sliding, states], dtype, 16 * sliding_bytes + 3 * 77 * 4);
    }
}

#[test]
fn refuses_with_the_number_needed() {
    let machine = Machine {
        cores: 2,
        memory: 1000 * MIB,
    };
    let error = plan(&machine, &[need("a", 900, 200, None)]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("1.1 GiB") && text.contains("1000.0 MiB"),
        "{text}"
    );
    assert!(text.contains("--max-model-len"), "{text}");
    let text = plan(&machine, &[need("a", 1, 200, Some(100))])
        .unwrap_err()
        .to_string();
    assert!(text.contains("`a`") && text.contains("209715200"), "{text}");
}
