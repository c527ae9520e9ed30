//! `koma chat`: a conversation in the terminal, or one turn for each line of a pipe.
//!
//! Owns: the loop of turns, Ctrl-C, what is said about a turn. Must not know: how a prompt is made of messages ([`Session`]),
//! where lines come from ([`Input`]).
//!
//! Invariants: standard output holds replies and nothing else, remarks go to standard error; at a prompt no request is left
//! in the engine, but after a second Ctrl-C, which is said; nothing of a conversation is written to a file.

mod command;
mod input;
mod screen;
mod session;

use super::start;
use crate::config::ChatConfig;
use crate::output;
use anyhow::{Context, anyhow, bail};
use command::{Command, Entry};
use input::{Entered, Input};
use koma_engine::text::{TextEvent, TextStream};
use koma_engine::{FinishReason, TaskKind, Timings, Usage};
use koma_server::ServedModel;
use screen::Screen;
use session::{Session, TurnError};
use std::io::IsTerminal;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Talks until the input ends.
///
/// # Errors
/// If the model cannot be loaded or does not chat, or, without a terminal, at the first turn that fails.
pub(crate) fn chat(config: ChatConfig) -> anyhow::Result<()> {
    let model = start::single(&config.local)?;
    check(&model)?;
    let at_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut chat = Chat {
        at_terminal,
        screen: Screen::new(at_terminal, config.local.process.color),
        runtime: start::runtime()?,
        session: Session::new(model, config.system, config.sampling),
    };
    if at_terminal {
        chat.screen.remark(&format!(
            "{} /help lists the commands, Ctrl-C stops a reply, Ctrl-D ends.",
            chat.session.describe()
        ));
    }
    let mut input = Input::open(at_terminal)?;
    loop {
        match input.next()? {
            Entered::End => return Ok(()),
            Entered::Interrupted => chat.screen.remark("Ctrl-D or /exit ends."),
            Entered::Line(line) => {
                let went = chat.take(&line);
                match went {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(error) if at_terminal && !error.is::<output::Closed>() => {
                        chat.screen.remark(&format!("{error:#}"));
                    }
                    Err(error) => return Err(error).with_context(|| input.place()),
                }
            }
        }
    }
}

/// Whether the model can hold a conversation.
fn check(model: &ServedModel) -> anyhow::Result<()> {
    let name = model.name();
    if !model.serves(TaskKind::Generate) {
        let tasks = model.handle.info().tasks.iter();
        let tasks: Vec<_> = tasks.map(|task| task.name()).collect();
        let tasks = tasks.join(", ");
        bail!("the model `{name}` does not chat; it serves {tasks} (koma run)");
    }
    if model.template.is_none() {
        bail!(
            "the model `{name}` has no chat template; `koma run complete` continues a text as it is"
        );
    }
    Ok(())
}

/// A conversation and its surroundings.
struct Chat {
    at_terminal: bool,
    screen: Screen,
    runtime: Runtime,
    session: Session,
}

/// How a reply went.
struct Reply {
    text: String,
    /// None: Ctrl-C did not let it end.
    ended: Option<Ended>,
    /// Stopped by Ctrl-C.
    cancelled: bool,
}

/// What the engine says at the end of a reply.
struct Ended {
    reason: FinishReason,
    usage: Usage,
    timings: Timings,
}

impl Chat {
    /// Does what a line says. False: it says that this is the end.
    fn take(&mut self, line: &str) -> anyhow::Result<bool> {
        match command::parse(line) {
            Entry::Nothing => {}
            Entry::Message(text) => self.turn(&text)?,
            Entry::Unknown(word) => bail!(
                "there is no command /{word}; /help lists them (a message that begins with / is typed with //)"
            ),
            Entry::Command(Command::Exit) => return Ok(false),
            Entry::Command(Command::Help) => self.screen.remark(command::HELP),
            Entry::Command(Command::Reset) => {
                self.session.reset();
                self.screen.remark("a new conversation");
            }
            Entry::Command(Command::System(None)) => {
                let system = self.session.system().unwrap_or("none but the model's own");
                self.screen.remark(&format!("system prompt: {system}"));
            }
            Entry::Command(Command::System(Some(text))) => {
                self.session.set_system(text);
                self.screen
                    .remark("system prompt set, from the next turn on");
            }
            Entry::Command(Command::Stats) => self.screen.remark(&self.session.stats()),
        }
        Ok(true)
    }

    /// One message and its reply.
    fn turn(&mut self, text: &str) -> anyhow::Result<()> {
        let mut stream = self.session.begin(text).map_err(|error| match error {
            TurnError::WindowFull { .. } => anyhow!("{error}; /reset begins a new conversation"),
            error => anyhow!(error),
        })?;
        let (screen, at_terminal) = (&mut self.screen, self.at_terminal);
        let reply = self.runtime.block_on(async {
            // Only at a terminal: elsewhere Ctrl-C ends the process, as it does with any filter.
            let interrupts = at_terminal.then(|| signal(SignalKind::interrupt()));
            let mut interrupts = interrupts.transpose().context("Ctrl-C cannot be heard")?;
            follow(&mut stream, screen, interrupts.as_mut()).await
        });
        drop(stream);
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.session.end("");
                return Err(error);
            }
        };
        let remarks = remarks(&reply, self.session.window());
        self.session.end(&reply.text);
        if !remarks.is_empty() {
            self.screen.remark(&remarks);
        }
        Ok(())
    }
}

/// What there is to say about a turn that has ended: counts and times, and what became of the message and its reply.
fn remarks(reply: &Reply, window: usize) -> String {
    let mut lines = Vec::new();
    let ended = reply.ended.as_ref();
    if let Some(Ended { usage, timings, .. }) = ended.filter(|ended| ended.usage.completion > 0) {
        lines.push(measured(*usage, *timings));
    }
    let full = |ended: &Ended| ended.usage.prompt + ended.usage.completion >= window;
    match ended {
        None => lines.push("stopped at once; the engine still ends its step".to_owned()),
        Some(_) if reply.cancelled => lines.push("stopped".to_owned()),
        Some(ended) if full(ended) => lines.push(format!(
            "the model's window of {window} tokens is full; /reset begins a new conversation"
        )),
        Some(ended) if ended.reason == FinishReason::Length => {
            lines.push("cut off at --max-tokens".to_owned());
        }
        Some(_) => {}
    }
    if reply.text.is_empty() {
        lines.push("there is no reply, and the message is not part of the conversation".to_owned());
    } else if reply.cancelled {
        lines.push("what there is of the reply stays in the conversation".to_owned());
    }
    lines.join("\n")
}

/// Shows a reply as it comes, until it ends or Ctrl-C ends it. A second Ctrl-C does not even wait for the engine's step.
async fn follow(
    stream: &mut TextStream,
    screen: &mut Screen,
    mut interrupts: Option<&mut Signal>,
) -> anyhow::Result<Reply> {
    let mut text = String::new();
    let mut cancelled = false;
    let ended = loop {
        let interrupted = async {
            match &mut interrupts {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = stream.next() => event,
            _ = interrupted => {
                if std::mem::replace(&mut cancelled, true) {
                    break None;
                }
                stream.cancel();
                continue;
            }
        };
        match event {
            Some(TextEvent::Delta { text: more, .. }) => {
                screen.text(&more)?;
                text += &more;
            }
            Some(TextEvent::Finished {
                reason,
                usage,
                timings,
                ..
            }) => {
                break Some(Ended {
                    reason,
                    usage,
                    timings,
                });
            }
            Some(TextEvent::Failed(error)) => {
                screen.end_of_text()?;
                return Err(anyhow!(error));
            }
            None => bail!("the engine ended"),
        }
    };
    screen.end_of_text()?;
    Ok(Reply {
        text,
        ended,
        cancelled,
    })
}

/// Counts and times of a turn in one line.
fn measured(usage: Usage, timings: Timings) -> String {
    let Usage {
        prompt,
        cached,
        completion,
    } = usage;
    let first = (timings.queued + timings.prefill).as_secs_f64();
    let seconds = timings.decode.as_secs_f64();
    let rate = if completion > 1 && seconds > 0.0 {
        format!(", {:.1} tokens/s", (completion - 1) as f64 / seconds)
    } else {
        String::new()
    };
    format!(
        "{prompt} prompt tokens, {cached} of them cached; first token after {first:.2} s; {completion} tokens{rate}"
    )
}

#[cfg(test)]
mod tests;
