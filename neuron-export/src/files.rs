//! [`FileRef`]: a file by name, content and length; and writing files so that there is no half of one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// A file in a folder, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Its name in the folder. In an artifact a plain name; in a checkpoint a path below its folder, parts separated by `/`.
    pub file: String,
    /// Hexadecimal sha256 of its bytes, in small letters.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

impl FileRef {
    /// What is wrong with this reference as data, before any file is looked at; none if nothing. `nested`: whether the file may
    /// lie in a folder inside of the folder.
    pub(crate) fn fault(&self, nested: bool) -> Option<String> {
        let path = Path::new(&self.file);
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let depth = path.components().count();
        // `a//b` and `a/.` have the components of another name.
        let rebuilt: PathBuf = path.components().collect();
        let exact = rebuilt.as_os_str() == path.as_os_str() && !self.file.contains('\\');
        if !plain || !exact || depth == 0 || (depth > 1 && !nested) {
            return Some(format!(
                "`{}` is not the name of a file inside the folder",
                self.file
            ));
        }
        let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if self.sha256.len() != 64 || !self.sha256.chars().all(digit) {
            return Some(format!("`{}` is not a sha256", self.sha256));
        }
        None
    }

    /// What differs between this reference and the file in `folder`; none if nothing.
    ///
    /// # Errors
    /// The system's, if the file is there and cannot be read.
    pub(crate) fn difference(&self, folder: &Path) -> io::Result<Option<String>> {
        let path = folder.join(&self.file);
        if !path.is_file() {
            return Ok(Some("is missing".to_owned()));
        }
        let bytes = path.metadata()?.len();
        if bytes != self.bytes {
            let reason = format!("has {bytes} bytes, expected {}", self.bytes);
            return Ok(Some(reason));
        }
        let (sha256, _) = digest(&path)?;
        Ok((sha256 != self.sha256)
            .then(|| format!("has sha256 {sha256}, expected {}", self.sha256)))
    }
}

/// The reference to the file `name` in `folder`.
///
/// # Errors
/// The system's, if it cannot be read.
pub fn file_ref(folder: &Path, name: &str) -> io::Result<FileRef> {
    let (sha256, bytes) = digest(&folder.join(name))?;
    Ok(FileRef {
        file: name.to_owned(),
        sha256,
        bytes,
    })
}

/// sha256 and length of a file.
fn digest(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Hasher::default();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hash.finish()),
            n => hash.update(&block[..n]),
        }
    }
}

/// sha256 and length of what goes through.
#[derive(Default)]
pub(crate) struct Hasher {
    hash: Sha256,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Hexadecimal sha256, and the length.
    pub(crate) fn finish(self) -> (String, u64) {
        let digits = self.hash.finalize().into_iter();
        let digits = digits.flat_map(|b| [b >> 4, b & 15]);
        let hex = digits.filter_map(|d| char::from_digit(d.into(), 16));
        (hex.collect(), self.bytes)
    }
}

/// Writes the file `name` of `folder`: beside it first, then in its place, so that it is there as a whole or as it was.
///
/// # Errors
/// The system's; the old file is then as it was.
pub(crate) fn replace(folder: &Path, name: &str, contents: &[u8]) -> io::Result<()> {
    let mut beside = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)?;
    beside.write_all(contents)?;
    beside.as_file().sync_all()?;
    readable(beside.as_file())?;
    beside.persist(folder.join(name)).map_err(|e| e.error)?;
    Ok(())
}

/// Keeps whoever else asks for it out of `folder` until the result is dropped, where the file system can do that.
///
/// # Errors
/// The system's, if there is no such folder.
pub(crate) fn hold(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    match folder.lock() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => Ok(folder),
    }
}

/// Gives a temporary file the rights of an ordinary one.
#[cfg(unix)]
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_folder() {
        let sha256 = "0".repeat(64);
        let fault = |file: &str, nested| {
            let reference = FileRef {
                file: file.to_owned(),
                sha256: sha256.clone(),
                bytes: 0,
            };
            reference.fault(nested)
        };
        assert_eq!(fault("b1_s32.hlo.pb", false), None);
        assert_eq!(fault("1_Pooling/config.json", true), None);
        let outside = [
            "", ".", "..", "/a", "../a", "a/../b", "./a", "a//b", "a/", "a\\b", "1/x/..",
        ];
        for file in outside {
            assert!(fault(file, true).is_some(), "{file}");
        }
        assert!(fault("1_Pooling/config.json", false).is_some());
        for sha256 in ["", "0", &"g".repeat(64), &"A".repeat(64)] {
            let sha256 = sha256.to_owned();
            let file = "a".to_owned();
            let reference = FileRef {
                file,
                sha256,
                bytes: 0,
            };
            assert!(reference.fault(false).is_some_and(|f| f.contains("sha256")));
        }
    }

    #[test]
    fn a_file_is_known_by_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        replace(folder.path(), "a", b"abc").unwrap();
        let reference = file_ref(folder.path(), "a").unwrap();
        // The example of FIPS 180-2.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((reference.sha256.as_str(), reference.bytes), (sha256, 3));
        let difference = || reference.difference(folder.path()).unwrap();
        assert_eq!(difference(), None);
        replace(folder.path(), "a", b"abd").unwrap();
        assert!(difference().is_some_and(|d| d.contains(sha256)));
        replace(folder.path(), "a", b"abcd").unwrap();
        assert_eq!(difference().unwrap(), "has 4 bytes, expected 3");
        std::fs::remove_file(folder.path().join("a")).unwrap();
        assert_eq!(difference().unwrap(), "is missing");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
