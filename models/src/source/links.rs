//! Folders of links: files that lie in several places, or under names of a cache, shown as one model folder.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Makes a folder of `links` (name in it, file) below `cache`, named by what they are, if it is not there.
pub(super) fn folder_of(links: &BTreeMap<PathBuf, PathBuf>, cache: &Path) -> io::Result<PathBuf> {
    let mut hasher = Sha256::new();
    for (name, path) in links {
        for text in [name, path] {
            hasher.update(text.as_os_str().as_encoded_bytes());
            hasher.update([0]);
        }
    }
    let done = cache.join(super::hex(&hasher.finalize()));
    if done.is_dir() {
        return Ok(done);
    }
    std::fs::create_dir_all(cache)?;
    let new = tempfile::Builder::new()
        .prefix(".linking-")
        .tempdir_in(cache)?;
    for (name, path) in links {
        link(path, &new.path().join(name))?;
    }
    match std::fs::rename(new.path(), &done) {
        Err(_) if done.is_dir() => Ok(done),
        renamed => renamed.map(|()| done),
    }
}

/// Makes a link at `at` to `path`, with the folders above it; one that is there is replaced in one step.
pub(super) fn link(path: &Path, at: &Path) -> io::Result<()> {
    let parent = at.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(parent)?;
    if std::fs::read_link(at).is_ok_and(|old| old == path) {
        return Ok(());
    }
    let new = tempfile::Builder::new()
        .prefix(".link-")
        .make_in(parent, |name| std::os::unix::fs::symlink(path, name))?;
    new.into_temp_path().persist(at).map_err(|e| e.error)
}
