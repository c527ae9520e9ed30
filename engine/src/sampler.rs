//! [`Sampler`]: from a row of logits to a token.
//!
//! Owns: buffers that are reused from row to row. Must not know: requests, batches.
//!
//! Invariants: a choice is a function of the row, the parameters and the [`Noise`] alone; the noise is a function of
//! seed, continuation and position alone. So a request's tokens do not depend on the company it keeps. No step over a row
//! takes memory once the buffers have grown.

#![expect(clippy::inline_always, reason = "as `Vectorized` asks")]

use crate::{SamplingParams, logits};
use koma_models::kernels::{Isa, Vectorized};
use std::cmp::Ordering;

/// Where a random number belongs; it is the same whenever and wherever it is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    /// The request's seed.
    pub(crate) seed: u64,
    /// Which continuation.
    pub(crate) child: u32,
    /// Which output, from 0.
    pub(crate) position: u64,
}

impl Noise {
    /// A number from 0 to below 1.
    pub(crate) fn uniform(self) -> f64 {
        // The finaliser of SplitMix64 (Steele, Lea, Flood 2014), once per part.
        fn mix(z: u64) -> u64 {
            let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
        let bits = mix(mix(mix(self.seed) ^ u64::from(self.child)) ^ self.position);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A row of logits as probabilities before temperature and truncation, as far as a client asks for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawLogprobs {
    log_sum: f32,
    /// The most probable tokens, best first.
    pub(crate) top: Vec<(u32, f32)>,
}

impl RawLogprobs {
    /// Of a row whose exponentials' sum has this logarithm; `top`: its best tokens and their logits.
    #[cfg(feature = "cuda")]
    pub(crate) fn new(log_sum: f32, top: impl Iterator<Item = (u32, f32)>) -> Self {
        let top = top.map(|(id, x)| (id, x - log_sum)).collect();
        Self { log_sum, top }
    }

    /// Log-probability of a token with this logit.
    pub(crate) fn of(&self, logit: f32) -> f32 {
        logit - self.log_sum
    }
}

/// Chooses tokens. One for each thread of an engine's team.
#[derive(Debug)]
pub(crate) struct Sampler {
    isa: Isa,
    /// Best tokens: logit and id.
    best: Vec<(f32, u32)>,
    /// Mass of each part of the row.
    masses: Vec<f64>,
    /// Logits before edits, of the tokens that the request's tally has.
    pub(crate) before: Vec<f32>,
}

/// Tokens per part of the row that is summed at once.
const PART: usize = 512;
/// Tokens that are looked at together where the best ones are sought.
const LOOK: usize = 64;

impl Default for Sampler {
    fn default() -> Self {
        Self::on(Isa::detect())
    }
}

impl Sampler {
    /// One that uses the CPU path `isa`. Its choices are the same on all.
    pub(crate) fn on(isa: Isa) -> Self {
        Self {
            isa,
            best: Vec::new(),
            masses: Vec::new(),
            before: Vec::new(),
        }
    }

    /// Takes the memory that rows of `vocab` tokens usually need.
    pub(crate) fn reserve(&mut self, vocab: usize) {
        // What is left of an earlier row would count as in use.
        self.masses.clear();
        self.best.clear();
        self.masses.reserve(vocab.div_ceil(PART));
        self.best.reserve(2 * PART + LOOK);
    }

    /// Whether all values of `row` are finite.
    pub(crate) fn is_finite(&self, row: &[f32]) -> bool {
        self.isa.run(IsFinite(row))
    }

    /// Chooses a token of `row` (`[vocab]`, not NaN). Temperature first, then top-k, top-p, min-p. Equal logits: the lower
    /// id is the better one.
    pub(crate) fn sample(&mut self, row: &[f32], params: &SamplingParams, noise: Noise) -> u32 {
        let (best, max) = self.isa.run(Argmax(row));
        if params.temperature <= 0.0 || max == f32::NEG_INFINITY {
            return best;
        }
        let scale = Scale {
            max,
            temperature: params.temperature,
        };
        let top_k = if params.top_k == 0 {
            row.len()
        } else {
            params.top_k.min(row.len())
        };
        if top_k == row.len() && params.top_p >= 1.0 {
            return self.sample_all(row, scale, params.min_p, noise);
        }
        self.truncate(row, scale, top_k, params);
        let mass: f64 = self.best.iter().map(|c| scale.weight(c.0) as f64).sum();
        let mut left = noise.uniform() * mass;
        for &(logit, id) in &self.best {
            left -= scale.weight(logit) as f64;
            if left < 0.0 {
                return id;
            }
        }
        self.best.last().map_or(best, |last| last.1)
    }

    /// Log-probabilities of `row` and its `top` best tokens.
    pub(crate) fn logprobs(&mut self, row: &[f32], top: usize) -> RawLogprobs {
        let (_, max) = self.isa.run(Argmax(row));
        let scale = Scale {
            max,
            temperature: 1.0,
        };
        let log_sum = max + self.mass(row, scale, 0.0).ln() as f32;
        self.select(row, top);
        let top = self.best.iter().map(|&(x, id)| (id, x - log_sum));
        RawLogprobs {
            log_sum,
            top: top.collect(),
        }
    }

    /// Chooses among all tokens with at least `min_p` of the best one's probability, by walking the row.
    fn sample_all(&mut self, row: &[f32], scale: Scale, min_p: f32, noise: Noise) -> u32 {
        let mut left = noise.uniform() * self.mass(row, scale, min_p);
        let mut last = 0;
        for (part, &mass) in row.chunks(PART).zip(&self.masses) {
            if mass <= left {
                left -= mass;
                last += part.len();
                continue;
            }
            let mut chosen = last;
            for (i, &logit) in part.iter().enumerate() {
                let weight = scale.weight_above(logit, min_p) as f64;
                if weight > 0.0 {
                    chosen = last + i;
                    if left < weight {
                        break;
                    }
                    left -= weight;
                }
            }
            return chosen as u32;
        }
        // Rounding has eaten the last bit of the mass: the best token.
        self.isa.run(Argmax(row)).0
    }

    /// Leaves the tokens in `self.best` that top-k, top-p and min-p keep, best first.
    fn truncate(&mut self, row: &[f32], scale: Scale, top_k: usize, params: &SamplingParams) {
        if top_k < row.len() {
            self.select(row, top_k);
            let mass = self.best.iter().map(|c| scale.weight(c.0) as f64).sum();
            self.keep_mass(scale, params.top_p, mass);
        } else {
            let mass = self.mass(row, scale, 0.0);
            let mut count = 64;
            loop {
                self.select(row, count);
                if self.keep_mass(scale, params.top_p, mass) || count >= row.len() {
                    break;
                }
                count *= 8;
            }
        }
        let low = |c: &(f32, u32)| scale.weight(c.0) < params.min_p;
        if let Some(kept) = self.best.iter().position(low) {
            self.best.truncate(kept.max(1));
        }
    }

    /// Cuts `self.best` after the token that makes it hold `top_p` of `mass`. False: it does not hold as much.
    fn keep_mass(&mut self, scale: Scale, top_p: f32, mass: f64) -> bool {
        if top_p >= 1.0 {
            return true;
        }
        let mut sum = 0.0;
        for i in 0..self.best.len() {
            sum += scale.weight(self.best[i].0) as f64;
            if sum >= top_p as f64 * mass {
                self.best.truncate(i + 1);
                return true;
            }
        }
        false
    }

    /// The `count` best tokens of `row`, best first, in `self.best`.
    fn select(&mut self, row: &[f32], count: usize) {
        let better = |a: &(f32, u32), b: &(f32, u32)| -> Ordering {
            b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
        };
        let best = &mut self.best;
        best.clear();
        let count = count.min(row.len());
        if count == 0 {
            return;
        }
        // Anything not above the worst of the `count` best so far is out; ids ascend, so an equal one is out too.
        let mut bar = f32::NEG_INFINITY;
        let mut full = false;
        let mut start = 0;
        while let Some(at) = self.isa.run(Above {
            row,
            start,
            bar,
            full,
        }) {
            let part = &row[at..row.len().min(at + LOOK)];
            for (&x, id) in part.iter().zip(at as u32..) {
                if !full || x > bar {
                    best.push((x, id));
                }
            }
            if best.len() >= 2 * count + LOOK {
                best.select_nth_unstable_by(count - 1, better);
                best.truncate(count);
                (bar, full) = (best.last().map_or(bar, |worst| worst.0), true);
            }
            start = at + LOOK;
        }
        best.sort_unstable_by(better);
        best.truncate(count);
    }

    /// Sum of the weights of `row` that are at least `min_p`; `self.masses` has the parts.
    fn mass(&mut self, row: &[f32], scale: Scale, min_p: f32) -> f64 {
        self.masses.clear();
        self.isa.run(Masses {
            row,
            scale,
            min_p,
            out: &mut self.masses,
        });
        self.masses.iter().sum()
    }
}

/// Whether all values are finite.
struct IsFinite<'a>(&'a [f32]);

impl Vectorized for IsFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        logits::is_finite(self.0)
    }
}

/// The best token and its logit; the lowest id of equal ones.
struct Argmax<'a>(&'a [f32]);

impl Vectorized for Argmax<'_> {
    type Output = (u32, f32);

    #[inline(always)]
    fn run(self) -> (u32, f32) {
        let mut best = (0, f32::NEG_INFINITY);
        for (index, part) in self.0.chunks(PART).enumerate() {
            let max = largest(part);
            if max > best.1 {
                best = (index * PART, max);
            }
        }
        let (start, max) = best;
        let part = &self.0[start..];
        let id = start + part.iter().position(|&x| x == max).unwrap_or(0);
        (id as u32, max)
    }
}

#[inline(always)]
fn largest(part: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let sixteens = part.chunks_exact(16);
    let rest = sixteens.remainder().iter().copied();
    let rest = rest.fold(f32::NEG_INFINITY, |a, x| if x > a { x } else { a });
    for sixteen in sixteens {
        for (lane, &x) in lanes.iter_mut().zip(sixteen) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let max = lanes.into_iter();
    max.fold(rest, |a, x| if x > a { x } else { a })
}

/// Where, from `start` on, the first run of [`LOOK`] tokens with one above `bar` begins; the next run where nothing is `full`.
struct Above<'a> {
    row: &'a [f32],
    start: usize,
    bar: f32,
    full: bool,
}

impl Vectorized for Above<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run(self) -> Option<usize> {
        let rest = self.row.get(self.start..)?;
        let mut at = self.start;
        for part in rest.chunks(LOOK) {
            if !self.full || largest(part) > self.bar {
                return Some(at);
            }
            at += LOOK;
        }
        None
    }
}

/// The mass of each part of a row.
struct Masses<'a> {
    row: &'a [f32],
    scale: Scale,
    min_p: f32,
    out: &'a mut Vec<f64>,
}

impl Vectorized for Masses<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for part in self.row.chunks(PART) {
            self.out.push(self.scale.mass(part, self.min_p));
        }
    }
}

/// Logits to weights: the best token of the row has weight 1.
#[derive(Debug, Clone, Copy)]
struct Scale {
    max: f32,
    temperature: f32,
}

impl Scale {
    #[inline(always)]
    fn weight(self, logit: f32) -> f32 {
        exp((logit - self.max) / self.temperature)
    }

    #[inline(always)]
    fn weight_above(self, logit: f32, min: f32) -> f32 {
        let weight = self.weight(logit);
        if weight < min { 0.0 } else { weight }
    }

    #[inline(always)]
    fn mass(self, part: &[f32], min: f32) -> f64 {
        let mut lanes = [0.0; 8];
        let eights = part.chunks_exact(8);
        let rest = eights.remainder().iter();
        let rest: f32 = rest.map(|&x| self.weight_above(x, min)).sum();
        for eight in eights {
            for (lane, &x) in lanes.iter_mut().zip(eight) {
                *lane += self.weight_above(x, min);
            }
        }
        lanes.into_iter().map(f64::from).sum::<f64>() + f64::from(rest)
    }
}

/// e^x for x <= 0, within 2 units in the last place; 0 below -87. Only additions and multiplications, so that the compiler
/// can take many at once, and the same bits on every machine. Coefficients: Cephes `expf` (Moshier).
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let exponent = (rounded.to_bits().wrapping_sub(ROUND.to_bits())).wrapping_add(127) << 23;
    let value = y * f32::from_bits(exponent);
    if x > -87.0 { value } else { 0.0 }
}

#[cfg(test)]
mod tests;
