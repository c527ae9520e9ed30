//! [`Input`]: where lines come from: a terminal, with a prompt, editing and a history, else standard input as it is.
//!
//! Invariants: at a terminal Ctrl-C at the prompt is an [`Entered::Interrupted`] and never ends the process, elsewhere nobody
//! listens for it, and it ends the process as it does with any filter; what is typed while a reply comes is the next
//! message; the history is in memory alone.

use anyhow::Context;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Cmd, Config, Editor, KeyEvent};
use std::io::{Lines, StdinLock};

const PROMPT: &str = "> ";

/// Lines to talk with.
pub(super) struct Input {
    feed: Feed,
    /// Lines so far.
    count: usize,
}

enum Feed {
    Terminal(Box<Editor<(), MemHistory>>),
    Pipe(Lines<StdinLock<'static>>),
}

/// What came.
pub(super) enum Entered {
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

impl Input {
    /// # Errors
    /// If the terminal cannot be used.
    pub(super) fn open(at_terminal: bool) -> anyhow::Result<Self> {
        let feed = if at_terminal {
            let config = Config::builder().auto_add_history(true).build();
            let history = MemHistory::with_config(&config);
            let mut editor = Editor::with_history(config, history).context("the terminal")?;
            // What a Ctrl-D of before the prompt, during a reply, has become once the line is edited here.
            editor.bind_sequence(KeyEvent::ctrl('@'), Cmd::EndOfFile);
            Feed::Terminal(Box::new(editor))
        } else {
            Feed::Pipe(std::io::stdin().lines())
        };
        Ok(Self { feed, count: 0 })
    }

    /// Waits for the next line, at a terminal behind a prompt.
    ///
    /// # Errors
    /// If it cannot be read, or is not UTF-8.
    pub(super) fn next(&mut self) -> anyhow::Result<Entered> {
        self.count += 1;
        let place = self.place();
        match &mut self.feed {
            Feed::Terminal(editor) => match editor.readline(PROMPT) {
                Ok(line) => Ok(Entered::Line(line)),
                Err(ReadlineError::Interrupted) => Ok(Entered::Interrupted),
                Err(ReadlineError::Eof) => Ok(Entered::End),
                Err(error) => Err(error).context(place),
            },
            Feed::Pipe(lines) => match lines.next() {
                None => Ok(Entered::End),
                Some(line) => Ok(Entered::Line(line.context(place)?)),
            },
        }
    }

    /// The place of the last line, for messages.
    pub(super) fn place(&self) -> String {
        match self.feed {
            Feed::Terminal(_) => "the terminal".to_owned(),
            Feed::Pipe(_) => format!("line {} of standard input", self.count),
        }
    }
}
