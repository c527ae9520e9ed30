//! Tells the program which commit it is built from: `KOMA_COMMIT`, from the environment or from git, else `unknown`; and by
//! which compiler: `KOMA_RUSTC`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=KOMA_COMMIT");
    let given = std::env::var_os("KOMA_COMMIT").and_then(|commit| commit.into_string().ok());
    let commit = given
        .filter(|commit| !commit.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=KOMA_COMMIT={commit}");
    let compiler =
        std::env::var_os("RUSTC").and_then(|path| first_line(Command::new(path).arg("--version")));
    println!(
        "cargo::rustc-env=KOMA_RUSTC={}",
        compiler.unwrap_or_else(|| "unknown".to_owned())
    );
    watch_head();
}

/// Runs this script again when HEAD moves. A path that does not exist would run it on every build.
fn watch_head() {
    let mut names = vec!["HEAD".to_owned(), "packed-refs".to_owned()];
    names.extend(git(&["symbolic-ref", "--quiet", "HEAD"]));
    for name in names {
        if let Some(path) = git(&["rev-parse", "--git-path", &name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    first_line(Command::new("git").args(arguments))
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
