//! [`Reader`]: a cursor over a file's bytes that refuses to pass the end. Little-endian.

use crate::LoadError;
use crate::error;
use std::path::Path;

/// A key is not longer than this (the format's own limit).
pub(super) const MAX_KEY: usize = 65_535;

/// A head (keys and table of tensors) is not longer than this: ten times that of a large vocabulary.
pub(super) const MAX_HEAD: usize = 1 << 27;

pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, file: &'a [u8]) -> Self {
        let bytes = &file[..file.len().min(MAX_HEAD)];
        Self { path, bytes, at: 0 }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn error(&self, reason: String) -> LoadError {
        LoadError::File {
            path: self.path.to_owned(),
            reason: error::shortened(reason),
        }
    }

    /// Why bytes can be missing.
    fn why(&self) -> String {
        if self.bytes.len() < MAX_HEAD {
            "it is cut off or damaged".to_owned()
        } else {
            format!("its head would be longer than {MAX_HEAD} bytes")
        }
    }

    /// Reads magic and version.
    pub(super) fn magic(&mut self) -> Result<(), LoadError> {
        if self.bytes.get(..4) != Some(b"GGUF") {
            return Err(self.error("not a GGUF file: its magic is not `GGUF`".to_owned()));
        }
        self.at = 4;
        match self.u32("version")? {
            2 | 3 => Ok(()),
            v @ (0x0200_0000 | 0x0300_0000) => Err(self.error(format!(
                "a big-endian GGUF file (version {}); only little-endian ones are supported",
                v >> 24
            ))),
            v => Err(self.error(format!("GGUF version {v}; supported are 2 and 3"))),
        }
    }

    /// The next `len` bytes; `what` is being read.
    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], LoadError> {
        let end = self.at.checked_add(len);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.error(format!(
                "`{what}` asks for {len} bytes at offset {}, but the file has {}: {}",
                self.at,
                self.bytes.len(),
                self.why()
            ))),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], LoadError> {
        let bytes = self.take(N, what)?;
        Ok(bytes.try_into().expect("take gives as many as asked for"))
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, LoadError> {
        self.array(what).map(|[b]: [u8; 1]| b)
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16, LoadError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, LoadError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, LoadError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Fails unless `count` items of at least `least` bytes can still follow. Called before memory for them is asked for.
    pub(super) fn fits(&self, count: u64, least: usize, what: &str) -> Result<usize, LoadError> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count.checked_mul(least).is_some_and(|need| need <= left) => Ok(count),
            _ => Err(self.error(format!(
                "`{what}`: {count} items cannot be in the {left} bytes that are left: {}",
                self.why()
            ))),
        }
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str, LoadError> {
        let len = self.u64(what)?;
        let len = self.fits(len, 1, what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|e| self.error(format!("`{what}`: not UTF-8: {e}")))
    }
}
