//! Grouped formats: what packing keeps, columns in another order, and what is refused. Products are in `linear`.

use super::*;
use crate::{Code, Epilogue, Error, GroupedRow, Groups, Scale, embed, linear, reference};
use half::bf16;

const fn groups(code: Code, scale: Scale, zeros: bool, cols: usize) -> Groups {
    Groups {
        code,
        scale,
        zeros,
        cols,
    }
}

/// Every code with every scale, with and without zero points, in groups of a block, of several, and of whole rows.
pub(super) const GROUPS: [Groups; 9] = [
    groups(Code::Int4, Scale::F16, false, 32),
    groups(Code::Int4, Scale::Bf16, true, 64),
    groups(Code::Int4, Scale::F32, true, 128),
    groups(Code::Int8, Scale::F32, false, 1 << 20),
    groups(Code::Int8, Scale::F16, true, 96),
    groups(Code::Int8, Scale::Bf16, true, 32),
    groups(Code::Fp8, Scale::F32, false, 128),
    groups(Code::Fp8, Scale::Bf16, false, 1 << 20),
    groups(Code::Fp8, Scale::F16, false, 32),
];

/// A random grouped matrix.
#[derive(Clone)]
pub(super) struct GroupedCodes {
    groups: Groups,
    shape: (usize, usize),
    /// `[rows, cols]`
    bits: Vec<u8>,
    /// `[rows, groups]`
    scales: Vec<f32>,
    /// `[rows, groups]`
    zeros: Vec<i16>,
}

impl Random {
    pub(super) fn codes(&mut self, rows: usize, cols: usize, groups: Groups) -> GroupedCodes {
        let heads = rows * groups.count(cols);
        let size = match groups.code {
            Code::Int4 => 0.1,
            Code::Int8 => 0.005,
            Code::Fp8 => 0.003,
        };
        let code = |bits: u64| match groups.code {
            Code::Int4 => ((bits as i8) >> 4) as u8,
            Code::Fp8 if bits & 0x7f == 0x7f => 0,
            _ => bits as u8,
        };
        let scale = |v: f32| match groups.scale {
            Scale::F16 => f16::from_f32(v).to_f32(),
            Scale::Bf16 => bf16::from_f32(v).to_f32(),
            Scale::F32 => v,
        };
        let zero = |bits: u64| match groups.code {
            _ if !groups.zeros => 0,
            Code::Int4 => i16::from(bits as i8 >> 4),
            _ => i16::from(bits as i8),
        };
        GroupedCodes {
            groups,
            shape: (rows, cols),
            bits: (0..rows * cols).map(|_| code(self.next() >> 20)).collect(),
            scales: (0..heads)
                .map(|_| scale(size * (0.1 + self.value())))
                .collect(),
            zeros: (0..heads).map(|_| zero(self.next() >> 20)).collect(),
        }
    }
}

impl GroupedCodes {
    pub(super) fn pack(&self) -> PackedWeight {
        let (rows, cols) = self.shape;
        let count = self.groups.count(cols);
        let fetch = |row: usize, to: &mut GroupedRow<'_>| {
            to.codes
                .copy_from_slice(&self.bits[row * cols..(row + 1) * cols]);
            let heads = row * count..(row + 1) * count;
            to.scales.copy_from_slice(&self.scales[heads.clone()]);
            to.zeros.copy_from_slice(&self.zeros[heads]);
        };
        PackedWeight::grouped(rows, cols, self.groups, fetch).expect("a weight")
    }

    fn value(&self, row: usize, col: usize) -> f32 {
        let (_, cols) = self.shape;
        let head = row * self.groups.count(cols) + col / self.groups.cols;
        let code = self.bits[row * cols + col];
        reference::grouped(self.groups.code, code, self.scales[head], self.zeros[head])
    }
}

#[test]
fn packing_keeps_every_value() {
    let mut random = Random::new(21);
    for groups in GROUPS {
        for (rows, cols) in [(1, 1), (33, 32), (16, 100), (70, 256), (5, 300)] {
            let codes = random.codes(rows, cols, groups);
            let weight = codes.pack();
            let mut got = vec![0.0; cols];
            for row in 0..rows {
                weight.dequantize_row(row, &mut got);
                let expected: Vec<f32> = (0..cols).map(|c| codes.value(row, c)).collect();
                assert_bits(
                    &format!("{groups:?} {rows} x {cols} row {row}"),
                    &got,
                    &expected,
                );
            }
            assert_eq!(
                weight.bytes(),
                rows.next_multiple_of(32) * weight.format().packed_bytes(cols)
            );
        }
        // What the type of the codes takes, and a little for scales.
        let (bits, rest) = match groups.code {
            Code::Int4 => (4, 4),
            Code::Int8 | Code::Fp8 => (8, 6),
        };
        let bytes = groups.packed_bytes(4096);
        assert!(
            bytes <= 4096 * bits / 8 + 4096 / 32 * rest,
            "{groups:?}: {bytes}"
        );
    }
}

/// All codes of a byte, each in a product of its own, on every path: no code has another value there than in `reference`.
#[test]
fn every_code_has_its_value_on_every_path() {
    for code in [Code::Int8, Code::Fp8] {
        let groups = groups(code, Scale::F32, false, 32);
        let valid = |bits: &u8| code != Code::Fp8 || bits & 0x7f != 0x7f;
        let bits: Vec<u8> = (0..=255).filter(valid).collect();
        let codes = GroupedCodes {
            groups,
            shape: (bits.len(), 1),
            scales: vec![1.0; bits.len()],
            zeros: vec![0; bits.len()],
            bits,
        };
        let weight = codes.pack();
        for isa in isas() {
            let mut out = Rows::new();
            let x = Rows::from_vec(1, vec![127.0, -127.0]);
            linear(&cx(isa, 1), &x, &weight, Epilogue::default(), &mut out);
            for row in 0..weight.rows() {
                let value = codes.value(row, 0);
                assert_eq!(out.row(0)[row], 127.0 * value, "{isa:?} {row}");
                assert_eq!(out.row(1)[row], -127.0 * value, "{isa:?} {row}");
            }
        }
    }
}

/// Columns in another order are the same matrix, and gathered activations give the bits that the packed order gives.
#[test]
fn columns_in_another_order() {
    let mut random = Random::new(22);
    let (rows, cols) = (40, 256);
    let mut order: Vec<u32> = (0..cols as u32).collect();
    for i in (1..cols).rev() {
        order.swap(i, random.below(i + 1));
    }
    let order: Arc<[u32]> = order.into();
    for groups in GROUPS {
        let codes = random.codes(rows, cols, groups);
        let plain = codes.pack();
        let ordered = codes.pack().with_order(Arc::clone(&order));
        let x = random.rows(7, cols);
        let gathered: Vec<f32> = (0..7)
            .flat_map(|r| order.iter().map(move |c| (r, *c as usize)))
            .map(|(r, c)| x.row(r)[c])
            .collect();
        let gathered = Rows::from_vec(cols, gathered);
        for isa in isas() {
            let product = |x: &Rows, weight: &PackedWeight| {
                let mut out = Rows::new();
                linear(&cx(isa, 2), x, weight, Epilogue::default(), &mut out);
                out
            };
            let (got, expected) = (product(&x, &ordered), product(&gathered, &plain));
            assert_bits("gathered", got.as_slice(), expected.as_slice());
            let off = product(&x, &plain);
            assert_ne!(got.as_slice(), off.as_slice(), "the order matters");
        }
        let mut out = Rows::new();
        embed(&cx(Isa::Portable, 1), &[3], &ordered, &mut out);
        for (i, col) in order.iter().enumerate() {
            assert_eq!(out.row(0)[*col as usize], codes.value(3, i), "{groups:?}");
        }
        assert!(!plain.stacks_with(&ordered));
        assert!(matches!(
            PackedWeight::stack(vec![plain, codes.pack().with_order(Arc::clone(&order))]),
            Err(Error::Stack(_))
        ));
        let both = vec![ordered, codes.pack().with_order(Arc::clone(&order))];
        let both = PackedWeight::stack(both).expect("the same order");
        embed(&cx(Isa::Portable, 1), &[3, 43], &both, &mut out);
        assert_bits("stacked", out.row(0), out.row(1));
    }
}

#[test]
fn groups_that_are_not_whole_blocks_are_refused() {
    for (cols, group) in [(64, 33), (64, 16), (64, 0), (0, 32)] {
        let groups = groups(Code::Int4, Scale::F16, false, group);
        let refused = PackedWeight::grouped(1, cols, groups, |_, _| {});
        assert!(
            matches!(refused, Err(Error::Group { .. })),
            "{cols} {group}"
        );
    }
    let format = Format::Grouped(GROUPS[0]);
    assert!(PackedWeight::from_bytes(1, 32, format, &[0; 18]).is_err());
    assert!(PackedWeight::from_f32(1, 32, format, &[0.0; 32]).is_err());
}
