//! Runs another program to its end: its output is kept, its time is limited, and nothing of it is left running.
//!
//! Must not know: which program. Invariant: when [`run`] returns, the program and what it started in its process group have
//! ended, or were killed.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Of what a program says, this much is kept: the end.
const KEPT: usize = 1 << 20;
/// For what a killed program, or one that ended, has not yet said.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Lets another thread end what [`run`] runs: for interrupts from a terminal, which do not reach it.
#[derive(Debug, Default)]
pub struct Stop(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    running: Option<Sender<Event>>,
}

impl Stop {
    /// Ends the program that runs, and every one that is started with this from now on.
    pub fn stop(&self) {
        let mut state = lock(&self.0);
        state.stopped = true;
        if let Some(running) = state.running.take() {
            // Nobody listens if it has just ended.
            let _ = running.send(Event::Stop);
        }
    }

    /// Whether [`Stop::stop`] was called.
    pub fn stopped(&self) -> bool {
        lock(&self.0).stopped
    }

    /// Whether it may run; `events` will be told to stop.
    fn begin(&self, events: Sender<Event>) -> bool {
        let mut state = lock(&self.0);
        state.running = Some(events);
        !state.stopped
    }
}

#[derive(Debug)]
enum Event {
    Exited(io::Result<ExitStatus>),
    /// One of the two outputs came to its end.
    Closed,
    Stop,
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The last lines of both outputs.
    pub(crate) said: String,
}

/// Why a program did not come to its own end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// There is no such program.
    #[error("there is no such program")]
    Missing,
    /// The system's error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The limit of time passed; the last lines of both outputs.
    #[error("it was ended after {} s{}", limit.as_secs(), quoted(said))]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// The last lines.
        said: String,
    },
    /// [`Stop::stop`].
    #[error("it was interrupted")]
    Stopped,
}

/// Lines for the end of a message.
pub(crate) fn quoted(said: &str) -> String {
    match said {
        "" => ", without a word".to_owned(),
        said => format!("; its last lines:\n{said}"),
    }
}

/// Runs `command` without input, for at most `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration, stop: &Stop) -> Result<Ended, Fault> {
    let (events, told) = mpsc::channel();
    if !stop.begin(events.clone()) {
        return Err(Fault::Stopped);
    }
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, to end all of it: compilers start programs that start programs.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Io(error),
    })?;
    let group = child.id();
    let output = Output::default();
    let mut open = 0;
    if let Some(stdout) = child.stdout.take() {
        output.follow(stdout, true, events.clone());
        open += 1;
    }
    if let Some(stderr) = child.stderr.take() {
        output.follow(stderr, false, events.clone());
        open += 1;
    }
    std::thread::spawn(move || {
        // Nobody listens if the program was given up.
        let _ = events.send(Event::Exited(child.wait()));
    });

    let (mut until, mut exited, mut fault) = (Instant::now() + limit, None, None);
    while exited.is_none() || open > 0 {
        match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Exited(status)) => {
                exited = Some(status);
                until = until.min(Instant::now() + LAST_WORDS);
            }
            Ok(Event::Closed) => open -= 1,
            // What holds an output open after the program's end is killed as well, and not waited for.
            Err(_) if exited.is_some() => break,
            Ok(Event::Stop) | Err(RecvTimeoutError::Timeout) if fault.is_some() => break,
            Ok(Event::Stop) => fault = Some(true),
            Err(_) => fault = Some(false),
        }
        if fault.is_some() && exited.is_none() {
            kill(group);
            until = Instant::now() + LAST_WORDS;
        }
    }
    // What it left running in its group has no terminal and nobody who waits for it.
    kill(group);
    let said = output.last_lines();
    match (fault, exited) {
        (Some(true), _) => Err(Fault::Stopped),
        (None, Some(status)) => Ok(Ended {
            status: status?,
            stdout: std::mem::take(&mut lock(&output.0).stdout),
            said,
        }),
        _ => Err(Fault::TimedOut { limit, said }),
    }
}

/// Kills all programs of a group. The standard library can end one process alone; every POSIX shell can signal a group.
fn kill(group: u32) {
    let all = format!("kill -KILL -{group}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &all]);
    shell.stdin(Stdio::null()).stdout(Stdio::null());
    // If it fails, nothing was left to kill.
    let _ = shell.stderr(Stdio::null()).status();
}

/// What was said so far.
#[derive(Debug, Default, Clone)]
struct Output(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    stdout: Vec<u8>,
    /// Of both outputs, as it came.
    both: Vec<u8>,
}

impl Output {
    /// Reads `pipe` to its end in a thread.
    fn follow(&self, mut pipe: impl Read + Send + 'static, stdout: bool, events: Sender<Event>) {
        let output = self.clone();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut block) {
                let mut said = lock(&output.0);
                keep(&mut said.both, &block[..n]);
                if stdout {
                    keep(&mut said.stdout, &block[..n]);
                }
            }
            // Nobody listens if the program was given up.
            let _ = events.send(Event::Closed);
        });
    }

    fn last_lines(&self) -> String {
        const LINES: usize = 20;
        let said = lock(&self.0);
        let text = String::from_utf8_lossy(&said.both);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        last.join("\n")
    }
}

/// Appends, and forgets the beginning of what is too long.
fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    if kept.len() > 2 * KEPT {
        kept.drain(..kept.len() - KEPT);
    }
}

/// A lock whose holder panicked still holds whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any of these programs takes.
    const LONG: Duration = Duration::from_mins(2);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_ends_with_its_status_and_its_words() {
        let ended = run(
            &mut sh("echo out; echo err >&2; exit 3"),
            LONG,
            &Stop::default(),
        );
        let ended = ended.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.stdout, b"out\n");
        let mut lines: Vec<&str> = ended.said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err", "out"]);
        let missing = run(
            &mut Command::new("no-such-program-9c1"),
            LONG,
            &Stop::default(),
        );
        assert!(matches!(missing, Err(Fault::Missing)), "{missing:?}");
    }

    /// The program ends at once, and leaves a child that holds neither of its outputs.
    #[test]
    fn what_a_program_left_running_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let read = {
            let fifo = fifo.clone();
            std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap())
        };
        let script = format!(
            "exec 9>{0}; (sleep 30; echo survived >&9) >/dev/null 2>&1 &",
            fifo.display()
        );
        let ended = run(&mut sh(&script), LONG, &Stop::default()).unwrap();
        assert!(ended.status.success());
        assert_eq!(read.join().unwrap(), "", "it was ended");
    }

    /// The program waits for a child of its own: both hold the outputs open, so that this ends only if both are killed.
    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        let hangs = "echo begun; sleep 1000 & wait";
        let fault = run(&mut sh(hangs), Duration::from_millis(300), &Stop::default());
        match fault {
            Err(Fault::TimedOut { said, .. }) => assert_eq!(said, "begun"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_program_leaves_running_is_not_waited_for() {
        let ended = run(&mut sh("sleep 1000 & exit 0"), LONG, &Stop::default()).unwrap();
        assert!(ended.status.success());
    }

    #[test]
    fn a_program_is_ended_when_somebody_says_so() {
        let stop = Arc::new(Stop::default());
        let (other, (says, heard)) = (Arc::clone(&stop), mpsc::channel());
        let thread = std::thread::spawn(move || {
            let _ = heard.recv();
            other.stop();
        });
        says.send(()).unwrap();
        let fault = run(&mut sh("sleep 1000"), LONG, &stop);
        assert!(matches!(fault, Err(Fault::Stopped)), "{fault:?}");
        thread.join().unwrap();
        let fault = run(&mut sh("true"), LONG, &stop);
        assert!(matches!(fault, Err(Fault::Stopped)), "{fault:?}");
    }

    #[test]
    fn only_the_end_of_long_outputs_is_kept() {
        let mut kept = vec![1; 2 * KEPT];
        keep(&mut kept, &[2]);
        assert_eq!((kept.len(), kept[KEPT - 1]), (KEPT, 2));
    }
}
