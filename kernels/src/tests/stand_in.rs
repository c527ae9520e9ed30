//! Weights with values of no meaning.

use super::linear::all;
use super::*;
use crate::StandIns;

#[test]
fn stand_ins_share_what_was_set_aside_and_are_finite() {
    for format in all() {
        let what = format!("{format:?}");
        let one = PackedWeight::hollow(40, 512, format).expect("a weight");
        let from = StandIns::new(one.bytes() * 2);
        let weight = |rows| from.weight(rows, 512, format).expect("a weight");
        let row = |weight: &PackedWeight, row| {
            let mut out = vec![0.0; 512];
            weight.dequantize_row(row, &mut out);
            assert!(out.iter().all(|v| v.is_finite()), "{what}");
            out
        };
        let weights: Vec<_> = (0..5).map(|_| weight(40)).collect();
        assert_ne!(row(&weights[0], 38), row(&weights[0], 39), "{what}");
        let mut places: Vec<_> = weights.iter().map(|w| w.lines().as_ptr()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 2, "{what}: as many as fit");
        // One of each shape there is, even so.
        row(&weight(100), 99);
        let place = weight(70).lines().as_ptr();
        assert_eq!(weight(70).lines().as_ptr(), place, "{what}: taken again");
        let stacked = PackedWeight::stack(weights).expect("they fit");
        assert_eq!(stacked.rows(), 200);
        row(&stacked, 199);
    }
    assert!(StandIns::new(9).weight(1, 31, Format::Q4_0).is_err());
}
