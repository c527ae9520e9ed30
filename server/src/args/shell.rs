//! Flags of `koma completions` and `koma man`.

use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  bash, for this user:
    koma completions bash > ~/.local/share/bash-completion/completions/koma
  zsh, in a folder of $fpath:
    koma completions zsh > ~/.zfunc/_koma
  fish:
    koma completions fish > ~/.config/fish/completions/koma.fish";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  koma man | man -l -
  koma man bench throughput | man -l -
  koma man --dir /usr/local/share/man/man1";

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The command whose page is printed, such as `bench throughput`; without one, the page of koma itself
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub(crate) command: Vec<String>,
    /// Write all pages into this folder, one for each command
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
