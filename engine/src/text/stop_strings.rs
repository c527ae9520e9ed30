//! [`StopStrings`]: where a text ends because of what it says.
//!
//! Owns: the search and the hold-back. Must not know: tokens, the engine.
//!
//! Invariants: what is given out does not depend on how the text was cut into pieces; text is held back only while it may
//! still become a stop string; the search is linear in the text, whatever the strings (Knuth, Morris and Pratt).

use std::sync::Arc;

/// The stop strings of one continuation, and how far each of them is met. Clones share the strings and their tables:
/// each continuation has only its own progress.
#[derive(Debug, Clone)]
pub struct StopStrings {
    needles: Arc<[Needle]>,
    /// For each needle: how many of its bytes are met.
    met: Vec<usize>,
    include: bool,
    /// Text not yet given out: the longest end of the text that begins a stop string.
    held: String,
}

#[derive(Debug)]
struct Needle {
    text: String,
    /// For each length met: the next shorter length that is met at the same place.
    shorter: Vec<usize>,
}

impl StopStrings {
    /// `include`: whether a stop string itself is given out.
    pub fn new(stops: &[String], include: bool) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        let needles: Arc<[Needle]> = stops.map(|stop| Needle::new(stop)).collect();
        Self {
            met: vec![0; needles.len()],
            needles,
            include,
            held: String::new(),
        }
    }

    /// Whether a stop string itself is given out.
    pub(crate) fn include(&self) -> bool {
        self.include
    }

    /// Takes the next piece of text; appends to `out` what cannot become part of a stop string any more. Gives the stop
    /// string that ended the text: the first one to be complete, the longest of those complete at one place. One that
    /// is complete within a piece with `counts` false does not end it. After the end nothing may be pushed.
    pub fn push(&mut self, text: &str, counts: bool, out: &mut String) -> Option<String> {
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            if let Some(index) = self.step(byte).filter(|_| counts) {
                let end = before + i + 1;
                let stop = self.needles[index].text.clone();
                let given = if self.include { end } else { end - stop.len() };
                out.push_str(&self.held[..given]);
                self.held.clear();
                return Some(stop);
            }
        }
        let kept = self.met.iter().max();
        let given = self.held.len() - kept.unwrap_or(&0);
        out.push_str(&self.held[..given]);
        self.held.drain(..given);
        None
    }

    /// Ends the text: appends what was held back.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Moves every needle on by `byte`; the longest one that is complete there.
    fn step(&mut self, byte: u8) -> Option<usize> {
        let mut complete = None;
        let mut longest = 0;
        for (index, (needle, met)) in self.needles.iter().zip(&mut self.met).enumerate() {
            if needle.step(met, byte) && needle.text.len() > longest {
                longest = needle.text.len();
                complete = Some(index);
            }
        }
        complete
    }
}

impl Needle {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut shorter = vec![0; bytes.len() + 1];
        let mut met = 0;
        for end in 1..bytes.len() {
            while met > 0 && bytes[end] != bytes[met] {
                met = shorter[met];
            }
            met += usize::from(bytes[end] == bytes[met]);
            shorter[end + 1] = met;
        }
        Self {
            text: text.to_owned(),
            shorter,
        }
    }

    /// Moves `met` on by `byte`: whether the text up to and with it ends with the needle. `met` is then that of its next
    /// beginning, so that a match that does not count holds nothing back.
    fn step(&self, met: &mut usize, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while *met > 0 && bytes[*met] != byte {
            *met = self.shorter[*met];
        }
        *met += usize::from(bytes[*met] == byte);
        let complete = *met == bytes.len();
        if complete {
            *met = self.shorter[*met];
        }
        complete
    }
}

#[cfg(test)]
mod tests;
