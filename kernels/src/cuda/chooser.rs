//! [`Chooser`]: tokens chosen where the logits are, so that ids come back and not rows of logits.
//!
//! Owns: what is asked of the rows of a step, and the answers. Must not know: requests. What a choice is, and that it is the one
//! that the processor would make, is told in `cuda/sampling.cu`.

use super::stream::{Grid, Plain, Stream, launch};
use crate::{Cx, Error, Rows};
use std::sync::Arc;

/// Best tokens of a row that can be told.
const MOST_TOPS: usize = 20;
/// Tokens that are summed at once.
const PART: usize = 512;
/// Threads of a block.
const THREADS: u32 = 512;

/// How a token is chosen of a row: temperature first, then the truncations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// From 0 to below 1: the noise.
    pub uniform: f64,
    /// 0: the best token.
    pub temperature: f32,
    /// Best tokens that may be chosen; 0 is all.
    pub top_k: usize,
    /// Of the best tokens as many as hold this share; 1 is all.
    pub top_p: f32,
    /// Tokens of at least this share of the best one's probability.
    pub min_p: f32,
}

impl Choice {
    /// The best token, whatever the noise.
    pub const BEST: Self = Self {
        uniform: 0.0,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
}

/// What a request thinks of tokens that came before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides logits above 0 of tokens in prompt or output, and multiplies the others; 1: nothing.
    pub repetition: f32,
    /// Off the logit for each time that the token is in the output.
    pub frequency: f32,
    /// Off the logit of what is in the output.
    pub presence: f32,
}

/// What is known of one token whose logit may change.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Change {
    /// The token; the row may lack it.
    pub id: u32,
    /// Added before the penalties.
    pub bias: f32,
    /// 1 if it is in prompt or output, else 0.
    pub seen: u32,
    /// Times in the output.
    pub count: u32,
}
// SAFETY: four numbers of 4 bytes.
unsafe impl Plain for Change {}

/// `RowTask` in `cuda/sampling.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawRow {
    row: u32,
    tops: i32,
    mask: i32,
    first_change: i32,
    changes: i32,
    penalties: Penalties,
}
// SAFETY: eight numbers of 4 bytes.
unsafe impl Plain for RawRow {}

/// `Choice` in `cuda/sampling.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawChoice {
    uniform: f64,
    row: u32,
    top_k: i32,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    unused: f32,
}
// SAFETY: 8 bytes, then six numbers of 4.
unsafe impl Plain for RawChoice {}

/// Words of an answer about a row, of a choice, and of the best tokens of a row and their logits.
const FACTS: usize = 4;
const CHOSEN: usize = 3;

/// What is asked of the rows of a step, and the answers. Rows are told one after another, and with each what is asked of it. Its
/// memory is reused.
#[derive(Debug, Default)]
pub struct Chooser {
    rows: Vec<RawRow>,
    /// Bits of the rows that have a mask, as many words for each.
    masks: Vec<u32>,
    changes: Vec<Change>,
    /// Rows and ids in them.
    taken: Vec<u32>,
    choices: Vec<RawChoice>,
    /// For each row its facts, for each choice what was chosen, for each row its best tokens, then their logits, then the logits of
    /// changed tokens before that.
    answers: Vec<u32>,
    vocab: usize,
}

impl Chooser {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.masks.clear();
        self.changes.clear();
        self.taken.clear();
        self.choices.clear();
        self.answers.clear();
    }

    /// Goes on with the next row of the logits; with `logprobs`, what log-probabilities need and that many of its best tokens are
    /// told, as they are before any is taken away.
    ///
    /// # Panics
    /// If that is more than 20.
    pub fn row(&mut self, logprobs: Option<usize>) {
        let tops = logprobs.map_or(-1, |tops| {
            assert!(tops <= MOST_TOPS, "{tops} best tokens of a row");
            tops as i32
        });
        self.rows.push(RawRow {
            row: self.rows.len() as u32,
            tops,
            mask: -1,
            first_change: 0,
            changes: 0,
            penalties: Penalties {
                repetition: 1.0,
                frequency: 0.0,
                presence: 0.0,
            },
        });
    }

    /// Only tokens with a bit in `mask` may come of the row: the lowest bit of the first word is that of token 0, and tokens beyond
    /// the last word may not come. Masks come before all other edits.
    ///
    /// # Panics
    /// If no row was told, or masks of one step differ in length.
    pub fn allow(&mut self, mask: &[u32]) {
        let masks = self.masks.len().checked_div(mask.len()).unwrap_or(0);
        self.masks.extend_from_slice(mask);
        assert_eq!((masks + 1) * mask.len(), self.masks.len(), "masks differ");
        let row = self.rows.last_mut().expect("a row");
        row.mask = masks as i32;
    }

    /// Changes logits of the row: a bias first, then penalties (repetition, frequency, presence). The ids of `changes` ascend, each at most once.
    ///
    /// # Panics
    /// If no row was told.
    pub fn change(&mut self, penalties: Penalties, changes: impl Iterator<Item = Change>) {
        let first = self.changes.len();
        self.changes.extend(changes);
        debug_assert!(self.changes[first..].is_sorted_by(|a, b| a.id < b.id));
        let row = self.rows.last_mut().expect("a row");
        (row.first_change, row.penalties) = (first as i32, penalties);
        row.changes = (self.changes.len() - first) as i32;
    }

    /// Takes a token of the row away, if the row has it.
    pub fn take_away(&mut self, id: u32) {
        let row = self.rows.len() as u32 - 1;
        self.taken.extend([row, id]);
    }

    /// Chooses a token of the row.
    pub fn choose(&mut self, choice: Choice) {
        self.choices.push(RawChoice {
            uniform: choice.uniform,
            row: self.rows.len() as u32 - 1,
            top_k: i32::try_from(choice.top_k).unwrap_or(i32::MAX),
            temperature: choice.temperature,
            top_p: choice.top_p,
            min_p: choice.min_p,
            unused: 0.0,
        });
    }

    /// Asks the device of `cx`, which is given all that it was asked for in this step; [`Chooser::wait`] has the answers. Afterwards
    /// `logits` (`[rows, vocab]`) are edited.
    ///
    /// # Errors
    /// [`Error::Device`], with whatever failed before it in this step.
    ///
    /// # Panics
    /// If `cx` has no device, the logits are not as many rows as were told, or there is no token.
    #[track_caller]
    pub fn ask(&mut self, cx: &Cx, logits: &mut Rows) -> Result<(), Error> {
        let Some(stream) = cx.stream() else {
            panic!("a chooser without a device");
        };
        assert_eq!(self.rows.len(), logits.rows(), "choose: rows");
        assert!(
            logits.width() > 0 || self.rows.is_empty(),
            "choose: no token"
        );
        self.answers.clear();
        self.vocab = logits.width();
        if !self.rows.is_empty() {
            stream.attempt(|| self.launch(stream, logits));
        }
        cx.check()
    }

    /// Waits for the answers to what was asked last.
    ///
    /// # Errors
    /// [`Error::Device`], with whatever failed in this step.
    pub fn wait(&mut self, cx: &Cx) -> Result<(), Error> {
        if let Some(stream) = cx.stream() {
            stream.attempt(|| stream.fetched(&mut self.answers));
        }
        cx.check()
    }

    fn launch(&mut self, stream: &Arc<Stream>, logits: &mut Rows) -> Result<(), Error> {
        let (rows, choices) = (self.rows.len(), self.choices.len());
        let vocab = logits.width();
        let tasks = stream.input("rows to choose from", &self.rows)?;
        let asked = stream.input("choices", &self.choices)?;
        let words = FACTS * rows + CHOSEN * choices + 2 * MOST_TOPS * rows + self.changes.len();
        let answers = stream.take(4 * words)?;
        let masses = stream.take(8 * rows.max(choices) * vocab.div_ceil(PART))?;
        let facts = answers.at();
        let chosen = facts + 4 * (FACTS * rows) as u64;
        let tops = chosen + 4 * (CHOSEN * choices) as u64;
        let of_tops = tops + 4 * (MOST_TOPS * rows) as u64;
        let before = of_tops + 4 * (MOST_TOPS * rows) as u64;
        let n = vocab as i32;
        let x = logits.on(stream)?;
        let (each_row, each) = (Grid::of(rows, THREADS), Grid::of(choices, THREADS));
        launch!(stream, "look_at_rows", each_row; x, n, tasks, masses.at(), facts, tops, of_tops)?;
        let changes = stream.input("changes of logits", &self.changes)?;
        if !self.changes.is_empty() || !self.masks.is_empty() {
            let masks = stream.input("allowed tokens", &self.masks)?;
            let masked = self.rows.iter().filter(|row| row.mask >= 0).count();
            let words = (self.masks.len() / masked.max(1)) as i32;
            let x = logits.change_on(stream)?;
            let each_row = Grid::of(rows, 256);
            launch!(stream, "edit_rows", each_row; x, n, tasks, masks, words, changes, before)?;
        }
        if !self.taken.is_empty() {
            let taken = stream.input("tokens taken away", &self.taken)?;
            let count = self.taken.len() / 2;
            let x = logits.change_on(stream)?;
            let grid = Grid::of(count.div_ceil(256), 256);
            launch!(stream, "take_tokens_away", grid; x, n, taken, count as i32)?;
        }
        launch!(stream, "choose_tokens", each; x, n, tasks, facts, asked, masses.at(), changes, before, chosen)?;
        self.answers.resize(words, 0);
        stream.fetch(answers.at(), 4 * words)
    }

    /// The logit of a changed token of row `row` before that; none if it was not changed.
    pub fn before(&self, row: usize, id: u32) -> Option<f32> {
        let (rows, choices) = (self.rows.len(), self.choices.len());
        let row = &self.rows[row];
        let (first, count) = (row.first_change as usize, row.changes as usize);
        let changes = &self.changes[first..first + count];
        let at = changes.binary_search_by_key(&id, |change| change.id).ok()?;
        let start = FACTS * rows + CHOSEN * choices + 2 * MOST_TOPS * rows;
        let bits = self.answers.get(start + first + at)?;
        Some(f32::from_bits(*bits))
    }

    /// The words of what was answered from `start` on.
    fn words<const N: usize>(&self, start: usize) -> [u32; N] {
        std::array::from_fn(|i| self.answers[start + i])
    }

    /// Whether all values of row `row` are finite; if not, nothing else is known of it.
    pub fn is_finite(&self, row: usize) -> bool {
        self.words::<FACTS>(FACTS * row)[3] != 0
    }

    /// The logarithm of the sum of the exponentials of row `row`, and its best tokens with their logits, best first; for rows that
    /// were told with log-probabilities.
    pub fn logprobs(&self, row: usize) -> (f32, impl Iterator<Item = (u32, f32)> + '_) {
        let [low, high, max, _] = self.words::<FACTS>(FACTS * row);
        let mass = f64::from_bits(u64::from(high) << 32 | u64::from(low));
        let log_sum = f32::from_bits(max) + mass.ln() as f32;
        let tops = usize::try_from(self.rows[row].tops).unwrap_or(0);
        let first = FACTS * self.rows.len() + CHOSEN * self.choices.len() + MOST_TOPS * row;
        let logits = first + MOST_TOPS * self.rows.len();
        let top = move |i| {
            (
                self.answers[first + i],
                f32::from_bits(self.answers[logits + i]),
            )
        };
        (log_sum, (0..tops.min(self.vocab)).map(top))
    }

    /// The token of choice `choice` and its logit before edits, which is -inf if they left no token; none if its row is not finite, or where
    /// so many tokens may be chosen that the processor has to do it.
    pub fn chosen(&self, choice: usize) -> Option<(u32, f32)> {
        let at = FACTS * self.rows.len() + CHOSEN * choice;
        let [id, state, logit] = self.words::<CHOSEN>(at);
        (state == 0).then_some((id, f32::from_bits(logit)))
    }

    /// Whether the processor has to choose some.
    pub fn leaves_some(&self) -> bool {
        let first = FACTS * self.rows.len();
        (0..self.choices.len()).any(|i| self.answers[first + CHOSEN * i + 1] == 2)
    }
}
