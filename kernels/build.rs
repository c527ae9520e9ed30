//! Device code: with the feature `cuda` and a toolkit (`CUDA_HOME`), nvcc makes one fatbin of `cuda/*.cu`; with `cuda-emu`, g++ makes
//! the stand-ins of the driver and of cuBLASLt, which hold the same sources. Without either, nothing is compiled.

use std::env::var_os;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};

/// Architectures that the fatbin has machine code for.
const ARCHITECTURES: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];
/// Those whose PTX it has, for architectures that it has no code for.
const PTX: [u32; 2] = [75, 80];

type Failure = String;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(koma_fatbin)");
    for folder in ["cuda", "emu"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    for variable in ["CUDA_HOME", "KOMA_EMU_SANITIZE"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let run = || -> Result<(), Failure> {
        let out = PathBuf::from(var_os("OUT_DIR").ok_or("no OUT_DIR")?);
        let home = var_os("CUDA_HOME").map(PathBuf::from);
        if let (Some(_), Some(home)) = (var_os("CARGO_FEATURE_CUDA"), home) {
            fatbin(&home, &out)?;
        }
        if var_os("CARGO_FEATURE_CUDA_EMU").is_some() {
            stand_ins(&out)?;
        }
        Ok(())
    };
    if let Err(failure) = run() {
        println!("cargo::error={failure}");
    }
}

/// The sources of the device, in the order of their names.
fn sources() -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir("cuda").map_err(|e| format!("cuda: {e}"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sources: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    Ok(sources)
}

fn run(command: &mut Command, needed: &str) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|e| format!("{name}: {e}; {needed}"))?;
    if output.status.success() {
        return Ok(());
    }
    // Cargo shows one line of an error.
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{name} failed: {}",
        said.trim().replace('\n', " | ")
    ))
}

/// Runs them all, as many at a time as there are processors.
fn run_all(commands: Vec<Command>, needed: &str) -> Result<(), Failure> {
    let many = available_parallelism().map_or(1, usize::from);
    let left = Mutex::new(commands.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).try_for_each(|mut command| run(&mut command, needed));
    scope(|threads| {
        let all: Vec<_> = (0..many).map(|_| threads.spawn(work)).collect();
        all.into_iter().try_for_each(|thread| {
            let done = thread.join();
            done.unwrap_or_else(|_| Err("a thread that compiles panicked".to_owned()))
        })
    })
}

/// One fatbin of each source, and the list of them.
fn fatbin(home: &Path, out: &Path) -> Result<(), Failure> {
    let (mut list, mut compilers) = (Vec::new(), Vec::new());
    for source in sources()? {
        let to = out
            .join(source.file_stem().unwrap_or_default())
            .with_extension("fatbin");
        let mut nvcc = Command::new(home.join("bin/nvcc"));
        nvcc.args(["-std=c++17", "-O3", "-fatbin", "-Icuda", "-o"]);
        nvcc.arg(&to).arg(&source);
        for sm in ARCHITECTURES {
            nvcc.arg(format!("-gencode=arch=compute_{sm},code=sm_{sm}"));
        }
        for sm in PTX {
            nvcc.arg(format!("-gencode=arch=compute_{sm},code=compute_{sm}"));
        }
        compilers.push(nvcc);
        list.push(format!("include_bytes!({:?})", to.display().to_string()));
    }
    run_all(
        compilers,
        "CUDA_HOME must name a CUDA toolkit 13.0 (scripts/cuda-toolkit installs one)",
    )?;
    std::fs::write(out.join("fatbins.rs"), format!("&[{}]", list.join(",")))
        .map_err(|e| e.to_string())?;
    println!("cargo:rustc-cfg=koma_fatbin");
    Ok(())
}

/// `libcuda.so` and `libcublasLt.so`, under the names that their users open.
fn stand_ins(out: &Path) -> Result<(), Failure> {
    let needed = "the feature `cuda-emu` is for tests and needs g++";
    let gcc = || {
        let mut gcc = Command::new("g++");
        gcc.args(["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off"]);
        gcc.args([
            "-fno-strict-aliasing",
            "-fvisibility=hidden",
            "-Icuda",
            "-Wall",
        ]);
        if let Some(which) = var_os("KOMA_EMU_SANITIZE") {
            let which = which.to_string_lossy();
            gcc.arg(format!("-fsanitize={which}"));
            gcc.args([
                "-fno-sanitize-recover=all",
                "-fno-omit-frame-pointer",
                "-g1",
            ]);
        }
        gcc
    };
    let mut driver = sources()?;
    driver.extend(["emu/emu.cpp", "emu/driver.cpp", "emu/broken.cpp"].map(PathBuf::from));
    let blas = PathBuf::from("emu/blas.cpp");
    let object = |source: &Path| {
        let name = source.file_stem().unwrap_or_default();
        out.join(name).with_extension("o")
    };
    let compile = |source: &PathBuf| {
        let mut gcc = gcc();
        gcc.args(["-c", "-x", "c++"]).arg(source);
        gcc.arg("-o").arg(object(source));
        gcc
    };
    let compilers = driver.iter().chain([&blas]).map(compile);
    run_all(compilers.collect(), needed)?;
    let link = |sources: &[PathBuf], library: &str, needs: Option<&str>| {
        let mut gcc = gcc();
        gcc.arg("-shared").arg(format!("-Wl,-soname,{library}"));
        gcc.args(sources.iter().map(|source| object(source)));
        if let Some(other) = needs {
            gcc.arg("-Wl,-rpath,$ORIGIN").arg(out.join(other));
        }
        gcc.arg("-o").arg(out.join(library));
        run(&mut gcc, needed)
    };
    link(&driver, "libcuda.so", None)?;
    // Its work is the driver's, whose stand-in lies beside it.
    link(&[blas], "libcublasLt.so", Some("libcuda.so"))?;
    println!("cargo:rustc-env=KOMA_EMU={}", out.display());
    Ok(())
}
