//! The memory of the cache.

use super::*;
use crate::{CacheGroup, Error, GroupKind, HeadLayout, KvCache, KvDtype, write_kv};

const LAYOUT: HeadLayout = HeadLayout {
    q_heads: 4,
    kv_heads: 2,
    k_dim: 5,
    v_dim: 3,
};

pub(super) const GROUPS: [CacheGroup; 3] = [
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

/// `v`, one of `values`, as the cache stores it.
pub(super) fn rounded(dtype: KvDtype, values: &[f32], v: f32) -> f32 {
    match dtype {
        KvDtype::F32 => v,
        KvDtype::Bf16 => half::bf16::from_f32(v).to_f32(),
        KvDtype::Int8 => {
            let largest = values.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            (v * (127.0 / largest)).round_ties_even() * (largest / 127.0)
        }
        KvDtype::F16 => half::f16::from_f32(v).to_f32(),
        KvDtype::Fp8 => nearest_e4m3(v),
    }
}

/// The nearest number of E4M3, the one with an even code of two; by looking at all of them.
pub(super) fn nearest_e4m3(v: f32) -> f32 {
    if !v.is_finite() {
        return f32::NAN;
    }
    let value = |code: u8| reference::grouped(crate::Code::Fp8, code, 1.0, 0);
    // Codes from 0x7f on are NaN and the negative ones.
    let size = f64::from(v.abs().min(448.0));
    let off = |code: u8| (f64::from(value(code)) - size).abs();
    let nearest = |a: &u8, b: &u8| off(*a).total_cmp(&off(*b)).then((a % 2).cmp(&(b % 2)));
    let code = (0..0x7f_u8).min_by(nearest).expect("some codes");
    value(code).copysign(v)
}

/// On the processor an error that says what there is.
#[test]
fn what_only_devices_store_is_refused_here() {
    for dtype in [KvDtype::F16, KvDtype::Fp8] {
        let error = KvCache::new(&GROUPS, 9, 16, dtype).expect_err("for devices");
        let message = error.to_string();
        assert!(
            message.contains(dtype.name()) && message.contains("int8"),
            "{message}"
        );
    }
}

#[test]
fn what_is_written_is_read() {
    for (dtype, size) in [
        (KvDtype::F32, 4),
        (KvDtype::Bf16, 16),
        (KvDtype::Bf16, 1),
        (KvDtype::Int8, 16),
        (KvDtype::Int8, 1),
    ] {
        let mut kv = KvCache::new(&GROUPS, 9, size, dtype).expect("a small cache");
        let qkv = Random::new(1).rows(6, LAYOUT.qkv_width());
        let slots: Vec<u32> = [8, 0, 3, 5, 2, 7].map(|s| s * size as u32 / 2).to_vec();
        write_kv(&cx(Isa::detect(), 3), &qkv, &mut kv.layer(0, 1), &slots);
        let round = |values: &[f32]| -> Vec<f32> {
            values.iter().map(|v| rounded(dtype, values, *v)).collect()
        };
        for (r, slot) in slots.iter().enumerate() {
            if slots[r + 1..].contains(slot) {
                continue; // written again
            }
            let mut expected = Vec::new();
            for head in 0..2 {
                expected.extend(round(LAYOUT.key(qkv.row(r), head)));
                expected.extend(round(LAYOUT.value(qkv.row(r), head)));
            }
            assert_bits("slot", &read(&mut kv, 0, 1, *slot as usize), &expected);
        }
        for (group, layer) in [(0, 0), (1, 0)] {
            let other = read(&mut kv, group, layer, slots[0] as usize);
            assert_eq!(other, [0.0; 16], "another layer or group");
        }
    }
}

/// Every path writes the same int8, of odd numbers of values too; nothing turns what is no number into one.
#[test]
fn int8_are_the_same_on_every_path() {
    let layout = HeadLayout {
        q_heads: 2,
        kv_heads: 2,
        k_dim: 33,
        v_dim: 20,
    };
    let group = CacheGroup {
        kind: GroupKind::Full(layout),
        layers: 1,
    };
    let mut qkv = Random::new(3).rows(6, layout.qkv_width());
    // By rows: nothing, too little to tell from nothing, almost too much, a NaN and an infinity in the last number of a key.
    let last = layout.q_heads * layout.k_dim + 32;
    qkv.row_mut(0).fill(0.0);
    qkv.row_mut(1).fill(1e-35);
    qkv.row_mut(2).fill(-3e38);
    qkv.row_mut(3)[last] = f32::NAN;
    qkv.row_mut(4)[last] = f32::NEG_INFINITY;
    let read = |isa| {
        let mut kv = KvCache::new(&[group], 1, 16, KvDtype::Int8).expect("a small cache");
        write_kv(&cx(isa, 2), &qkv, &mut kv.layer(0, 0), &[0, 1, 2, 3, 4, 5]);
        let layer = kv.layer(0, 0);
        let mut all = Vec::new();
        for slot in 0..6 {
            let (mut k, mut v) = ([0.0; 33], [0.0; 20]);
            layer.read_key(slot, 0, &mut k);
            layer.read_value(slot, 0, &mut v);
            all.push((k.to_vec(), v.to_vec()));
        }
        all
    };
    let expected = read(Isa::Portable);
    for isa in isas() {
        for (slot, ((k, v), (key, value))) in read(isa).iter().zip(&expected).enumerate() {
            let bits = |of: &[f32]| of.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(k), bits(key), "{isa:?} {slot}");
            assert_eq!(bits(v), bits(value), "{isa:?} {slot}");
        }
    }
    for (slot, (k, v)) in expected.iter().enumerate() {
        let row = qkv.row(slot);
        for (d, value) in v.iter().enumerate() {
            let values = layout.value(row, 0);
            let largest = values.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let off = (value - values[d]).abs();
            assert!(off <= largest / 253.0 + 1e-30, "slot {slot}: {off}");
        }
        assert_eq!(k.iter().all(|v| v.is_nan()), slot == 3 || slot == 4);
        assert_eq!(k.iter().any(|v| v.is_nan()), slot == 3 || slot == 4);
    }
}

#[test]
fn bytes_of_a_block() {
    // 16 tokens of two heads, keys of 5 (rounded up to 8, 6, 5) and values of 3 (rounded up to 16), and two scales of int8.
    for (dtype, bytes) in [
        (KvDtype::F32, 16 * 2 * (5 + 16) * 4),
        (KvDtype::Bf16, 16 * 2 * (6 + 16) * 2),
        (KvDtype::Int8, 16 * 2 * (8 + 16 + 8)),
        (KvDtype::F16, 16 * 2 * (6 + 16) * 2),
        (KvDtype::Fp8, 16 * 2 * (8 + 16)),
    ] {
        let layers = [2, 1].map(|layers| layers * bytes);
        assert_eq!(GROUPS[0].block_bytes(16, dtype), layers[0], "{dtype:?}");
        assert_eq!(GROUPS[1].block_bytes(16, dtype), layers[1], "{dtype:?}");
        assert_eq!(GROUPS[2].block_bytes(16, dtype), 2 * 6 * 4, "{dtype:?}");
    }
    // Of a head of 64, int8 hold 1.88 times as many tokens as bf16; of one of 128, 1.94 times.
    for (dim, share) in [(64, 136.0 / 256.0), (128, 264.0 / 512.0)] {
        let layout = HeadLayout {
            k_dim: dim,
            v_dim: dim,
            ..LAYOUT
        };
        let group = CacheGroup {
            kind: GroupKind::Full(layout),
            layers: 3,
        };
        let bytes = |dtype| group.block_bytes(16, dtype) as f64;
        assert_eq!(bytes(KvDtype::Int8) / bytes(KvDtype::Bf16), share);
    }
}

#[test]
fn a_copied_block_is_the_same_in_all_layers() {
    for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8] {
        check_copy(dtype);
    }
}

fn check_copy(dtype: KvDtype) {
    let mut kv = KvCache::new(&GROUPS, 5, 4, dtype).expect("a small cache");
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

    check_state_copy(&mut kv);
}

pub(super) fn check_state_copy(kv: &mut KvCache) {
    let state = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    kv.states(2, 1).write(3, &state);
    kv.copy_block(2, 3, 0);
    for (layer, slot, expected) in [
        (1, 0, state),
        (1, 3, state),
        (0, 0, [0.0; 6]),
        (1, 1, [0.0; 6]),
    ] {
        let mut got = [9.0; 6];
        kv.states(2, layer).read(slot, &mut got);
        assert_eq!(got, expected, "layer {layer}, slot {slot}");
    }
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
