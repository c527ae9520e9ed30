//! [`compile`]: the HLO modules of an artifact become NEFFs, by the Neuron compiler of this machine.
//!
//! Owns: the compiler's command line, what its products must look like, how they come into the artifact. Must not know: where the
//! environment says that the compiler is.
//!
//! Invariant: all buckets are compiled, or the artifact is as it was, and what others write into its manifest meanwhile stays. Names of NEFFs tell their content, so that a manifest never
//! names a file that was replaced.

use crate::files::file_ref;
use crate::manifest::{Bucket, Manifest, ManifestError, Neff as Compiled, Target, Weights};
use crate::neff::{Neff, NeffError};
use crate::process::{self, Fault, Stop, quoted};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The compiler for [`Target::Inf2`] and later.
const COMPILER: &str = "neuronx-cc";
/// The one for [`Target::Inf1`], which its maker no longer supports.
const LEGACY: &str = "neuron-cc";
/// For a compiler to say its version.
const VERSION_LIMIT: Duration = Duration::from_mins(2);

/// Which matrix products the compiler may compute in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoCast {
    /// None: as the module says.
    #[default]
    None,
    /// All.
    Matmult,
}

/// How to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileOptions {
    /// The compiler, if it is not the one on the path.
    pub compiler: Option<PathBuf>,
    /// The instances to compile for.
    pub target: Target,
    /// bf16 for matrix products.
    pub auto_cast: AutoCast,
    /// Limit for each bucket.
    pub limit: Duration,
}

/// Why an artifact was not compiled. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The artifact is refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// There is no compiler.
    #[error(
        "the compiler `{0}` is not there. Install it from the Neuron repository, on any x86-64 machine with Linux: \
         python3 -m pip install 'neuronx-cc==2.*' --extra-index-url https://pip.repos.neuron.amazonaws.com \
         (version 1, which is on PyPI, is an empty package). Then put it on the PATH, or its path in NEURON_CC"
    )]
    Missing(String),
    /// Nobody supports this target any more.
    #[error(
        "--target inf1: Inf1 instances are no longer supported by their maker, and neither is their compiler `neuron-cc`, which \
         is not on the PATH. Use --target inf2: the same modules run on inf2.xlarge"
    )]
    Inf1,
    /// The old compiler is not called for what nobody could feed.
    #[error(
        "--target inf1: the compiler `neuron-cc` is called only for modules that hold their weights; export with --weights inline"
    )]
    Inf1Separate,
    /// The compiler cannot be started.
    #[error("{program}: {error}")]
    Start {
        /// The compiler.
        program: String,
        /// The system's error.
        error: io::Error,
    },
    /// It failed, hung, or was interrupted.
    #[error("{file}: {program} {reason}")]
    Compiler {
        /// The module.
        file: String,
        /// The compiler.
        program: String,
        /// What it did, and its last lines.
        reason: String,
    },
    /// What it made is not usable.
    #[error("{file}: the compiler ended well, but {error}")]
    Product {
        /// The module.
        file: String,
        /// What is wrong.
        error: NeffError,
    },
    /// A file cannot be written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// Compiles every bucket of the artifact `folder` and writes NEFFs and manifest there. `told` is called before each bucket, with
/// its place.
///
/// # Errors
/// [`CompileError`]; the artifact is then as it was.
pub fn compile(
    folder: &Path,
    options: &CompileOptions,
    stop: &Stop,
    mut told: impl FnMut(usize, &Manifest),
) -> Result<Manifest, CompileError> {
    let manifest = Manifest::read(folder)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| CompileError::Io { path, error }
    };
    let compiler = Compiler::find(options, stop)?;
    if options.target == Target::Inf1 && manifest.numerics.weights == Weights::Separate {
        return Err(CompileError::Inf1Separate);
    }
    // The compiler runs in a folder of its own, where it leaves what it likes.
    let folder = folder.canonicalize().map_err(io(folder))?;
    let work = tempfile::Builder::new()
        .prefix(".compile-")
        .tempdir_in(&folder)
        .map_err(io(&folder))?;
    let mut made = Vec::new();
    for index in 0..manifest.buckets.len() {
        told(index, &manifest);
        let out = work.path().join(format!("{index}.neff"));
        made.push(compiler.bucket((&folder, &manifest), index, &out)?);
    }

    let placed = place(&folder, work.path(), &made);
    let named: Vec<String> = made.iter().map(|neff| neff.file.clone()).collect();
    let mut before = Vec::new();
    let updated = placed.and_then(|()| {
        let updated = manifest.update(&folder, |now| {
            before = neffs(now);
            for (bucket, neff) in now.buckets.iter_mut().zip(made) {
                bucket.neff = Some(neff);
            }
        });
        Ok(updated?)
    });
    forget(&folder, if updated.is_ok() { &before } else { &named });
    updated
}

/// Moves what was compiled in the folder `work` to its names in the artifact.
fn place(folder: &Path, work: &Path, made: &[Compiled]) -> Result<(), CompileError> {
    for (index, neff) in made.iter().enumerate() {
        let (out, path) = (work.join(format!("{index}.neff")), folder.join(&neff.file));
        let moved = File::open(&out).and_then(|file| file.sync_all());
        let moved = moved.and_then(|()| std::fs::rename(&out, &path));
        moved.map_err(|error| CompileError::Io { path, error })?;
    }
    Ok(())
}

/// Names of the NEFFs.
fn neffs(manifest: &Manifest) -> Vec<String> {
    let buckets = manifest.buckets.iter();
    let neffs = buckets.filter_map(|b| b.neff.as_ref());
    neffs.map(|neff| neff.file.clone()).collect()
}

/// Removes those of the NEFFs `names` that the manifest does not name now.
fn forget(folder: &Path, names: &[String]) {
    // Nothing is removed where it cannot be read: it may name them.
    let Ok(now) = Manifest::read_alone(folder) else {
        return;
    };
    let kept = neffs(&now);
    for name in names.iter().filter(|name| !kept.contains(name)) {
        // If it stays, it only takes room.
        let _ = std::fs::remove_file(folder.join(name));
    }
}

/// The compiler of this machine.
struct Compiler<'a> {
    program: PathBuf,
    /// `neuronx-cc 2.28.7631.0`.
    version: String,
    options: &'a CompileOptions,
    stop: &'a Stop,
}

impl<'a> Compiler<'a> {
    /// The compiler for the target; asks it for its version.
    fn find(options: &'a CompileOptions, stop: &'a Stop) -> Result<Self, CompileError> {
        let legacy = options.target == Target::Inf1;
        let name = if legacy { LEGACY } else { COMPILER };
        let given = options.compiler.as_ref();
        let is_legacy = |path: &&PathBuf| path.file_name().is_some_and(|name| name == LEGACY);
        let given = given.filter(|path| is_legacy(path) == legacy);
        let program = given.map_or_else(|| PathBuf::from(name), Clone::clone);
        // It will run in another folder. A name alone is looked for in the PATH.
        let program = match program.components().count() {
            1 => program,
            _ => std::path::absolute(&program).unwrap_or(program),
        };
        let asked = process::run(Command::new(&program).arg("--version"), VERSION_LIMIT, stop);
        let ended = asked.map_err(|fault| match fault {
            Fault::Missing if legacy => CompileError::Inf1,
            Fault::Missing => CompileError::Missing(program.display().to_string()),
            Fault::Io(error) => CompileError::Start {
                program: program.display().to_string(),
                error,
            },
            fault => CompileError::Compiler {
                file: "--version".to_owned(),
                program: program.display().to_string(),
                reason: fault.to_string(),
            },
        })?;
        if !ended.status.success() {
            return Err(CompileError::Compiler {
                file: "--version".to_owned(),
                program: program.display().to_string(),
                reason: format!("ended with {}{}", ended.status, quoted(&ended.said)),
            });
        }
        Ok(Self {
            program,
            version: format!("{name} {}", version(&ended.said)),
            options,
            stop,
        })
    }

    /// What the command line says beside the names of files.
    fn flags(&self, manifest: &Manifest, bucket: &Bucket) -> Vec<String> {
        let target = self.options.target;
        if target == Target::Inf1 {
            let config = io_config(manifest, bucket);
            return ["--framework", "XLA", "--io-config", &config]
                .map(str::to_owned)
                .into();
        }
        let cast: &[&str] = match self.options.auto_cast {
            AutoCast::None => &["none"],
            AutoCast::Matmult => &["matmult", "--auto-cast-type", "bf16"],
        };
        let before = ["--framework", "XLA", "--target", target.name()];
        let model = ["--model-type", "transformer", "--auto-cast"];
        let all = [&before[..], &model, cast, &["--optlevel", "2"]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// Compiles one bucket to the file `out`.
    fn bucket(
        &self,
        (folder, manifest): (&Path, &Manifest),
        index: usize,
        out: &Path,
    ) -> Result<Compiled, CompileError> {
        let bucket = &manifest.buckets[index];
        let file = bucket.hlo.file.clone();
        let flags = self.flags(manifest, bucket);
        let mut command = Command::new(&self.program);
        command.arg("compile").arg(folder.join(&file)).args(&flags);
        command.arg("--output").arg(out);
        if let Some(work) = out.parent() {
            command.current_dir(work);
        }
        let failed = |reason: String| CompileError::Compiler {
            file: file.clone(),
            program: self.program.display().to_string(),
            reason,
        };
        let ended = process::run(&mut command, self.options.limit, self.stop);
        let ended = ended.map_err(|fault| failed(format!("did not end: {fault}")))?;
        if !ended.status.success() {
            let reason = format!("failed with {}{}", ended.status, quoted(&ended.said));
            return Err(failed(reason));
        }
        if !out.is_file() {
            let reason = format!(
                "wrote no NEFF, though it says that it did{}",
                quoted(&ended.said)
            );
            return Err(failed(reason));
        }
        self.product((manifest, bucket), out)
    }

    /// What the manifest says of the NEFF `out`.
    fn product(
        &self,
        (manifest, bucket): (&Manifest, &Bucket),
        out: &Path,
    ) -> Result<Compiled, CompileError> {
        let wrong = |error| CompileError::Product {
            file: bucket.hlo.file.clone(),
            error,
        };
        let neff = Neff::read(out).map_err(wrong)?;
        let io = neff.io(out, manifest).map_err(wrong)?;
        let (work, name) = (out.parent(), out.file_name());
        let name = name.unwrap_or_default().to_string_lossy();
        let made = file_ref(work.unwrap_or(Path::new(".")), &name);
        let made = made.map_err(|error| CompileError::Io {
            path: out.to_owned(),
            error,
        })?;
        let (batch, seq, target) = (bucket.batch, bucket.seq, self.options.target);
        Ok(Compiled {
            file: format!(
                "b{batch}_s{seq}.{}.{}.neff",
                target.name(),
                &made.sha256[..12]
            ),
            sha256: made.sha256,
            bytes: made.bytes,
            target,
            compiler: self.version.clone(),
            flags: self.flags(manifest, bucket),
            neff_version: neff.version,
            num_tpb: neff.num_tpb,
            io,
            unverified: target == Target::Inf1,
            device_parity: None,
        })
    }
}

/// The version in what a compiler says of itself: the word behind the first `version`, else its first line.
fn version(said: &str) -> String {
    let mut words = said.split_whitespace();
    let found = words
        .by_ref()
        .find(|word| word.eq_ignore_ascii_case("version"));
    let version = found.and_then(|_| words.next());
    let line = || said.lines().next().unwrap_or("of unknown version");
    version.unwrap_or_else(line).to_owned()
}

/// What the legacy compiler is told of inputs and outputs.
fn io_config(manifest: &Manifest, bucket: &Bucket) -> String {
    let shape = serde_json::json!([[bucket.batch, bucket.seq], "int32"]);
    let inputs = manifest
        .inputs
        .iter()
        .map(|i| (i.name.name().to_owned(), shape.clone()));
    let inputs: serde_json::Map<String, serde_json::Value> = inputs.collect();
    let outputs: Vec<&str> = manifest.outputs.iter().map(|o| o.name.as_str()).collect();
    serde_json::json!({"inputs": inputs, "outputs": outputs}).to_string()
}

#[cfg(test)]
mod tests;
