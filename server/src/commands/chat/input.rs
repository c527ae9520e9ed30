//! [`Input`]: where lines come from: a terminal with a prompt, else standard input as it is.
//!
//! Invariant: at a terminal Ctrl-C at the prompt is an [`Entered::Interrupted`] and never ends the process; elsewhere nobody
//! listens for it, and it ends the process as it does with any filter.

use crate::output;
use anyhow::Context;
use std::io::{BufRead, Error};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};

const PROMPT: &str = "> ";

/// Lines to talk with.
pub(super) struct Input {
    /// From a thread that waits for the next one: what is typed while a reply comes is the next message.
    lines: Receiver<Result<String, Error>>,
    at_terminal: bool,
    /// Lines so far.
    count: usize,
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
    /// If there is no thread to be had.
    pub(super) fn open(at_terminal: bool) -> anyhow::Result<Self> {
        let (send, lines) = channel(1);
        let read = move || {
            for line in std::io::stdin().lock().lines() {
                // An error means that nobody wants lines any more.
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("koma-input".to_owned());
        thread.spawn(read).context("a thread for the input")?;
        Ok(Self {
            lines,
            at_terminal,
            count: 0,
        })
    }

    /// Waits for the next line, at a terminal behind a prompt.
    ///
    /// # Errors
    /// If it cannot be read, or is not UTF-8.
    pub(super) fn next(&mut self, runtime: &Runtime) -> anyhow::Result<Entered> {
        self.count += 1;
        let line = if self.at_terminal {
            output::print(PROMPT)?;
            let entered = runtime.block_on(async {
                // Anew for each prompt: a Ctrl-C that stopped a reply is none of this one's.
                let mut interrupts = signal(SignalKind::interrupt())?;
                tokio::select! {
                    line = self.lines.recv() => Ok::<_, Error>(Some(line)),
                    _ = interrupts.recv() => Ok(None),
                }
            });
            let entered = entered.context("Ctrl-C cannot be heard")?;
            // The cursor stands behind the prompt.
            if !matches!(entered, Some(Some(_))) {
                output::note("\n");
            }
            match entered {
                Some(line) => line,
                None => return Ok(Entered::Interrupted),
            }
        } else {
            self.lines.blocking_recv()
        };
        match line {
            None => Ok(Entered::End),
            Some(line) => Ok(Entered::Line(line.with_context(|| self.place())?)),
        }
    }

    /// The place of the last line, for messages.
    pub(super) fn place(&self) -> String {
        if self.at_terminal {
            "the terminal".to_owned()
        } else {
            format!("line {} of standard input", self.count)
        }
    }
}
