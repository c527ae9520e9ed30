use super::*;
use koma_engine::models::kernels::{Isa, Team};
use koma_engine::toy;
use koma_engine::{EngineConfig, EngineHandle, SamplingOptions};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A conversation with a toy: each byte is a token, and a message is `<ROLE>TEXT` and a line's end.
fn session(hook: toy::Hook) -> Session {
    let team = Arc::new(Team::new(1));
    let config = EngineConfig {
        cache_bytes: 1 << 20,
        ..EngineConfig::default()
    };
    let engine = EngineHandle::start(toy::decoder_with(hook), config, team, Isa::Portable).unwrap();
    let options = SamplingOptions {
        max_tokens: Some(12),
        temperature: Some(0.0),
        ..SamplingOptions::default()
    };
    Session::new(ServedModel::new(engine, "toy").unwrap(), None, options)
}

/// A whole turn: the reply, and the tokens of the prompt.
fn turn(session: &mut Session, text: &str) -> (String, usize) {
    let mut stream = session.begin(text).unwrap();
    let mut reply = String::new();
    while let Some(event) = stream.blocking_next() {
        match event {
            TextEvent::Delta { text, .. } => reply += &text,
            TextEvent::Finished { usage, .. } => {
                session.end(&reply);
                return (reply, usage.prompt);
            }
            TextEvent::Failed(error) => panic!("{error}"),
        }
    }
    panic!("no end")
}

#[test]
fn the_prompt_is_the_whole_conversation_until_it_is_reset() {
    let mut session = session(Arc::new(|_| Ok(())));
    let prompt = |text: &str| text.len();
    let (first, len) = turn(&mut session, "one");
    assert!(!first.is_empty());
    assert_eq!(len, prompt("<user>one\n<assistant>"));
    let so_far = format!("<user>one\n<assistant>{first}\n");
    let (second, len) = turn(&mut session, "two");
    assert_eq!(len, prompt(&so_far) + prompt("<user>two\n<assistant>"));
    session.set_system("be brief".to_owned());
    let (_, len) = turn(&mut session, "x");
    let so_far = format!("<system>be brief\n{so_far}<user>two\n<assistant>{second}\n");
    assert_eq!(len, prompt(&so_far) + prompt("<user>x\n<assistant>"));
    session.reset();
    let (_, len) = turn(&mut session, "y");
    assert_eq!(len, prompt("<system>be brief\n<user>y\n<assistant>"));
    session.set_system(String::new());
    session.reset();
    assert_eq!(
        turn(&mut session, "one"),
        (first, prompt("<user>one\n<assistant>"))
    );
}

#[test]
fn a_turn_without_a_reply_leaves_the_conversation_as_it_was() {
    let mut session = session(Arc::new(|_| Ok(())));
    turn(&mut session, "one");
    let before = session.stats();
    assert!(before.starts_with("1 turns"), "{before}");
    drop(session.begin("two").unwrap());
    session.end("");
    assert!(
        session
            .stats()
            .starts_with(&before[..before.find(';').unwrap()])
    );
    let long = "x".repeat(toy::MAX_LEN);
    match session.begin(&long) {
        Err(TurnError::WindowFull { prompt, window }) => {
            assert_eq!(window, toy::MAX_LEN);
            assert!(prompt > toy::MAX_LEN);
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert!(
        session
            .stats()
            .starts_with(&before[..before.find(';').unwrap()])
    );
}

/// A hook that waits for a permit before each step.
fn gated() -> (toy::Hook, Sender<()>) {
    let (permits, wait) = channel();
    let wait = Mutex::new(wait);
    let hook: toy::Hook = Arc::new(move |_| {
        // An error means that the test is over.
        let _ = wait.lock().unwrap().recv();
        Ok(())
    });
    (hook, permits)
}

#[test]
fn a_stopped_reply_keeps_what_there_is_of_it_and_frees_its_blocks() {
    let (hook, permits) = gated();
    let mut session = session(hook);
    let mut stream = session.begin("a story").unwrap();
    permits.send(()).unwrap();
    let Some(TextEvent::Delta { text, .. }) = stream.blocking_next() else {
        panic!("no text")
    };
    stream.cancel();
    permits.send(()).unwrap(); // for the step that may have begun before
    let mut tokens = 0;
    let usage = loop {
        match stream.blocking_next() {
            Some(TextEvent::Delta { tokens: more, .. }) => tokens += more.len(),
            Some(TextEvent::Finished { usage, reason, .. }) => {
                assert_eq!(reason, FinishReason::Stop);
                break usage;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(tokens <= 1, "{tokens} tokens after the end");
    assert_eq!(usage.completion, 1 + tokens);
    session.end(&text);
    let stats = session.stats();
    assert!(stats.starts_with("1 turns"), "{stats}");
    assert!(stats.contains("; 0 of "), "{stats}");
}

#[test]
fn counts_and_times_are_one_line() {
    let usage = Usage {
        prompt: 40,
        cached: 32,
        completion: 11,
    };
    let timings = Timings {
        queued: Duration::from_millis(100),
        prefill: Duration::from_millis(150),
        decode: Duration::from_secs(2),
    };
    assert_eq!(
        measured(usage, timings),
        "40 prompt tokens, 32 of them cached; first token after 0.25 s; 11 tokens, 5.0 tokens/s"
    );
    let one = Usage {
        completion: 1,
        ..usage
    };
    assert!(measured(one, Timings::default()).ends_with("; 1 tokens"));
}

#[test]
fn what_became_of_a_message_is_said_in_each_case() {
    let ended = |completion, reason| {
        let (prompt, cached) = (10, 0);
        let usage = Usage {
            prompt,
            cached,
            completion,
        };
        let timings = Timings::default();
        Some(Ended {
            reason,
            usage,
            timings,
        })
    };
    let counts = |n: usize| {
        format!("10 prompt tokens, 0 of them cached; first token after 0.00 s; {n} tokens")
    };
    let (kept, lost) = (
        "what there is of the reply stays in the conversation",
        "there is no reply, and the message is not part of the conversation",
    );
    let check = |text: &str, ended: Option<Ended>, cancelled: bool, expected: &[&str]| {
        let reply = Reply {
            text: text.to_owned(),
            ended,
            cancelled,
        };
        assert_eq!(remarks(&reply, 100), expected.join("\n"));
    };
    let (stop, length) = (FinishReason::Stop, FinishReason::Length);
    check("Hi", ended(2, stop), false, &[&counts(2)]);
    check(
        "Hi",
        ended(2, length),
        false,
        &[&counts(2), "cut off at --max-tokens"],
    );
    let full = "the model's window of 100 tokens is full; /reset begins a new conversation";
    check("Hi", ended(90, length), false, &[&counts(90), full]);
    check("", ended(1, stop), false, &[&counts(1), lost]);
    check("Hi", ended(2, stop), true, &[&counts(2), "stopped", kept]);
    check("", ended(0, stop), true, &["stopped", lost]);
    let at_once = "stopped at once; the engine still ends its step";
    check("Hi", None, true, &[at_once, kept]);
    check("", None, true, &[at_once, lost]);
}
