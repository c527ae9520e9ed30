//! [`Weights`]: the tensors of a checkpoint by name, handed out in the form that kernels want, each checked and accounted for.
//!
//! Owns: safetensors and GGUF tensor data, the one memory map, conversion to the wanted precision (`matrices`), the record of what
//! was used. Must not know: what a tensor is for.
//!
//! Invariant: one copy of the weights. A tensor's bytes are mapped only while it is converted. After loading, every
//! tensor was used or is on the architecture's list of ignorable ones.

mod files;
mod gguf;
mod identity;
mod matrices;
mod quantized;
mod tensors;

use crate::gguf::GgufMeta;
use crate::{LoadError, LoadOptions, Phase};
use files::Files;
use half::{bf16, f16};
use koma_kernels::{Format, PackedWeight, StandIns};
pub(crate) use quantized::Scheme;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
pub use tensors::{Pieces, Tensors};

/// Tensors that an error names before it counts the rest.
const SHOWN: usize = 8;

/// How a file stores the values of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    /// As kernels read it.
    As(Format),
    /// 8 bytes a value.
    F64,
    /// Something no weight is made of; only for tensors that are ignored.
    Other(String),
}

impl Stored {
    /// The values in `bytes`, little-endian, of a plain type: the nearest f32. `out`: as many as there are.
    fn read(&self, bytes: &[u8], out: &mut [f32]) {
        /// Each `N` bytes as one value.
        fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
            let (values, _) = bytes.as_chunks();
            out.iter_mut()
                .zip(values)
                .for_each(|(to, v)| *to = value(*v));
        }
        match self {
            Self::F64 => each(bytes, out, |v| f64::from_le_bytes(v) as f32),
            Self::As(Format::F16) => each(bytes, out, |v| f16::from_le_bytes(v).to_f32()),
            Self::As(Format::Bf16) => each(bytes, out, |v| bf16::from_le_bytes(v).to_f32()),
            Self::As(_) | Self::Other(_) => each(bytes, out, f32::from_le_bytes),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::As(format) => format.name(),
            Self::F64 => "F64",
            Self::Other(name) => name,
        }
    }
}

/// A tensor in a file.
#[derive(Debug)]
struct Entry {
    file: usize,
    range: std::ops::Range<usize>,
    /// Outermost first.
    shape: Vec<usize>,
    stored: Stored,
    used: OnceLock<Use>,
}

/// What a tensor was used for.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// Values of the model that it holds.
    values: usize,
    /// Name of the format that they are computed with, if it is a matrix.
    format: Option<&'static str>,
}

/// How far the precision of a matrix may go down.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Precision {
    Any,
    /// No int8, no FP8.
    Fine,
}

/// The names under which a file may hold the tensor that an architecture calls by its own name, the likeliest first.
pub(crate) type Spellings = fn(&str) -> Vec<String>;

/// What the values of tensors are.
pub(crate) enum Contents {
    /// The checkpoint's.
    Own,
    /// There are none: for [`crate::outline`].
    None,
    /// Those of no meaning.
    StandIns(StandIns),
}

impl Contents {
    /// What a matrix `[rows, cols]` is if it is not the checkpoint's.
    fn instead(
        &self,
        (rows, cols): (usize, usize),
        format: Format,
    ) -> Option<Result<PackedWeight, koma_kernels::Error>> {
        match self {
            Self::Own => None,
            Self::None => Some(PackedWeight::hollow(rows, cols, format)),
            Self::StandIns(from) => Some(from.weight(rows, cols, format)),
        }
    }
}

/// The tensors of a checkpoint. See the module.
pub(crate) struct Weights {
    /// The GGUF file, or the folder of the safetensors.
    path: PathBuf,
    files: Files,
    entries: BTreeMap<String, Entry>,
    spellings: Spellings,
    /// The precision that the checkpoint's configuration names.
    named: Option<Format>,
    /// How quantized matrices are kept, if the configuration says that there are some.
    scheme: Option<Scheme>,
    options: LoadOptions,
    contents: Contents,
    done: AtomicU64,
    total: u64,
    memory: AtomicUsize,
}

impl Weights {
    /// The safetensors of a folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// [`LoadError::File`] if there are none (and why pickle files are no substitute), or a file is damaged.
    pub(crate) fn folder(folder: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        let (files, entries) = files::open_folder(folder)?;
        Ok(Self::new(folder, files, entries, options))
    }

    /// Adds the safetensors of the folder `name` inside of this one; `NAME.` goes before the names of its tensors.
    ///
    /// # Errors
    /// As [`Weights::folder`].
    pub(crate) fn add_folder(&mut self, name: &str) -> Result<(), LoadError> {
        let (files, entries) = files::open_folder(&self.path.join(name))?;
        let before = self.files.append(files);
        for (tensor, mut entry) in entries {
            entry.file += before;
            self.total += entry.range.len() as u64;
            self.entries.insert(format!("{name}.{tensor}"), entry);
        }
        Ok(())
    }

    /// The keys and tensors of a GGUF file, or of all parts of a split one whose first part it is.
    ///
    /// # Errors
    /// As [`crate::gguf::Gguf::parse`]; for parts that are missing or do not fit together.
    pub(crate) fn gguf(path: &Path, options: &LoadOptions) -> Result<(GgufMeta, Self), LoadError> {
        let (meta, files, entries) = gguf::open(path)?;
        Ok((meta, Self::new(path, files, entries, options)))
    }

    fn new(
        path: &Path,
        files: Files,
        entries: BTreeMap<String, Entry>,
        options: &LoadOptions,
    ) -> Self {
        Self {
            path: path.to_owned(),
            files,
            total: entries.values().map(|e| e.range.len() as u64).sum(),
            entries,
            spellings: |name| vec![name.to_owned()],
            named: None,
            scheme: None,
            options: options.clone(),
            contents: Contents::Own,
            done: AtomicU64::new(0),
            memory: AtomicUsize::new(0),
        }
    }

    /// Sets how the architecture's names are spelled in this checkpoint.
    pub(crate) fn spelled(&mut self, spellings: Spellings) {
        self.spellings = spellings;
    }

    /// Sets the precision that the checkpoint's configuration names: [`Dtype::Auto`] rounds wider matrices to it.
    pub(crate) fn named(&mut self, format: Option<Format>) {
        self.named = format;
    }

    /// Sets how quantized matrices are kept.
    pub(crate) fn quantized_by(&mut self, scheme: Option<Scheme>) {
        self.scheme = scheme;
    }

    /// Sets what the values of tensors are from now on; but for [`Contents::Own`] nothing of them is read.
    pub(crate) fn contain(&mut self, contents: Contents) {
        self.contents = contents;
    }

    /// Whether there is a tensor `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        (self.spellings)(name)
            .iter()
            .any(|n| self.entries.contains_key(n))
    }

    /// Rows of the tensor `name`, whose use this is not.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`].
    pub(crate) fn rows(&self, name: &str) -> Result<usize, LoadError> {
        Ok(self.find(name)?.1.shape.first().copied().unwrap_or(1))
    }

    /// Whether two tensors that are there are the same, type and shape included; where contents do not count
    /// ([`Weights::contain`]), as far as their ends tell, so that a plan reads no gigabytes.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], or [`LoadError::Io`].
    pub(crate) fn same(&self, a: &str, b: &str) -> Result<bool, LoadError> {
        let (a, b) = (self.find(a)?.1, self.find(b)?.1);
        if (&a.stored, &a.shape) != (&b.stored, &b.shape) {
            return Ok(false);
        }
        let parts = |entry: &Entry| match self.contents {
            Contents::Own => vec![entry.range.clone()],
            Contents::None | Contents::StandIns(_) => entry.ends().to_vec(),
        };
        for (of_a, of_b) in parts(a).into_iter().zip(parts(b)) {
            if *self.files.map(a.file, of_a)? != *self.files.map(b.file, of_b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The vector `name` of `len` values (norms, biases), always in f32.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let (name, entry) = self.entry(name, &[len])?;
        let values = if let Contents::Own = self.contents {
            let bytes = self.files.map(entry.file, entry.range.clone())?;
            self.values(name, &entry.stored, &bytes, &[len])?
        } else {
            // One is harmless to whoever divides by it.
            vec![1.0; len]
        };
        let used = Use {
            values: len,
            format: None,
        };
        self.account(entry, values.len() * 4, used);
        Ok(values)
    }

    /// Ends the loading: every tensor was used or matches `ignorable` (a `*` at the start or end of a pattern stands for
    /// any text).
    ///
    /// # Errors
    /// [`LoadError::UnusedTensors`].
    pub(crate) fn finish(&self, ignorable: &[&str]) -> Result<(), LoadError> {
        let unused = self.entries.iter().filter(|(_, e)| e.used.get().is_none());
        let (ignored, unknown): (Vec<_>, Vec<_>) =
            unused.map(|(name, _)| name.as_str()).partition(|name| {
                ignorable.iter().any(|pattern| matches(pattern, name)) || self.is_empty_bias(name)
            });
        if !ignored.is_empty() {
            tracing::info!(path = %self.path.display(), tensors = ?ignored, "tensors that this task does not use");
        }
        if unknown.is_empty() {
            self.report(self.total - self.done.load(Relaxed));
            return Ok(());
        }
        let (shown, rest) = unknown.split_at(unknown.len().min(SHOWN));
        let more = match rest.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let names = shown.join(", ") + &more;
        Err(LoadError::UnusedTensors {
            names,
            path: self.path.clone(),
        })
    }

    /// Bytes handed out so far, as they are held in memory.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Relaxed)
    }

    /// The file or folder, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn find(&self, name: &str) -> Result<(&str, &Entry), LoadError> {
        let names = (self.spellings)(name);
        let found = names.iter().find_map(|n| self.entries.get_key_value(n));
        match found {
            Some((name, entry)) => Ok((name, entry)),
            None => Err(LoadError::MissingTensor {
                name: names.into_iter().next().unwrap_or_else(|| name.to_owned()),
                path: self.path.clone(),
            }),
        }
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&str, &Entry), LoadError> {
        let (name, entry) = self.find(name)?;
        if entry.shape != shape {
            let reason = format!("has shape {:?}, expected {shape:?}", entry.shape);
            return Err(self.tensor_error(name, reason));
        }
        Ok((name, entry))
    }

    fn not_a_weight(&self, name: &str, stored: &Stored) -> LoadError {
        let reason = format!(
            "has type {}, which weights cannot have here (F64, F32, F16, BF16)",
            stored.name()
        );
        self.tensor_error(name, reason)
    }

    /// The values of a tensor in f32; of block formats by the kernels' own dequantization, which is bit-equal to the reference.
    fn values(
        &self,
        name: &str,
        stored: &Stored,
        bytes: &[u8],
        shape: &[usize],
    ) -> Result<Vec<f32>, LoadError> {
        match stored {
            Stored::F64 | Stored::As(Format::F32 | Format::F16 | Format::Bf16) => {
                let mut values = vec![0.0; shape.iter().product()];
                stored.read(bytes, &mut values);
                Ok(values)
            }
            Stored::As(format) => {
                let cols = shape.last().copied().unwrap_or(0);
                let rows = shape.iter().product::<usize>() / cols.max(1);
                let packed = PackedWeight::from_bytes(rows, cols, *format, bytes)
                    .map_err(|e| self.tensor_error(name, e.to_string()))?;
                let mut values = vec![0.0; rows * cols];
                for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                    packed.dequantize_row(row, out);
                }
                Ok(values)
            }
            Stored::Other(_) => Err(self.not_a_weight(name, stored)),
        }
    }

    fn account(&self, entry: &Entry, memory: usize, used: Use) {
        self.memory.fetch_add(memory, Relaxed);
        if entry.used.set(used).is_ok() {
            self.report(entry.range.len() as u64);
        }
    }

    fn report(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Relaxed) + bytes;
        self.options.report(Phase::Loading, done, self.total);
    }

    fn tensor_error(&self, name: &str, reason: String) -> LoadError {
        LoadError::Tensor {
            name: name.to_owned(),
            path: self.path.clone(),
            reason,
        }
    }
}

/// One weight of all of `each`, if they can be stacked; else they themselves.
pub(crate) fn stack_alike(
    each: Vec<PackedWeight>,
) -> Result<Vec<PackedWeight>, koma_kernels::Error> {
    if each.windows(2).all(|pair| pair[0].stacks_with(&pair[1])) {
        return PackedWeight::stack(each).map(|whole| vec![whole]);
    }
    Ok(each)
}

/// Whether `name` is what `pattern` means; `*` may stand at its start, at its end, or both.
fn matches(pattern: &str, name: &str) -> bool {
    let inner = pattern.trim_matches('*');
    match (pattern.starts_with('*'), pattern.ends_with('*')) {
        (true, true) => name.contains(inner),
        (true, false) => name.ends_with(inner),
        (false, true) => name.starts_with(inner),
        (false, false) => name == pattern,
    }
}

#[cfg(test)]
mod tests;
