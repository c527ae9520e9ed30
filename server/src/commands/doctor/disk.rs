//! How fast the disk under a folder is read, past the system's cache where the file system allows that.

use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of the file that is read.
const SIZE: usize = 64 << 20;
/// Bytes of a read; with their place in memory a multiple of every disk's block.
const PIECE: usize = 4 << 20;
const ALIGN: usize = 4096;
/// A slow disk is not read to the end.
const ENOUGH: Duration = Duration::from_secs(2);

/// A reading rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Disk {
    /// Bytes a second.
    pub(super) read: f64,
    /// False: the file system does not read past the cache of the system, so the rate is that of memory.
    pub(super) direct: bool,
}

/// A file without a name, open to be written, and to be read in one or two ways.
struct Nameless {
    write: File,
    /// Past the cache, where the file system can.
    direct: Option<File>,
    read: File,
}

/// Writes a file into `folder`, or the next one above that is there, and reads it. It has no name, so that nothing is left
/// however this process ends.
pub(super) fn measure(folder: &Path) -> anyhow::Result<Disk> {
    let folder = there(folder);
    let named = || folder.display().to_string();
    let mut file = Nameless::open(folder).with_context(named)?;
    write(&mut file.write).with_context(named)?;
    if let Some(read) = file.direct.and_then(|file| time(file).ok()) {
        return Ok(Disk { read, direct: true });
    }
    let read = time(file.read).with_context(named)?;
    Ok(Disk {
        read,
        direct: false,
    })
}

/// Bytes that are free on the disk under `folder`.
pub(super) fn free(folder: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(there(folder))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The folder, or the next one above that is there.
fn there(folder: &Path) -> &Path {
    let mut above = folder.ancestors();
    above.find(|above| above.exists()).unwrap_or(Path::new("."))
}

impl Nameless {
    fn open(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(format!(".koma-doctor-{}", std::process::id()));
        let write = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let (direct, read) = (direct(&path), File::open(&path));
        std::fs::remove_file(&path)?;
        Ok(Self {
            write,
            direct,
            read: read?,
        })
    }
}

fn write(file: &mut File) -> std::io::Result<()> {
    // Not all the same: some disks do not store zeros.
    let piece: Vec<u8> = (0..PIECE).map(|i| (i * 31 % 251) as u8).collect();
    for _ in 0..SIZE / PIECE {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

/// The file, opened to be read past the cache.
#[cfg(target_os = "linux")]
fn direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    /// `O_DIRECT` of open(2).
    const DIRECT: i32 = if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
        0o200_000
    } else {
        0o40_000
    };
    OpenOptions::new()
        .read(true)
        .custom_flags(DIRECT)
        .open(path)
        .ok()
}

#[cfg(not(target_os = "linux"))]
fn direct(_: &Path) -> Option<File> {
    None
}

/// Bytes a second of reading `file`.
fn time(mut file: File) -> std::io::Result<f64> {
    let mut memory = vec![0; PIECE + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    let piece = &mut memory[start..start + PIECE];
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < ENOUGH {
        match file.read(piece)? {
            0 => break,
            n => bytes += n,
        }
    }
    Ok(bytes as f64 / started.elapsed().as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        // Not even while it is measured, when the process may be ended.
        let open = Nameless::open(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(open);
        let inner = folder.path().join("new");
        let disk = measure(&inner).unwrap();
        assert!(disk.read > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(free(&inner).unwrap() > 0);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = measure(&file).unwrap_err();
        assert!(format!("{error:#}").contains("file"), "{error:#}");
    }
}
