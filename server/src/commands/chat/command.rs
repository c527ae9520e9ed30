//! What a line of the conversation is: a message, or a command that begins with `/`.

/// For `/help`.
pub(super) const HELP: &str = "\
/reset          begin a new conversation (the system prompt stays)
/system TEXT    set the system prompt; /system alone shows it, /system - removes it
/stats          how full the model's window and its cache are
/help           this list
/exit           end, as Ctrl-D does
Ctrl-C stops a reply. Arrow keys edit the line and bring back earlier ones. A message that begins with / is typed with //.";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// An empty line.
    Nothing,
    /// For the model.
    Message(String),
    /// For us.
    Command(Command),
    /// For us, but there is no such command.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Reset,
    /// None: show it. Some: set it; an empty one is none.
    System(Option<String>),
    Stats,
    Exit,
}

/// What `line` is. White space around it says nothing.
pub(super) fn parse(line: &str) -> Entry {
    let line = line.trim();
    let Some(rest) = line.strip_prefix('/') else {
        return match line {
            "" => Entry::Nothing,
            text => Entry::Message(text.to_owned()),
        };
    };
    if rest.starts_with('/') {
        return Entry::Message(rest.to_owned());
    }
    let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = match (word, rest.trim()) {
        ("help" | "?", "") => Command::Help,
        ("reset", "") => Command::Reset,
        ("stats", "") => Command::Stats,
        ("exit" | "quit", "") => Command::Exit,
        ("system", "") => Command::System(None),
        ("system", "-") => Command::System(Some(String::new())),
        ("system", text) => Command::System(Some(text.to_owned())),
        _ => return Entry::Unknown(word.to_owned()),
    };
    Entry::Command(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_or_a_command() {
        let message = |text: &str| Entry::Message(text.to_owned());
        let system = |text: Option<&str>| Entry::Command(Command::System(text.map(str::to_owned)));
        let table = [
            ("", Entry::Nothing),
            (" \t", Entry::Nothing),
            (" hello ", message("hello")),
            ("a /reset", message("a /reset")),
            ("//etc/passwd", message("/etc/passwd")),
            ("/reset", Entry::Command(Command::Reset)),
            ("  /exit ", Entry::Command(Command::Exit)),
            ("/quit", Entry::Command(Command::Exit)),
            ("/help", Entry::Command(Command::Help)),
            ("/stats", Entry::Command(Command::Stats)),
            ("/system", system(None)),
            ("/system -", system(Some(""))),
            ("/system  be brief ", system(Some("be brief"))),
            ("/reset now", Entry::Unknown("reset".to_owned())),
            ("/rest", Entry::Unknown("rest".to_owned())),
            ("/", Entry::Unknown(String::new())),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for word in ["/reset", "/system", "/stats", "/help", "/exit"] {
            assert!(HELP.contains(word));
            assert!(!matches!(parse(word), Entry::Unknown(_)), "{word}");
        }
    }
}
