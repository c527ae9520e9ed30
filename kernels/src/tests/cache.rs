//! The memory of the cache.

use super::*;
use crate::{CacheGroup, Error, GroupKind, HeadLayout, KvCache, KvDtype, write_kv};

const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 4,
    kv_heads: 2,
    k_dim: 5,
    v_dim: 3,
};

const GROUPS: [CacheGroup; 3] = [
    CacheGroup {
        kind: GroupKind::Full(LAYOUT),
        layers: 2,
    },
    CacheGroup {
        kind: GroupKind::Sliding {
            layout: LAYOUT,
            window: 4,
        },
        layers: 1,
    },
    CacheGroup {
        kind: GroupKind::Recurrent { values: 6 },
        layers: 2,
    },
];

/// Key and value of a slot, for both heads.
fn read(kv: &mut KvCache, group: usize, layer: usize, slot: usize) -> Vec<f32> {
    let layer = kv.layer(group, layer);
    let mut all = Vec::new();
    for head in 0..LAYOUT.kv_heads {
        let (mut k, mut v) = ([0.0; 5], [0.0; 3]);
        layer.read_key(slot, head, &mut k);
        layer.read_value(slot, head, &mut v);
        all.extend(k);
        all.extend(v);
    }
    all
}

#[test]
fn what_is_written_is_read() {
    for (dtype, size) in [(KvDtype::F32, 4), (KvDtype::Bf16, 16), (KvDtype::Bf16, 1)] {
        let mut kv = KvCache::new(&GROUPS, 9, size, dtype).expect("a small cache");
        let qkv = Random::new(1).rows(6, LAYOUT.qkv_width());
        let slots: Vec<u32> = [8, 0, 3, 5, 2, 7].map(|s| s * size as u32 / 2).to_vec();
        write_kv(&cx(Isa::detect(), 3), &qkv, &mut kv.layer(0, 1), &slots);
        let round = |v: &f32| match dtype {
            KvDtype::F32 => *v,
            KvDtype::Bf16 => half::bf16::from_f32(*v).to_f32(),
        };
        for (r, slot) in slots.iter().enumerate() {
            if slots[r + 1..].contains(slot) {
                continue; // written again
            }
            let mut expected = Vec::new();
            for head in 0..2 {
                expected.extend(LAYOUT.key(qkv.row(r), head).iter().map(round));
                expected.extend(LAYOUT.value(qkv.row(r), head).iter().map(round));
            }
            assert_bits("slot", &read(&mut kv, 0, 1, *slot as usize), &expected);
        }
        assert_bits(
            "another layer",
            &read(&mut kv, 0, 0, slots[0] as usize),
            &[0.0; 16],
        );
        assert_bits(
            "another group",
            &read(&mut kv, 1, 0, slots[0] as usize),
            &[0.0; 16],
        );
    }
}

#[test]
fn a_copied_block_is_the_same_in_all_layers() {
    let mut kv = KvCache::new(&GROUPS, 5, 4, KvDtype::Bf16).expect("a small cache");
    let cx = cx(Isa::detect(), 2);
    let all: Vec<u32> = (0..20).collect();
    for (group, layer) in [(0, 0), (0, 1), (1, 0)] {
        let qkv = Random::new(group as u64 * 2 + layer as u64).rows(20, LAYOUT.qkv_width());
        write_kv(&cx, &qkv, &mut kv.layer(group, layer), &all);
    }
    let before = read(&mut kv, 0, 1, 7);
    kv.copy_block(0, 1, 4);
    for layer in 0..2 {
        for offset in 0..4 {
            let (from, to) = (
                read(&mut kv, 0, layer, 4 + offset),
                read(&mut kv, 0, layer, 16 + offset),
            );
            assert_bits("the copy", &to, &from);
        }
    }
    assert_bits("the source", &read(&mut kv, 0, 1, 7), &before);
    let (from, other) = (read(&mut kv, 1, 0, 4), read(&mut kv, 1, 0, 16));
    assert!(from != other, "another group is not touched");

    kv.state(2, 1, 3)
        .copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    kv.copy_block(2, 3, 0);
    assert_eq!(kv.state(2, 1, 0), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(kv.state(2, 0, 0), [0.0; 6]);
}

#[test]
fn what_cannot_be_had_is_an_error() {
    let huge = |kind, layers| CacheGroup { kind, layers };
    let wide = HeadLayout {
        k_dim: usize::MAX / 3,
        ..LAYOUT
    };
    for (group, blocks) in [
        (GROUPS[0], usize::MAX),
        (GROUPS[0], 1 << 52),
        (GROUPS[2], 1 << 58),
        (huge(GroupKind::Full(wide), 1), 1),
        (huge(GroupKind::Recurrent { values: usize::MAX }, 1), 1),
    ] {
        let refused = KvCache::new(&[group], blocks, 16, KvDtype::F32);
        assert!(
            matches!(refused, Err(Error::OutOfMemory { .. })),
            "{group:?} {blocks}"
        );
    }
    assert!(KvCache::new(&GROUPS, 0, 16, KvDtype::F32).is_ok());
    let mut none = KvCache::new(
        &[huge(GroupKind::Recurrent { values: 0 }, 1)],
        2,
        16,
        KvDtype::F32,
    )
    .expect("a state of nothing");
    none.copy_block(0, 1, 0);
}
