//! [`Partial`]: a file on its way, and the journal of its parts that are there.
//!
//! Owns: the file beside the place, its lock, the check before it gets its name. Must not know: where bytes come from.
//!
//! Invariants: a file on its way belongs to the process that holds the lock on its journal, where the file system has locks;
//! a file stands under its own name only with its whole length and, where a hash is known, the right contents.

use super::kept::INCOMPLETE;
use super::transfer::Wanted;
use reqwest::header::HeaderMap;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The line of a journal that says that the hash is not of the contents.
const UNCHECKED: &str = "unchecked";

/// What a server says that the contents of a file go by.
#[derive(Debug, Clone)]
pub(super) struct Hash {
    /// What kind it is, for people.
    pub(super) name: &'static str,
    /// Hexadecimal, in small letters.
    pub(super) digits: String,
    /// The digits that the contents of a file may go by, the usual ones first.
    pub(super) of: fn(&Path) -> io::Result<Vec<String>>,
    /// Whether the headers of an answer say that the digits are not of the contents.
    pub(super) void: fn(&HeaderMap) -> bool,
}

/// See the module.
pub(super) struct Partial<'a> {
    pub(super) wanted: &'a Wanted,
    path: PathBuf,
    file: File,
    part: u64,
    there: BTreeSet<u64>,
    /// Locked.
    journal: Mutex<File>,
    journal_path: PathBuf,
    checked: AtomicBool,
}

/// Whether a file of the right length has the name.
pub(super) fn is_there(wanted: &Wanted) -> bool {
    std::fs::metadata(&wanted.path).is_ok_and(|found| found.len() == wanted.size)
}

impl<'a> Partial<'a> {
    /// Goes on with what is there if it is of the same contents, else begins. `waits` is told if another process has it
    /// and has to end first; none if that has brought the whole file.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub(super) fn open(
        wanted: &'a Wanted,
        part: u64,
        waits: &dyn Fn(),
    ) -> Result<Option<Self>, String> {
        let beside = |end: &str| {
            let mut name = wanted.path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (path, journal_path) = (beside(INCOMPLETE), beside(&format!("{INCOMPLETE}.parts")));
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut journal = locked(&journal_path, waits).map_err(failed)?;
        if is_there(wanted) {
            std::fs::remove_file(&journal_path).map_err(failed)?;
            return Ok(None);
        }
        let of = wanted.hash.as_ref().map(|hash| &hash.digits);
        let of = of.or(wanted.etag.as_ref()).map_or("", String::as_str);
        let head = format!("{} {part} {of}", wanted.size);
        let mut written = String::new();
        // What is no text is no journal.
        let _ = journal.read_to_string(&mut written);
        // A line without an end was not written whole.
        written.truncate(written.rfind('\n').map_or(0, |end| end + 1));
        let mut lines = written.lines();
        let resumed = path.is_file() && lines.next() == Some(&head);
        let lines: Vec<&str> = if resumed { lines.collect() } else { Vec::new() };
        let kept = if resumed { written.len() as u64 } else { 0 };
        journal.set_len(kept).map_err(failed)?;
        if !resumed {
            writeln!(journal, "{head}").map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(!resumed);
        let file = options.open(&path).map_err(failed)?;
        file.set_len(wanted.size).map_err(failed)?;
        Ok(Some(Self {
            wanted,
            file,
            part,
            there: lines.iter().filter_map(|line| line.parse().ok()).collect(),
            checked: AtomicBool::new(!lines.contains(&UNCHECKED)),
            journal: Mutex::new(journal),
            path,
            journal_path,
        }))
    }

    fn parts(&self) -> u64 {
        self.wanted.size.div_ceil(self.part)
    }

    /// Bytes of a part.
    pub(super) fn range(&self, part: u64) -> Range<u64> {
        let start = part * self.part;
        start..(start + self.part).min(self.wanted.size)
    }

    /// Parts that are not there, in order.
    pub(super) fn missing(&self) -> impl Iterator<Item = u64> {
        (0..self.parts()).filter(|part| !self.there.contains(part))
    }

    /// Bytes that are there.
    pub(super) fn done(&self) -> u64 {
        let parts = self.there.iter().filter(|part| **part < self.parts());
        parts
            .map(|part| self.range(*part))
            .map(|r| r.end - r.start)
            .sum()
    }

    /// Writes `bytes` at `at`.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), String> {
        self.file.write_all_at(bytes, at).map_err(|e| self.said(&e))
    }

    /// Notes that a part is there, once it is on the disk.
    pub(super) fn mark(&self, part: u64) -> Result<(), String> {
        let synced = self.file.sync_data();
        synced
            .and_then(|()| self.note(&part.to_string()))
            .map_err(|e| self.said(&e))
    }

    /// Looks at the headers of an answer with a piece of the file.
    pub(super) fn answered(&self, headers: &HeaderMap) -> Result<(), String> {
        let void = self
            .wanted
            .hash
            .as_ref()
            .is_some_and(|hash| (hash.void)(headers));
        if void && self.checked.swap(false, Relaxed) {
            return self.note(UNCHECKED).map_err(|e| self.said(&e));
        }
        Ok(())
    }

    fn note(&self, line: &str) -> io::Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.write_all(format!("{line}\n").as_bytes())
    }

    /// Checks the whole file and gives it its name.
    pub(super) fn finish(self) -> Result<(), String> {
        let named = match self.name() {
            // Where there are no locks another process may have been faster.
            Err(error) if error.kind() == ErrorKind::NotFound && is_there(self.wanted) => Ok(None),
            named => named,
        };
        let wrong = named.map_err(|e| self.said(&e))?;
        match std::fs::remove_file(&self.journal_path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.said(&error)),
            _ => wrong.map_or(Ok(()), Err),
        }
    }

    /// Gives the file its name, or removes it and says what is wrong with it.
    fn name(&self) -> io::Result<Option<String>> {
        let hash = self.wanted.hash.as_ref();
        if let Some(hash) = hash.filter(|_| self.checked.load(Relaxed)) {
            let found = (hash.of)(&self.path)?;
            if !found.contains(&hash.digits) {
                std::fs::remove_file(&self.path)?;
                let (name, found) = (hash.name, found.first().map_or("", String::as_str));
                let digits = &hash.digits;
                return Ok(Some(format!(
                    "its {name} is {found}, not {digits}; what was fetched is deleted"
                )));
            }
        }
        std::fs::rename(&self.path, &self.wanted.path)?;
        Ok(None)
    }

    fn said(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.path.display())
    }
}

/// The journal, locked: this process alone has it.
fn locked(path: &Path, waits: &dyn Fn()) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let journal = options.read(true).append(true).create(true).open(path)?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waits();
                journal.lock()?;
            }
            // A file system without locks: what is left is the check at the end.
            Err(TryLockError::Error(error)) => tracing::debug!("{}: {error}", path.display()),
        }
        // Who had it has removed it when the file was whole.
        let (ours, now) = (journal.metadata()?, std::fs::metadata(path));
        let same = |now: std::fs::Metadata| (now.dev(), now.ino()) == (ours.dev(), ours.ino());
        if now.is_ok_and(same) {
            return Ok(journal);
        }
    }
}
