//! What tests of other programs' work share: an artifact, and a place for scripts that stand in for those programs.

use crate::files::file_ref;
use crate::manifest::Manifest;
use crate::manifest::tests::sample;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// See the module. Each kind of program adds its own methods.
pub(crate) struct Bench {
    pub(crate) artifact: TempDir,
    pub(crate) tools: TempDir,
}

impl Bench {
    /// The artifact of [`sample`], changed by `change`, which gets its folder.
    pub(crate) fn with(change: impl FnOnce(&Path, &mut Manifest)) -> Self {
        let (artifact, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut manifest = sample(artifact.path(), source.path());
        change(artifact.path(), &mut manifest);
        manifest.write(artifact.path()).unwrap();
        let tools = tempfile::tempdir().unwrap();
        Self { artifact, tools }
    }

    /// A program `name` among the tools, which runs this shell script; in it HERE is the folder of tools.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let (path, here) = (self.tools.path().join(name), self.tools.path().display());
        let draft = path.with_extension("draft");
        std::fs::write(&draft, format!("#!/bin/sh\nHERE='{here}'\n{script}\n")).unwrap();
        // Another process writes the program: a test beside this one that starts a process meanwhile would hold it open, and a file
        // that is open for writing cannot be executed.
        let mut install = std::process::Command::new("install");
        let made = install.arg("-m755").args([&draft, &path]).status();
        assert!(made.unwrap().success(), "{}", path.display());
        path
    }

    /// What a program left among the tools.
    pub(crate) fn left(&self, name: &str) -> String {
        std::fs::read_to_string(self.tools.path().join(name)).unwrap()
    }
}

/// A file of an artifact: its name, what is in it.
pub(crate) fn written(folder: &Path, name: &str, content: &str) -> crate::FileRef {
    std::fs::write(folder.join(name), content).unwrap();
    file_ref(folder, name).unwrap()
}
