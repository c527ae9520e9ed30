//! Updates of states: against the definition, cut anywhere, in any company.

use super::*;
use crate::recurrent::{MIXED, StateSlots, mix_states};
use crate::{CacheGroup, GroupKind, KvCache, KvDtype};

pub(super) const SLOTS: usize = 7;

pub(super) fn cache(cx: &Cx) -> KvCache {
    let group = CacheGroup {
        kind: GroupKind::Recurrent { values: MIXED },
        layers: 2,
    };
    KvCache::on(cx, &[group], SLOTS, 16, KvDtype::Bf16).expect("a small cache")
}

/// One request's inputs.
pub(super) fn inputs(request: u64) -> Vec<f32> {
    (0..40)
        .map(|t| ((t * 97 + request * 1013) % 4096) as f32)
        .collect()
}

/// Steps of three requests whose tokens are cut here; each goes from its slot to another one. Gives each request's digests.
pub(super) fn run(cx: &Cx, cuts: &[usize]) -> Vec<Vec<f32>> {
    let mut cache = cache(cx);
    let mut digests = vec![Vec::new(); 3];
    let mut at: [Option<u32>; 3] = [None; 3];
    for ends in [&[0], cuts, &[40]].concat().windows(2) {
        let (mut rows, mut seqlens, mut slots) = (Vec::new(), vec![0], Vec::new());
        for (i, at) in at.iter_mut().enumerate() {
            rows.extend_from_slice(&inputs(i as u64)[ends[0]..ends[1]]);
            seqlens.push(rows.len() as u32);
            let write = at.map_or(2 * i as u32, |slot| slot ^ 1);
            slots.push(StateSlots { read: *at, write });
            *at = Some(write);
        }
        let mut rows = Rows::from_vec(1, rows);
        mix_states(cx, &mut rows, &seqlens, &slots, &mut cache.states(0, 1));
        for (i, ends) in seqlens.windows(2).enumerate() {
            digests[i].extend_from_slice(&rows.as_slice()[ends[0] as usize..ends[1] as usize]);
        }
    }
    let mut other = [9.0; MIXED];
    cache.states(0, 0).read(0, &mut other);
    assert_eq!(other, [0.0; MIXED], "another layer");
    let mut last = [0.0; MIXED];
    cache
        .states(0, 1)
        .read(at[1].expect("a slot") as usize, &mut last);
    assert_eq!(last, [digests[1][39], 40.0]);
    digests
}

/// What [`run`] must give.
pub(super) fn expected() -> Vec<Vec<f32>> {
    let each = (0..3).map(|request| {
        let inputs: Vec<u64> = inputs(request).iter().map(|v| *v as u64).collect();
        let digests = reference::mix_states((0, 0), &inputs);
        digests.into_iter().map(|digest| digest as f32).collect()
    });
    each.collect()
}

#[test]
fn states_follow_their_tokens_wherever_they_are_cut() {
    let cx = cx(Isa::Portable, 1);
    for cuts in [&[][..], &[1], &[7, 8, 30], &[39]] {
        assert_eq!(run(&cx, cuts), expected(), "{cuts:?}");
    }
    // The control: from another state all digests are others.
    let inputs: Vec<u64> = inputs(0).iter().map(|v| *v as u64).collect();
    let other = reference::mix_states((1, 0), &inputs);
    let digests = &expected()[0];
    let same = digests.iter().zip(other).filter(|(a, b)| **a == *b as f32);
    assert!(same.count() < 3);
}
