//! [`Split`]: what a file says of the parts that a model was split into, and how those are named.
//!
//! `NAME-00001-of-00003.gguf` and so on, as llama.cpp's `gguf-split` writes them: the first part has all keys, every part its
//! own table of tensors and the keys `split.no` (from 0), `split.count` and `split.tensors.count`.

use super::GgufMeta;
use crate::LoadError;
use std::path::{Path, PathBuf};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Parts at most: what the names have digits for.
const MAX_PARTS: usize = 99_999;
/// Keys in which parts may differ.
const OWN: [&str; 2] = [NO, "general.alignment"];

/// The place of a file among the parts of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// From 0.
    no: usize,
    count: usize,
    /// Tensors in all parts.
    pub(crate) tensors: usize,
}

impl Split {
    /// What the file says; none if it is the whole model.
    pub(crate) fn of(meta: &GgufMeta) -> Result<Option<Self>, LoadError> {
        let count = meta.find::<usize>(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(None);
        }
        if count > MAX_PARTS {
            return Err(meta.error(COUNT, format!("{count} parts, more than {MAX_PARTS}")));
        }
        let no = meta.get(NO)?;
        if no >= count {
            return Err(meta.error(NO, format!("{no} is not below the {count} parts")));
        }
        Ok(Some(Self {
            no,
            count,
            tensors: meta.get(TENSORS)?,
        }))
    }

    /// The paths of all parts, from that of the first.
    pub(crate) fn paths(self, first: &Path, meta: &GgufMeta) -> Result<Vec<PathBuf>, LoadError> {
        let stem = first.file_stem().and_then(|s| s.to_str());
        let part = |no: usize| {
            let (name, _) = stem.and_then(Self::named)?;
            let name = format!("{name}-{:05}-of-{:05}.gguf", no + 1, self.count);
            Some(first.with_file_name(name))
        };
        let (no, count) = (self.no + 1, self.count);
        if self.no > 0 {
            let begin = part(0).map_or_else(String::new, |path| format!(", {}", path.display()));
            let reason = format!("this is part {no} of {count}; give the first one{begin}");
            return Err(meta.error(NO, reason));
        }
        if part(0).is_some_and(|path| path == first) {
            return Ok((0..count).filter_map(part).collect());
        }
        Err(LoadError::File {
            path: first.to_owned(),
            reason: format!(
                "is the first of {count} parts, which are found by their names: NAME-00001-of-{count:05}.gguf and so on"
            ),
        })
    }

    /// Fails unless `meta` is that of part `no` of the model whose first part is `first`.
    pub(crate) fn check(
        self,
        first: &GgufMeta,
        no: usize,
        meta: &GgufMeta,
    ) -> Result<(), LoadError> {
        let expected = Self { no, ..self };
        match Self::of(meta)? {
            None => Err(meta.error(COUNT, format!("is missing: no part of {}", self.count))),
            Some(found) if found.no != no => Err(meta.error(
                NO,
                format!(
                    "is {}, but this is named part {} of {}",
                    found.no,
                    no + 1,
                    self.count
                ),
            )),
            Some(found) if found != expected => Err(meta.error(
                if found.count == self.count {
                    TENSORS
                } else {
                    COUNT
                },
                format!("is not that of the first part, {}", first.path().display()),
            )),
            Some(_) => {
                let mut keys = meta.keys().filter(|key| !OWN.contains(key));
                match keys.find(|key| meta.value(key) != first.value(key)) {
                    None => Ok(()),
                    Some(key) => {
                        let path = first.path().display();
                        Err(meta.error(key, format!("is not that of the first part, {path}")))
                    }
                }
            }
        }
    }

    /// `NAME` and 1 of a stem `NAME-00001-of-00003`.
    pub(crate) fn named(stem: &str) -> Option<(&str, usize)> {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (name, part) = rest.rsplit_once('-')?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        let all = digits(part) && digits(count) && !name.is_empty();
        all.then(|| Some((name, part.parse().ok()?)))?
    }
}
