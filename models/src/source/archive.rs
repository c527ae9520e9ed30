//! `model.tar.gz`, as `SageMaker` packs models, unpacked once into the cache.
//!
//! Owns: what an archive may hold and how much. Must not know: what the files mean.
//!
//! Invariant: nothing is written outside of one new folder, which gets its name, the hash of the archive, only when all of
//! it is there; memory does not grow with the archive.

use super::kept;
use crate::LoadError;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tar::EntryType;

/// The place for scripts, which are never run: it is made, but what is in it is left out.
const CODE: &str = "code";

/// Notes of hashes, in the folder for archives.
const SEEN: &str = ".seen";

/// Bytes of names and the like between two files at most.
const BETWEEN: u64 = 1 << 20;

/// What an archive may grow to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Files and folders.
    pub(super) entries: usize,
    /// Bytes of all files together.
    pub(super) bytes: u64,
}

impl Bounds {
    /// For an archive of `packed` bytes unpacked below `folder`: nine tenths of the disk's free space, but no more than 100
    /// bytes for each packed one (weights rarely shrink to a half).
    fn of(packed: u64, folder: &Path) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let packed = packed.max(1 << 20).saturating_mul(100);
        Ok(Self {
            entries: 10_000,
            bytes: (free / 10 * 9).min(packed),
        })
    }
}

/// Unpacks `archive` below the folder `cache`, if that was not done before, and gives the new folder.
///
/// # Errors
/// [`LoadError::Io`] and [`LoadError::File`], naming the archive and the entry; nothing is left behind then.
pub(super) fn unpack(
    archive: &Path,
    cache: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<PathBuf, LoadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| LoadError::Io { path, error }
    };
    let seen = Seen::of(archive, cache).map_err(failed(archive))?;
    let packed = seen.bytes;
    let done = match seen.hash() {
        Some(hash) => cache.join(hash),
        None => cache.join(super::digest(archive, Sha256::new()).map_err(failed(archive))?),
    };
    if done.is_dir() {
        seen.note(archive, cache, &done);
        return Ok(done);
    }
    std::fs::create_dir_all(cache).map_err(failed(cache))?;
    let bounds = Bounds::of(packed, cache).map_err(failed(cache))?;
    let new = tempfile::Builder::new()
        .prefix(kept::UNPACKING)
        .tempdir_in(cache)
        .map_err(failed(cache))?;
    let file = File::open(archive).map_err(failed(archive))?;
    let read = Counted {
        inner: file,
        total: packed,
        done: 0,
        progress,
    };
    extract(read, new.path(), bounds).map_err(|reason| LoadError::File {
        path: archive.to_owned(),
        reason,
    })?;
    match std::fs::rename(new.path(), &done) {
        // Another process was faster with the same archive.
        Err(_) if done.is_dir() => {}
        renamed => renamed.map_err(failed(&done))?,
    }
    seen.note(archive, cache, &done);
    Ok(done)
}

/// An archive as the file system knows it: which file it is, how long, and when it was changed. While that stays, its hash
/// is noted and need not be computed again.
struct Seen {
    bytes: u64,
    note: PathBuf,
}

impl Seen {
    fn of(archive: &Path, cache: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(archive)?;
        let times = [
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ];
        let text = format!("{} {} {} {times:?}", found.dev(), found.ino(), found.len());
        Ok(Self {
            bytes: found.len(),
            note: cache.join(SEEN).join(super::hex(&Sha256::digest(text))),
        })
    }

    fn hash(&self) -> Option<String> {
        let hash = std::fs::read_to_string(&self.note).ok()?;
        let whole = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        whole.then_some(hash)
    }

    /// Notes that it was unpacked into `done`, unless it was changed meanwhile. Where that cannot be written, it is left out.
    fn note(&self, archive: &Path, cache: &Path, done: &Path) {
        let same = Self::of(archive, cache).is_ok_and(|now| now.note == self.note);
        let (Some(hash), true) = (done.file_name(), same && !self.note.exists()) else {
            return;
        };
        if let Err(error) = super::write_whole(&self.note, hash.as_encoded_bytes()) {
            tracing::debug!("{}: {error}", self.note.display());
        }
    }
}

/// Tells how much was read.
struct Counted<'a, R> {
    inner: R,
    total: u64,
    done: u64,
    progress: &'a dyn Fn(u64, u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        (self.progress)(self.done.min(self.total), self.total);
        Ok(count)
    }
}

/// Fails when more is read than is allowed at the moment: what the tar reader keeps in memory (long names) is small then.
struct Allowed<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        let left = left.ok_or_else(|| io::Error::other("unpacks to more than is allowed"))?;
        self.left.set(left);
        Ok(count)
    }
}

/// Unpacks the gzip stream into the empty folder `into`.
///
/// # Errors
/// What is wrong with the archive, with the entry.
pub(super) fn extract(packed: impl Read, into: &Path, bounds: Bounds) -> Result<(), String> {
    let left = Rc::new(Cell::new(BETWEEN));
    let mut archive = tar::Archive::new(Allowed {
        inner: MultiGzDecoder::new(packed),
        left: Rc::clone(&left),
    });
    let mut room = bounds.bytes;
    let mut seen = HashSet::new();
    // Folders too: they cost the disk little, and packed next to nothing.
    let mut count = 0;
    let mut entries = archive.entries().map_err(|e| e.to_string())?;
    loop {
        left.set(BETWEEN);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|e| e.to_string())?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |reason: &str| format!("entry `{name}`: {reason}");
        let path = inside(&name).ok_or_else(|| refuse("leads out of the folder"))?;
        count += 1;
        if count > bounds.entries {
            return Err(refuse(&format!("is one more than {}", bounds.entries)));
        }
        let target = into.join(&path);
        let failed = |e: io::Error| refuse(&e.to_string());
        match entry.header().entry_type() {
            EntryType::Directory => std::fs::create_dir_all(&target).map_err(failed)?,
            EntryType::Regular | EntryType::Continuous => {
                if !seen.insert(path.clone()) {
                    return Err(refuse("is there twice"));
                }
                let size = entry.size();
                room = room.checked_sub(size).ok_or_else(|| {
                    refuse(&format!(
                        "unpacks to more than {} bytes in all",
                        bounds.bytes
                    ))
                })?;
                left.set(size.saturating_add(BETWEEN));
                if skipped(&path) {
                    std::fs::create_dir_all(into.join(code_folder(&path))).map_err(failed)?;
                    io::copy(&mut entry, &mut io::sink()).map_err(failed)?;
                    continue;
                }
                if let Some(parent) = target.parent() {
                    std::fs::create_dir_all(parent).map_err(failed)?;
                }
                let mut file = File::create_new(&target).map_err(failed)?;
                let written = io::copy(&mut entry, &mut file).map_err(failed)?;
                if written != size {
                    return Err(refuse(&format!("has {written} bytes, not {size}")));
                }
                // The folder gets its name only when its files are on the disk.
                file.sync_all().map_err(failed)?;
            }
            EntryType::XGlobalHeader => {}
            other => {
                return Err(refuse(&format!(
                    "is a {other:?}; only files and folders are allowed"
                )));
            }
        }
    }
    // To the end of the stream, where its checksum is.
    left.set(BETWEEN);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|e| e.to_string())?;
    Ok(())
}

/// The path of an entry within the folder; none if it leads out of it.
fn inside(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!name.contains(['\0', '\\', '\u{FFFD}'])).then_some(path)
}

/// What lies in a folder for scripts, and the files that macOS adds (`._name`).
fn skipped(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("._") || code_folder(path) != Path::new("")
}

/// The folder for scripts that `path` lies in; empty if none.
fn code_folder(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new(""));
    let mut folder = PathBuf::new();
    for part in parent {
        folder.push(part);
        if part == CODE {
            return folder;
        }
    }
    PathBuf::new()
}
