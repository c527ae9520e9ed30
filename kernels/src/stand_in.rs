//! [`StandIns`]: weights with values of no meaning, so that a model can be run, and its time taken, before anything is loaded.
//!
//! Invariant: a stand-in lies in memory as a weight of its shape would; however large a model is, its stand-ins take the memory
//! that was set aside for them. Where that is more than the caches hold, a forward reads from memory as it will with the
//! weights themselves.

use crate::cpu::pack::{self, Line};
use crate::memory::Zeroed;
use crate::{Error, Format, PackedWeight};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// The packed values of a weight.
#[derive(Debug)]
pub(crate) enum Values {
    /// Its own; none if it is hollow.
    Own(Zeroed<Line>),
    /// Those of a stand-in, and where there are more.
    Lent(Arc<Zeroed<Line>>, StandIns),
}

impl Deref for Values {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            Self::Own(lines) => lines,
            Self::Lent(lines, _) => lines,
        }
    }
}

/// Memory that the stand-ins of a model share.
#[derive(Debug, Clone)]
pub struct StandIns(Arc<Mutex<Pool>>);

#[derive(Debug)]
struct Pool {
    /// Bytes that may yet be taken.
    left: usize,
    /// What was taken, by the number of lines.
    taken: BTreeMap<usize, Taken>,
}

/// All of one length.
#[derive(Debug, Default)]
struct Taken {
    all: Vec<Arc<Zeroed<Line>>>,
    /// How often one was asked for.
    asked: usize,
}

impl StandIns {
    /// Stand-ins in `bytes` bytes, or a little more: each shape has one at least.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Pool {
            left: bytes,
            taken: BTreeMap::new(),
        })))
    }

    /// A weight `[rows, cols]`.
    ///
    /// # Errors
    /// As [`PackedWeight::hollow`], or [`Error::OutOfMemory`].
    pub fn weight(&self, rows: usize, cols: usize, format: Format) -> Result<PackedWeight, Error> {
        self.stand_in(PackedWeight::hollow(rows, cols, format)?)
    }

    /// The weight with values.
    pub(crate) fn stand_in(&self, hollow: PackedWeight) -> Result<PackedWeight, Error> {
        let len = hollow.bytes() / size_of::<Line>();
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = pool.take(len)?;
        Ok(hollow.with_values(Values::Lent(lines, self.clone())))
    }
}

impl Pool {
    /// `len` lines: those that nobody has any more (parts that were stacked), else new ones, else others' in turn.
    fn take(&mut self, len: usize) -> Result<Arc<Zeroed<Line>>, Error> {
        let Taken { all, asked } = self.taken.entry(len).or_default();
        *asked += 1;
        if let Some(free) = all.iter().find(|lines| Arc::strong_count(lines) == 1) {
            return Ok(Arc::clone(free));
        }
        let bytes = len * size_of::<Line>();
        if bytes > self.left && !all.is_empty() {
            return Ok(Arc::clone(&all[*asked % all.len()]));
        }
        self.left = self.left.saturating_sub(bytes);
        let lines = Arc::new(filled(len)?);
        all.push(Arc::clone(&lines));
        Ok(lines)
    }
}

/// Lines of numbers that look random and are of modest size in every format, and as scales: of both signs, and as f32, f16,
/// bf16 and e4m3 below 2.
fn filled(len: usize) -> Result<Zeroed<Line>, Error> {
    let mut lines = pack::memory(len)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for line in lines.iter_mut() {
        for part in line.0.chunks_exact_mut(8) {
            // Marsaglia's xorshift (Journal of Statistical Software 8, 14).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state & 0x8f8f_8f8f_8f8f_8f8f | 0x3030_3030_3030_3030;
            part.copy_from_slice(&bytes.to_le_bytes());
        }
    }
    Ok(lines)
}
