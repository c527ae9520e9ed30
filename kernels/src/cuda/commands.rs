//! [`Commands`]: what a stream is asked for, kept until it is given to the device.
//!
//! Owns: launches, products, copies and fills in their order, with all that they were asked with, as one list of words. Must not
//! know: what they compute. Two lists that are equal ask for the same work on the same memory.

use super::blas::Product;
use super::gpu::Function;
use super::stream::{Arg, Grid};
use super::sums::Residual;
use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr;

/// The list. Its memory is reused.
#[derive(Debug, Default)]
pub(super) struct Commands {
    words: Vec<u64>,
    count: usize,
    /// Where the last one begins.
    last: usize,
    /// What it adds, if that is all it does.
    residual: Option<Residual>,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Launch(Launch<'a>),
    Copy { from: u64, to: u64, bytes: usize },
    Fill { at: u64, byte: u8, bytes: usize },
    Multiply(Product, cublasLtMatmulAlgo_t),
}

/// A kernel, its grid and its arguments.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) function: Function,
    pub(super) grid: Grid,
    /// Each: its bytes, then its words.
    arguments: &'a [u64],
}

/// Arguments of a kernel at most.
const MOST_ARGUMENTS: usize = 24;

const LAUNCH: u64 = 0;
const COPY: u64 = 1;
const FILL: u64 = 2;
const MULTIPLY: u64 = 3;

impl Commands {
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// All of them, for comparing.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.count = 0;
        self.residual = None;
    }

    /// All that the last command does is to add `residual`.
    pub(super) fn last_adds(&mut self, residual: Residual) {
        self.residual = Some(residual);
    }

    /// Takes the last command back, if all it does is to add to these `(rows, width)` at `to`: what it adds is the caller's to add.
    pub(super) fn take_residual(&mut self, to: u64, shape: (usize, usize)) -> Option<Residual> {
        let residual = self.residual.take_if(|last| last.is_to(to, shape))?;
        self.words.truncate(self.last);
        self.count -= 1;
        Some(residual)
    }

    /// A command of kind `kind`, whose words `write` adds.
    fn add(&mut self, kind: u64, write: impl FnOnce(&mut Vec<u64>)) {
        self.residual = None;
        let start = self.words.len();
        self.last = start;
        self.words.push(0);
        write(&mut self.words);
        let len = (self.words.len() - start) as u64;
        self.words[start] = len << 2 | kind;
        self.count += 1;
    }

    pub(super) fn launch(&mut self, function: Function, grid: Grid, arguments: &[Arg<'_>]) {
        assert!(arguments.len() <= MOST_ARGUMENTS, "arguments of a kernel");
        self.add(LAUNCH, |words| {
            words.push(function.0 as u64);
            words.extend(grid.blocks.map(|n| n as u64));
            words.extend([u64::from(grid.threads), grid.shared as u64]);
            for argument in arguments {
                let bytes = argument.bytes();
                words.push(bytes.len() as u64);
                for eight in bytes.chunks(8) {
                    let mut word = [0; 8];
                    word[..eight.len()].copy_from_slice(eight);
                    words.push(u64::from_ne_bytes(word));
                }
            }
        });
    }

    pub(super) fn copy(&mut self, from: u64, to: u64, bytes: usize) {
        self.add(COPY, |words| words.extend([from, to, bytes as u64]));
    }

    pub(super) fn fill(&mut self, at: u64, byte: u8, bytes: usize) {
        self.add(FILL, |words| {
            words.extend([at, u64::from(byte), bytes as u64]);
        });
    }

    pub(super) fn multiply(&mut self, product: &Product, algorithm: &cublasLtMatmulAlgo_t) {
        self.add(MULTIPLY, |words| {
            words.extend(product.words());
            words.extend(algorithm.data);
        });
    }

    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Command<'_>> {
        let mut rest = &self.words[..];
        std::iter::from_fn(move || {
            let (head, _) = rest.split_first()?;
            let (words, others) = rest.split_at((head >> 2) as usize);
            rest = others;
            Some(read(head & 3, &words[1..]))
        })
    }
}

/// What [`Commands::add`] wrote.
fn read(kind: u64, words: &[u64]) -> Command<'_> {
    match kind {
        LAUNCH => Command::Launch(Launch {
            function: Function(words[0] as sys::CUfunction),
            grid: Grid {
                blocks: [words[1], words[2], words[3]].map(|n| n as usize),
                threads: words[4] as u32,
                shared: words[5] as usize,
            },
            arguments: &words[6..],
        }),
        COPY => Command::Copy {
            from: words[0],
            to: words[1],
            bytes: words[2] as usize,
        },
        FILL => Command::Fill {
            at: words[0],
            byte: words[1] as u8,
            bytes: words[2] as usize,
        },
        _ => {
            let (product, data) = words.split_at(Product::WORDS);
            let mut algorithm = cublasLtMatmulAlgo_t { data: [0; 8] };
            algorithm.data.copy_from_slice(data);
            Command::Multiply(Product::read(product), algorithm)
        }
    }
}

impl Launch<'_> {
    /// Where the arguments are, as the driver asks for them.
    pub(super) fn places(&self) -> [*mut c_void; MOST_ARGUMENTS] {
        let mut places = [ptr::null_mut(); MOST_ARGUMENTS];
        let mut rest = self.arguments;
        for place in &mut places {
            let Some((bytes, words)) = rest.split_first() else {
                break;
            };
            *place = words.as_ptr().cast_mut().cast();
            rest = &words[(*bytes as usize).div_ceil(8)..];
        }
        places
    }
}
