//! `koma man`: the manual, one page for each command, made from the flags themselves.

use crate::args::Cli;
use crate::output;
use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::fs;
use std::path::Path;

/// Prints the page of `command`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn page(command: &Command) -> anyhow::Result<()> {
    output::print_bytes(&render(command)?)
}

/// The command that `words` name, if there is one; none mean `koma` itself.
///
/// # Errors
/// The word that names none, and those that would.
pub(crate) fn find(words: &[String]) -> Result<Command, String> {
    let mut command = built();
    for word in words {
        let next = children(&command).find(|child| child.get_name() == word);
        command = next.cloned().ok_or_else(|| {
            let known: Vec<_> = children(&command).map(Command::get_name).collect();
            let of = command.get_display_name().unwrap_or("koma");
            match known.as_slice() {
                [] => format!("`{of}` has no commands, and so no `{word}`"),
                known => format!(
                    "`{of}` has no command `{word}`; it has {}",
                    known.join(", ")
                ),
            }
        })?;
    }
    Ok(command)
}

/// Writes all pages into `folder`, which is made if it is not there.
///
/// # Errors
/// If one cannot be written; it is then not there, whole or in part.
pub(crate) fn write_all(folder: &Path) -> anyhow::Result<()> {
    let place = || format!("--dir: {} cannot be written", folder.display());
    fs::create_dir_all(folder).with_context(place)?;
    let mut left = vec![built()];
    while let Some(command) = left.pop() {
        let page = render(&command)?;
        let name = command.get_display_name().unwrap_or("koma");
        let path = folder.join(format!("{name}.1"));
        let unfinished = path.with_extension("1.unfinished");
        let written = fs::write(&unfinished, page).and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            // It may not even be there.
            let _ = fs::remove_file(&unfinished);
        }
        written.with_context(place)?;
        left.extend(children(&command).cloned());
    }
    Ok(())
}

/// The command line with the full name of every command.
fn built() -> Command {
    let mut root = Cli::command();
    root.build();
    root
}

/// The commands of `command` that have a page.
fn children(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|child| !child.is_hide_set() && child.get_name() != "help")
}

fn render(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new(command.clone()).manual("Koma");
    man.render(&mut page).context("the page")?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page of a command as text, without the marks of the format.
    fn text(command: &Command) -> String {
        let page = String::from_utf8(render(command).unwrap()).unwrap();
        page.replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fR", "")
    }

    #[test]
    fn each_page_names_every_flag_argument_and_command_of_its_command() {
        let mut left = vec![built()];
        let (mut pages, mut flags) = (0, 0);
        while let Some(command) = left.pop() {
            let page = text(&command);
            let name = command.get_display_name().unwrap_or("koma").to_owned();
            for argument in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let shown = match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => argument.get_value_names().unwrap()[0].to_string(),
                };
                assert!(page.contains(&shown), "{name}: {shown} in\n{page}");
                flags += 1;
            }
            for child in children(&command) {
                let shown = format!("{name}-{}(1)", child.get_name());
                assert!(page.contains(&shown), "{name}: {shown} in\n{page}");
            }
            assert!(!page.contains("--no-such-flag"));
            pages += 1;
            left.extend(children(&command).cloned());
        }
        assert!(pages > 8 && flags > 60, "{pages} pages, {flags} flags");
    }

    #[test]
    fn a_page_is_found_by_the_words_of_its_command() {
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let name = |text| {
            find(&words(text))
                .unwrap()
                .get_display_name()
                .unwrap()
                .to_owned()
        };
        assert_eq!(name("serve"), "koma-serve");
        assert_eq!(name("bench throughput"), "koma-bench-throughput");
        let error = |text| find(&words(text)).unwrap_err();
        assert!(
            error("sever").contains("no command `sever`; it has serve"),
            "{}",
            error("sever")
        );
        assert!(
            error("serve x").contains("`koma-serve` has no commands"),
            "{}",
            error("serve x")
        );
    }

    #[test]
    fn the_folder_holds_a_page_for_each_command_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("man1");
        write_all(&inner).unwrap();
        let mut names: Vec<_> = fs::read_dir(&inner)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        for name in [
            "koma.1",
            "koma-serve.1",
            "koma-run-classify.1",
            "koma-man.1",
        ] {
            assert!(names.iter().any(|have| have == name), "{name} in {names:?}");
        }
        assert!(names.iter().all(|name| name.ends_with(".1")), "{names:?}");
        let error = write_all(&inner.join("koma.1/x")).unwrap_err();
        assert!(format!("{error:#}").contains("--dir"), "{error:#}");
    }
}
