//! The values of stored blocks one by one, each straight from the definition of its format.

use crate::Format;
use half::{bf16, f16};

/// The values of `bytes`, a row as files store it, in `format`.
///
/// # Panics
/// If `out` and `bytes` do not have the same number of blocks.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        bytes.len() / format.block_bytes(),
        out.len() / format.block_len()
    );
    let blocks = bytes.chunks_exact(format.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(format.block_len())) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = value(format, block, i);
        }
    }
}

/// Value `i` of the block `b`.
fn value(format: Format, b: &[u8], i: usize) -> f32 {
    let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let float = |at: usize| f32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let int = |at: usize| f32::from(b[at] as i8);
    // Field `n` of `bits` bits of a byte.
    let field = |at: usize, n: usize, bits: usize| b[at] >> (n * bits) & ((1 << bits) - 1);
    // 16 bytes of nibbles for 32 values, from `at` on; the bits of a mask of 4 bytes, one for each value.
    let nibble = |at: usize| field(at + i % 16, i / 16, 4);
    let fifth = |at: usize| field(at + i / 8, i % 8, 1) << 4;
    // 32 bytes of nibbles for 64 values.
    let nibble_k = |at: usize| field(at + i / 64 * 32 + i % 32, i / 32 % 2, 4);
    // 32 bytes of pairs of bits for 128 values.
    let pair_k = |at: usize| field(at + i / 128 * 32 + i % 32, i / 32 % 4, 2);
    // 32 bytes of bits for 256 values.
    let bit_k = |at: usize| field(at + i % 32, i / 32, 1);
    match format {
        Format::F32 => float(0),
        Format::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        Format::F16 => half(0),
        Format::Int8 | Format::Grouped(_) => unreachable!("no file holds such rows"),
        Format::Q8_0 => int(2 + i) * half(0),
        Format::Q8K => int(4 + i) * float(0),
        Format::Q4_0 => (f32::from(nibble(2)) - 8.0) * half(0),
        Format::Q4_1 => f32::from(nibble(4)) * half(0) + half(2),
        Format::Q5_0 => (f32::from(nibble(6) | fifth(2)) - 16.0) * half(0),
        Format::Q5_1 => f32::from(nibble(8) | fifth(4)) * half(0) + half(2),
        Format::Q2K => {
            let (scale, minimum) = (f32::from(b[i / 16] & 15), f32::from(b[i / 16] >> 4));
            half(80) * scale * f32::from(pair_k(16)) - half(82) * minimum
        }
        Format::Q3K => {
            let group = i / 16;
            let low = field(96 + group % 8, group / 8, 4);
            let scale = low | field(104 + group % 4, group / 4, 2) << 4;
            let code = f32::from(pair_k(32)) - if bit_k(0) == 0 { 4.0 } else { 0.0 };
            half(108) * (f32::from(scale) - 32.0) * code
        }
        Format::Q4K => scaled_k(b, i, nibble_k(16)),
        Format::Q5K => scaled_k(b, i, nibble_k(48) | bit_k(16) << 4),
        Format::Q6K => {
            let low = field(i / 128 * 64 + i % 64, i / 64 % 2, 4);
            let code = f32::from(low | pair_k(128) << 4) - 32.0;
            half(208) * int(192 + i / 16) * code
        }
        Format::Iq4Nl => {
            const TABLE: [i16; 16] = [
                -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
            ];
            half(0) * f32::from(TABLE[nibble(2) as usize])
        }
        Format::Mxfp4 => {
            let code = nibble(1);
            let (exponent, fraction) = (i32::from(code >> 1 & 3), f64::from(code & 1));
            let size = match exponent {
                0 => 0.5 * fraction,
                e => (1.0 + 0.5 * fraction) * f64::from(e - 1).exp2(),
            };
            let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
            // There is no minus zero among these codes, as in the reference.
            let size = if size == 0.0 { 0.0 } else { sign * size };
            (size * f64::from(i32::from(b[0]) - 127).exp2()) as f32
        }
    }
}

/// A code of `Q4_K` or `Q5_K` with the scale and the minimum of its 32.
fn scaled_k(b: &[u8], i: usize, code: u8) -> f32 {
    let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let (s, group) = (&b[4..16], i / 32);
    let (scale, minimum) = if group < 4 {
        (s[group] & 63, s[group + 4] & 63)
    } else {
        let low = s[group + 4];
        (
            low & 15 | s[group - 4] >> 6 << 4,
            low >> 4 | s[group] >> 6 << 4,
        )
    };
    half(0) * f32::from(scale) * f32::from(code) - half(2) * f32::from(minimum)
}

/// Random bytes made a block of values within about -1..1: only its scales (and minimums) are set, from `random`, which
/// lies within 0..1.
pub fn tame(format: Format, block: &mut [u8], random: f32) {
    let size = 0.1 + 0.9 * random;
    let mut half = |at: usize, v: f32| {
        block[at..at + 2].copy_from_slice(&f16::from_f32(v * size).to_le_bytes());
    };
    match format {
        Format::F32 => block.copy_from_slice(&size.to_le_bytes()),
        Format::Bf16 => block.copy_from_slice(&bf16::from_f32(size).to_le_bytes()),
        Format::F16 => half(0, 1.0),
        Format::Int8 | Format::Grouped(_) => unreachable!("no file holds such rows"),
        Format::Q8_0 | Format::Iq4Nl => half(0, 1.0 / 128.0),
        Format::Q8K => block[..4].copy_from_slice(&(size / 128.0).to_le_bytes()),
        Format::Q4_0 => half(0, 1.0 / 8.0),
        Format::Q5_0 => half(0, 1.0 / 16.0),
        Format::Q4_1 => {
            half(0, 1.0 / 8.0);
            half(2, -1.0);
        }
        Format::Q5_1 => {
            half(0, 1.0 / 16.0);
            half(2, -1.0);
        }
        Format::Q2K => {
            half(80, 1.0 / 24.0);
            half(82, 1.0 / 16.0);
        }
        Format::Q3K => half(108, 1.0 / 128.0),
        Format::Q4K => {
            half(0, 1.0 / 480.0);
            half(2, 1.0 / 64.0);
        }
        Format::Q5K => {
            half(0, 1.0 / 960.0);
            half(2, 1.0 / 64.0);
        }
        Format::Q6K => half(208, 1.0 / 4096.0),
        Format::Mxfp4 => block[0] = 122 + (4.0 * random) as u8,
    }
}
