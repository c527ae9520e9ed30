//! From the blocks of files to the units of `cpu::codes` and to values. What is known of GGML's structures is here alone
//! (`ggml-common.h` and the dequantization in `ggml-quants.c` of the `ggml` project define them).

use super::codes::{BLOCK, Codes, Head, MAX_BLOCKS, Subs, Unit, Value};
use crate::Format;
use half::{bf16, f16};

/// Bytes of the heads of a unit at most.
const MAX_HEADS: usize = 4;

/// The parts of a unit, taken out of a file's block.
struct Parts {
    heads: [u8; MAX_HEADS],
    subs: [[u8; 2]; MAX_BLOCKS],
    codes: [u8; MAX_BLOCKS * BLOCK],
}

/// Writes the units of a row. `file`: the row as files store it; `units`: [`Format::packed_bytes`] bytes.
pub(crate) fn encode_row(format: Format, file: &[u8], units: &mut [u8]) {
    let Some(codes) = Codes::of(format) else {
        let (row, padding) = units.split_at_mut(file.len());
        row.copy_from_slice(file);
        padding.fill(0);
        return;
    };
    match format {
        // Files have the unit's order.
        Format::Q4_0 | Format::Q4_1 | Format::Iq4Nl => return units.copy_from_slice(file),
        Format::Q8_0 => {
            units.copy_from_slice(file);
            for block in units.chunks_exact_mut(format.block_bytes()) {
                for code in &mut block[2..] {
                    *code ^= 0x80;
                }
            }
            return;
        }
        _ => {}
    }
    let mut parts = Parts {
        heads: [0; MAX_HEADS],
        subs: [[0; 2]; MAX_BLOCKS],
        codes: [0; MAX_BLOCKS * BLOCK],
    };
    let blocks = file.chunks_exact(format.block_bytes());
    for (block, out) in blocks.zip(units.chunks_exact_mut(Unit::of(format).bytes())) {
        parts.read(format, block);
        parts.write(codes, out);
    }
}

impl Parts {
    fn read(&mut self, format: Format, b: &[u8]) {
        match format {
            // No codes, or those of the file as they are.
            Format::F32
            | Format::Bf16
            | Format::F16
            | Format::Int8
            | Format::Grouped(_)
            | Format::Q8_0
            | Format::Q4_0
            | Format::Q4_1
            | Format::Iq4Nl => {}
            // A float and 256 int8; the sums of 16 behind them follow from those.
            Format::Q8K => self.bytes(&b[..4], &b[4..260]),
            Format::Mxfp4 => self.nibbles(&half_power(b[0]).to_le_bytes(), &b[1..]),
            Format::Q5_0 => self.fives(&b[..2], &b[2..]),
            Format::Q5_1 => self.fives(&b[..4], &b[4..]),
            Format::Q2K => self.q2_k(b),
            Format::Q3K => self.q3_k(b),
            Format::Q4K => self.q4_k(b),
            Format::Q5K => {
                self.q4_k_scales(b);
                self.fields(&b[48..], 4);
                // Bit `i` of byte `l` belongs to code `l` of block `i`.
                for (i, code) in self.codes.iter_mut().enumerate() {
                    *code |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            Format::Q6K => self.q6_k(b),
        }
    }

    fn heads(&mut self, heads: &[u8]) {
        self.heads[..heads.len()].copy_from_slice(heads);
    }

    fn bytes(&mut self, heads: &[u8], codes: &[u8]) {
        self.heads(heads);
        for (to, from) in self.codes.iter_mut().zip(codes) {
            *to = from ^ 0x80;
        }
    }

    /// 16 bytes: codes 0 to 15 in the low nibbles, 16 to 31 in the high ones.
    fn nibbles(&mut self, heads: &[u8], codes: &[u8]) {
        self.heads(heads);
        for (i, byte) in codes.iter().enumerate() {
            (self.codes[i], self.codes[i + 16]) = (byte & 15, byte >> 4);
        }
    }

    /// The fifth bits of 32 codes, then their nibbles.
    fn fives(&mut self, heads: &[u8], rest: &[u8]) {
        self.nibbles(heads, &rest[4..]);
        for (i, code) in self.codes[..BLOCK].iter_mut().enumerate() {
            *code |= (rest[i / 8] >> (i % 8) & 1) << 4;
        }
    }

    /// 256 codes in fields of `bits`: 32 bytes hold 32 codes in their lowest fields, the next 32 in the fields above, ...
    fn fields(&mut self, bytes: &[u8], bits: usize) {
        let run = BLOCK * 8 / bits;
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (chunk, field) = (i / run, i % run / BLOCK);
            *code = bytes[chunk * BLOCK + i % BLOCK] >> (bits * field) & ((1 << bits) - 1);
        }
    }

    /// `scales[16], qs[64], d, dmin`
    fn q2_k(&mut self, b: &[u8]) {
        self.heads(&b[80..84]);
        for (sub, scales) in self.subs.iter_mut().zip(b.chunks_exact(2)) {
            *sub = [scales[0], scales[1]];
        }
        self.fields(&b[16..80], 2);
    }

    /// `hmask[32], qs[64], scales[12], d`; a bit of the mask that is not set takes 4 off the code, which is the same as
    /// one that is set adding 4 to a code that 4 is taken off.
    fn q3_k(&mut self, b: &[u8]) {
        self.heads(&b[108..110]);
        self.fields(&b[32..96], 2);
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code |= (b[i % 32] >> (i / 32) & 1) << 2;
        }
        let scales = &b[96..108];
        for i in 0..16 {
            let low = scales[i % 8] >> (4 * (i / 8)) & 15;
            let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
            self.subs[i / 2][i % 2] = (low | high << 4).wrapping_sub(32);
        }
    }

    /// `d, dmin, scales[12], qs[128]`
    fn q4_k(&mut self, b: &[u8]) {
        self.q4_k_scales(b);
        self.fields(&b[16..], 4);
    }

    /// Eight scales and eight minimums of 6 bits: the first four of each in whole bytes, whose upper 2 bits are those of
    /// the others.
    fn q4_k_scales(&mut self, b: &[u8]) {
        self.heads(&b[..4]);
        let s = &b[4..16];
        for i in 0..4 {
            self.subs[i] = [s[i] & 63, s[i + 4] & 63];
            self.subs[i + 4] = [
                s[i + 8] & 15 | s[i] >> 6 << 4,
                s[i + 8] >> 4 | s[i + 4] >> 6 << 4,
            ];
        }
    }

    /// `ql[128], qh[64], scales[16], d`; halves of 128 codes: 64 bytes of lower nibbles, 32 bytes of upper 2 bits.
    fn q6_k(&mut self, b: &[u8]) {
        self.heads(&b[208..210]);
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (half, at) = (i / 128, i % 128);
            let low = b[half * 64 + at % 64] >> (4 * (at / 64)) & 15;
            let high = b[128 + half * 32 + at % 32] >> (2 * (at / 32)) & 3;
            *code = low | high << 4;
        }
        for (sub, scales) in self.subs.iter_mut().zip(b[192..208].chunks_exact(2)) {
            *sub = [scales[0], scales[1]];
        }
    }

    fn write(&self, codes: Codes, out: &mut [u8]) {
        let (heads, blocks) = out.split_at_mut(codes.head.bytes() * codes.heads());
        heads.copy_from_slice(&self.heads[..heads.len()]);
        let blocks = blocks.chunks_exact_mut(codes.sub_bytes() + 4 * codes.bits);
        for (b, block) in blocks.enumerate() {
            let (subs, planes) = block.split_at_mut(codes.sub_bytes());
            subs.copy_from_slice(&self.subs[b][..subs.len()]);
            let values = &self.codes[b * BLOCK..][..BLOCK];
            let (low, high) = planes.split_at_mut(4 * codes.low_bits());
            write_plane(values, (0, codes.low_bits()), low);
            write_plane(values, (codes.low_bits(), codes.bits), high);
        }
    }
}

/// Bits `from..to` of 32 codes, as `cpu::codes` describes a plane.
fn write_plane(codes: &[u8], (from, to): (usize, usize), plane: &mut [u8]) {
    let bits = to - from;
    for (i, byte) in plane.iter_mut().enumerate() {
        let fields = codes[i..].iter().step_by(4 * bits).enumerate();
        *byte = fields.fold(0, |byte, (field, code)| {
            byte | (code >> from & mask(bits)) << (bits * field)
        });
    }
}

fn mask(bits: usize) -> u8 {
    (0xff_u16 >> (8 - bits)) as u8
}

/// Bits `from..` of 32 codes, out of their plane.
fn read_plane(plane: &[u8], (from, to): (usize, usize), codes: &mut [u8; BLOCK]) {
    let bits = to - from;
    for (i, code) in codes.iter_mut().enumerate() {
        let (at, field) = (i % (4 * bits), i / (4 * bits));
        *code |= (plane[at] >> (bits * field) & mask(bits)) << from;
    }
}

/// `2^(x - 128)` as bf16: half of what an e8m0 stands for, since [`Value::Table`] holds doubled values.
fn half_power(x: u8) -> bf16 {
    bf16::from_bits(match x {
        0 | 1 => 0x20 << x,
        x => u16::from(x - 1) << 7,
    })
}

/// The values of a row's unit, bit-equal to the reference: `(scale * sub) * code + (minimum * sub)`. `out`: the columns
/// that exist.
pub(crate) fn decode_unit(format: Format, unit: &[u8], out: &mut [f32]) {
    let half = |at: usize| [unit[at], unit[at + 1]];
    match (Codes::of(format), format) {
        (Some(codes), _) => decode_codes(codes, unit, out),
        (None, Format::F16) => out[0] = f16::from_le_bytes(half(0)).to_f32(),
        (None, Format::Bf16) => {
            for (i, o) in out.iter_mut().enumerate() {
                *o = bf16::from_le_bytes(half(2 * i)).to_f32();
            }
        }
        (None, _) => out[0] = f32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]),
    }
}

fn decode_codes(codes: Codes, unit: &[u8], out: &mut [f32]) {
    let (heads, blocks) = unit.split_at(codes.head.bytes() * codes.heads());
    let head = |i: usize| {
        let b = &heads[i * codes.head.bytes()..];
        match codes.head {
            Head::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Head::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Head::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        }
    };
    let minimum = (codes.value == Value::Min).then(|| head(1));
    let blocks = blocks.chunks_exact(codes.sub_bytes() + 4 * codes.bits);
    for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
        let (subs, planes) = block.split_at(codes.sub_bytes());
        let (low, high) = planes.split_at(4 * codes.low_bits());
        let mut values = [0; BLOCK];
        read_plane(low, (0, codes.low_bits()), &mut values);
        if !high.is_empty() {
            read_plane(high, (codes.low_bits(), codes.bits), &mut values);
        }
        let each = BLOCK / codes.groups();
        let groups = out.chunks_exact_mut(each).zip(values.chunks_exact(each));
        for (g, (out, values)) in groups.enumerate() {
            let (scale, minimum) = match codes.subs {
                Subs::None => (head(0), minimum),
                Subs::Scales => (head(0) * f32::from(subs[g] as i8), minimum),
                Subs::ScaleMin => (
                    head(0) * f32::from(subs[0]),
                    minimum.map(|m| -(m * f32::from(subs[1]))),
                ),
                Subs::Nibbles => (
                    head(0) * f32::from(subs[g] & 15),
                    minimum.map(|m| -(m * f32::from(subs[g] >> 4))),
                ),
            };
            for (o, code) in out.iter_mut().zip(values) {
                let value = f32::from(*code);
                *o = match codes.value {
                    Value::Minus(offset) => (value - f32::from(offset)) * scale,
                    Value::Min => value * scale + minimum.unwrap_or(0.0),
                    Value::Signed => f32::from((code ^ 0x80) as i8) * scale,
                    Value::Table(table) => f32::from((table[*code as usize] ^ 0x80) as i8) * scale,
                };
            }
        }
    }
}
