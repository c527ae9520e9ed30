//! [`Folder`]: a folder that is filled beside its place and takes it at the end.

use super::{ExportError, WriteError};
use crate::Stop;
use crate::files::{FileRef, Hasher};
use crate::hlo::lint::{Facts, lint};
use crate::manifest::{self, ManifestError};
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Opens a file for writing.
pub type Open<'a> = dyn Fn(&Path) -> io::Result<Box<dyn Write>> + 'a;

/// Bytes that are written at once.
const BLOCK: usize = 1 << 20;

/// A new file of the file system, which is on the disk when it is flushed.
pub(super) fn create(path: &Path) -> io::Result<Box<dyn Write>> {
    let file = File::create_new(path)?;
    Ok(Box::new(OnDisk(BufWriter::with_capacity(BLOCK, file))))
}

struct OnDisk(BufWriter<File>);

impl Write for OnDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}

/// See the module. Dropped without [`Folder::finish`], nothing of it is left.
pub struct Folder<'a> {
    /// Where it shall be.
    out: PathBuf,
    /// Where it is.
    beside: TempDir,
    /// Whether what is there may be replaced.
    force: bool,
    open: &'a Open<'a>,
    stop: &'a Stop,
    /// Bytes written to all files.
    written: Cell<u64>,
}

impl<'a> Folder<'a> {
    /// Begins the folder `out`, whose parent must be there.
    ///
    /// # Errors
    /// [`ExportError::Folder`] if it is there, unless it may be replaced (`force`) and is an artifact or empty.
    pub(super) fn new(
        out: &Path,
        force: bool,
        (open, stop): (&'a Open<'a>, &'a Stop),
    ) -> Result<Self, ExportError> {
        let Some(name) = out.file_name() else {
            return Err(refused(out, "is not the name of a folder"));
        };
        may_take(out, force)?;
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".new-");
        let beside = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent(out));
        Ok(Self {
            out: out.to_owned(),
            beside: beside.map_err(|error| ExportError::Io {
                path: out.to_owned(),
                error,
            })?,
            force,
            open,
            stop,
            written: Cell::new(0),
        })
    }

    /// Where it is being filled.
    pub fn path(&self) -> &Path {
        self.beside.path()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// An error of the manifest with the path where the manifest shall be.
    pub(super) fn shown(&self, error: ManifestError) -> ExportError {
        match error {
            ManifestError::Io { error, .. } => self.io(manifest::FILE, error),
            other => other.into(),
        }
    }

    fn io(&self, name: &str, error: io::Error) -> ExportError {
        ExportError::Io {
            path: self.out.join(name),
            error,
        }
    }

    /// Writes the file `name` with what `fill` writes.
    ///
    /// # Errors
    /// [`ExportError::Io`] that names it, or what reading the checkpoint says.
    pub fn file(
        &self,
        name: &str,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), WriteError>,
    ) -> Result<FileRef, ExportError> {
        let mut through = Through {
            out: (self.open)(&self.path().join(name)).map_err(|e| self.io(name, e))?,
            hasher: Hasher::default(),
            written: &self.written,
            stop: self.stop,
        };
        let filled = fill(&mut through).and_then(|()| through.out.flush().map_err(WriteError::Io));
        match filled {
            Ok(()) => {}
            Err(_) if self.stop.stopped() => return Err(ExportError::Stopped(self.out.clone())),
            Err(WriteError::Io(error)) => return Err(self.io(name, error)),
            Err(WriteError::Load(error)) => return Err(error.into()),
        }
        let (sha256, bytes) = through.hasher.finish();
        Ok(FileRef {
            file: name.to_owned(),
            sha256,
            bytes,
        })
    }

    /// Checks the module `name`.
    pub(super) fn lint(&self, name: &str) -> Result<Facts, ExportError> {
        let file = File::open(self.path().join(name)).map_err(|e| self.io(name, e))?;
        lint(BufReader::new(file)).map_err(|error| ExportError::Lint {
            file: name.to_owned(),
            error,
        })
    }

    /// Puts the folder in its place.
    pub(super) fn finish(self) -> Result<(), ExportError> {
        let failed = |error| ExportError::Io {
            path: self.out.clone(),
            error,
        };
        public(self.beside.path()).map_err(failed)?;
        // Somebody else may have been there meanwhile.
        may_take(&self.out, self.force)?;
        let mut old = None;
        if fs::symlink_metadata(&self.out).is_ok() {
            let aside = tempfile::Builder::new()
                .prefix(".old-")
                .tempdir_in(parent(&self.out))
                .map_err(failed)?;
            fs::rename(&self.out, aside.path().join("artifact")).map_err(failed)?;
            old = Some(aside);
        }
        let Err(error) = fs::rename(self.beside.path(), &self.out) else {
            return Ok(());
        };
        // What was there comes back; if even that fails, it is kept where it is.
        if let Some(old) = old
            && fs::rename(old.path().join("artifact"), &self.out).is_err()
        {
            let kept = old.keep();
            let reason = format!("{error}; what was there is in {}", kept.display());
            let path = self.out;
            return Err(ExportError::Folder { path, reason });
        }
        Err(failed(error))
    }
}

fn refused(out: &Path, reason: &str) -> ExportError {
    ExportError::Folder {
        path: out.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Whether an artifact may be put at `out`: nothing is there, or what may be replaced.
fn may_take(out: &Path, force: bool) -> Result<(), ExportError> {
    if fs::symlink_metadata(out).is_err() {
        return Ok(());
    }
    if !force {
        return Err(refused(out, "is there already; --force replaces it"));
    }
    let artifact = out.join(manifest::FILE).is_file();
    let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if !artifact && !empty {
        return Err(refused(out, "is no export, so it is not replaced"));
    }
    Ok(())
}

/// The folder that `path` is in.
fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Gives a temporary folder the rights of an ordinary one.
#[cfg(unix)]
fn public(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn public(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Hashes and counts what goes to a file.
struct Through<'a> {
    out: Box<dyn Write>,
    hasher: Hasher,
    written: &'a Cell<u64>,
    stop: &'a Stop,
}

impl Write for Through<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.stopped() {
            // Not `Interrupted`, which is tried again.
            return Err(io::Error::other("interrupted"));
        }
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.written.set(self.written.get() + count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
