//! A stand-in for the engine sends events; what comes out is counted and compared.

use super::super::testing::{byte_ids, bytes_and};
use super::{StopStrings, TextEvent, TextOptions, TextStream};
use crate::{
    Event, EventStream, FinishReason, RequestError, SamplingOptions, SamplingParams, StopReason,
    Timings, TokenLogprob, Usage,
};
use koma_models::Tokenizer;
use std::sync::Arc;
use tokio::sync::mpsc;

const EOS: u32 = 0;
const PROMPT: [u32; 2] = [98, 98];

struct Run {
    tokenizer: Arc<Tokenizer>,
    params: SamplingParams,
    include_stop: bool,
    events: Vec<Event>,
}

impl Run {
    fn new(change: impl FnOnce(&mut SamplingOptions)) -> Self {
        let tokenizer = bytes_and(&["ab", "END"]);
        let mut options = SamplingOptions::default();
        change(&mut options);
        Self {
            params: SamplingParams::new(&options, tokenizer.vocab_size()).unwrap(),
            tokenizer,
            include_stop: false,
            events: Vec::new(),
        }
    }

    fn ids(mut self, child: u32, ids: &[u32]) -> Self {
        self.events.extend(ids.iter().map(|&id| Event::Token {
            child,
            id,
            logprob: None,
        }));
        self
    }

    fn end(mut self, child: u32, reason: FinishReason, completion: usize) -> Self {
        let stop = (reason == FinishReason::Stop).then_some(StopReason::Eos);
        self.events.push(Event::Finished {
            child,
            reason,
            stop,
            usage: Usage {
                prompt: 2,
                cached: 1,
                completion,
            },
            timings: Timings::default(),
        });
        self
    }

    /// All events of the stream, with the text of each continuation.
    fn go(self) -> (Vec<TextEvent>, Vec<String>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let options = TextOptions {
            params: &self.params,
            prompt: &PROMPT,
            eos_ids: &[EOS],
            stops: &StopStrings::new(self.params.stop(), self.include_stop),
        };
        let events = EventStream::from_events(receiver);
        let mut stream = TextStream::new(events, &self.tokenizer, &options);
        for event in self.events {
            sender.send(event).unwrap();
        }
        drop(sender);
        let events: Vec<_> = std::iter::from_fn(|| stream.blocking_next()).collect();
        let mut texts = vec![String::new(); self.params.n() as usize];
        for event in &events {
            if let TextEvent::Delta { child, text, .. } = event {
                texts[*child as usize].push_str(text);
            }
        }
        (events, texts)
    }
}

/// Reason, what stopped, and counted tokens of each continuation that ended, in order.
fn ends(events: &[TextEvent]) -> Vec<(u32, FinishReason, Option<StopReason>, Usage)> {
    events
        .iter()
        .filter_map(|event| match event {
            TextEvent::Finished {
                child,
                reason,
                stop,
                usage,
                ..
            } => Some((*child, *reason, stop.clone(), *usage)),
            _ => None,
        })
        .collect()
}

fn usage(completion: usize) -> Usage {
    Usage {
        prompt: 2,
        cached: 1,
        completion,
    }
}

#[test]
fn text_and_end_come_through() {
    let ids = byte_ids("漫 ok");
    let run = Run::new(|_| {})
        .ids(0, &ids)
        .ids(0, &[EOS])
        .end(0, FinishReason::Stop, 7);
    let (events, texts) = run.go();
    assert_eq!(texts, ["漫 ok"]);
    assert_eq!(
        ends(&events),
        [(0, FinishReason::Stop, Some(StopReason::Eos), usage(7))]
    );
    let tokens: Vec<u32> = events
        .iter()
        .flat_map(|event| match event {
            TextEvent::Delta { text, tokens, .. } => {
                assert!(!text.is_empty() || tokens.len() == 1);
                tokens.iter().map(|token| token.id).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(
        tokens,
        [&ids[..], &[EOS]].concat(),
        "every token once, in order"
    );
    assert!(matches!(events.last(), Some(TextEvent::Finished { .. })));
}

#[test]
fn a_delta_brings_its_tokens_and_their_logprobs() {
    let mut run = Run::new(|o| o.logprobs = Some(1));
    let logprob = |p: f32| {
        Some(TokenLogprob {
            logprob: p,
            top: vec![(5, p)],
        })
    };
    for (i, id) in byte_ids("漫").into_iter().enumerate() {
        run.events.push(Event::Token {
            child: 0,
            id,
            logprob: logprob(-(i as f32)),
        });
    }
    let (events, _) = run.end(0, FinishReason::Length, 3).go();
    let TextEvent::Delta { text, tokens, .. } = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(text, "漫");
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.bytes.clone())
        .collect();
    assert_eq!(bytes, "漫".as_bytes());
    assert_eq!(tokens[2].logprob, logprob(-2.0));
}

#[test]
fn a_stop_string_ends_its_continuation_alone() {
    let run = Run::new(|o| (o.n, o.stop) = (Some(2), vec!["END".to_owned()]))
        .ids(0, &byte_ids("xE"))
        .ids(1, &byte_ids("y"))
        .ids(0, &byte_ids("NDz"))
        .ids(1, &byte_ids("EN"))
        .end(0, FinishReason::Stop, 6)
        .end(1, FinishReason::Length, 3);
    let (events, texts) = run.go();
    assert_eq!(texts, ["x", "yEN"]);
    let stop = Some(StopReason::Text("END".to_owned()));
    assert_eq!(
        ends(&events),
        [
            (0, FinishReason::Stop, stop, usage(4)),
            (1, FinishReason::Length, None, usage(3)),
        ]
    );
}

#[test]
fn the_engine_hears_of_a_stop_string_at_once() {
    let run = Run::new(|o| o.stop = vec!["END".to_owned()]);
    let (sender, receiver) = mpsc::unbounded_channel();
    let cancelled = Arc::new(crate::event::Cancelled::default());
    let events = EventStream::new(receiver, Arc::clone(&cancelled));
    let options = TextOptions {
        params: &run.params,
        prompt: &PROMPT,
        eos_ids: &[EOS],
        stops: &StopStrings::new(run.params.stop(), false),
    };
    let mut stream = TextStream::new(events, &run.tokenizer, &options);
    for id in byte_ids("aEND") {
        assert_eq!(cancelled.take(), 0);
        sender
            .send(Event::Token {
                child: 0,
                id,
                logprob: None,
            })
            .unwrap();
    }
    let delta = |event| matches!(event, Some(TextEvent::Delta { .. }));
    assert!(delta(stream.blocking_next()) && delta(stream.blocking_next()));
    assert_eq!(cancelled.take(), 1);
    drop(sender);
    let stop = Some(StopReason::Text("END".to_owned()));
    let ended = ends(&[stream.blocking_next().unwrap()]);
    let without_cached = Usage {
        cached: 0,
        ..usage(4)
    };
    assert_eq!(ended, [(0, FinishReason::Stop, stop, without_cached)]);
    assert_eq!(stream.blocking_next(), None);
}

#[test]
fn a_stop_string_counts_after_min_tokens() {
    let text = |min: i64| {
        let change = |o: &mut SamplingOptions| {
            (o.min_tokens, o.stop) = (Some(min), vec!["END".to_owned()]);
        };
        let run = Run::new(change).ids(0, &byte_ids("aENDbENDc"));
        run.end(0, FinishReason::Length, 9).go().1[0].clone()
    };
    assert_eq!(text(3), "a");
    assert_eq!(text(4), "aENDb");
    assert_eq!(text(7), "aENDb");
    assert_eq!(text(8), "aENDbENDc");
}

#[test]
fn a_stop_token_is_no_text_unless_asked_for() {
    let end = 258;
    let text = |include: bool, reason: FinishReason| {
        let mut run = Run::new(|o| o.stop_token_ids = vec![i64::from(end)]);
        run.include_stop = include;
        let run = run.ids(0, &[257, end]).ids(
            0,
            if reason == FinishReason::Stop {
                &[]
            } else {
                &[257]
            },
        );
        let (events, texts) = run.end(0, reason, 3).go();
        let tokens: usize = events
            .iter()
            .map(|event| match event {
                TextEvent::Delta { tokens, .. } => tokens.len(),
                _ => 0,
            })
            .sum();
        (texts[0].clone(), tokens)
    };
    assert_eq!(text(false, FinishReason::Stop), ("ab".to_owned(), 2));
    assert_eq!(text(true, FinishReason::Stop), ("abEND".to_owned(), 2));
    // It did not stop (min_tokens): ordinary text.
    assert_eq!(text(false, FinishReason::Length), ("abENDab".to_owned(), 3));
}

#[test]
fn what_is_held_back_comes_at_the_end() {
    let run = Run::new(|o| o.stop = vec!["END".to_owned()]).ids(0, &byte_ids("aEN"));
    assert_eq!(run.end(0, FinishReason::Length, 3).go().1, ["aEN"]);
    let run = Run::new(|_| {}).ids(0, &byte_ids("漫")[..2]);
    assert_eq!(run.end(0, FinishReason::Length, 2).go().1, ["\u{FFFD}"]);
}

#[test]
fn failures_end_the_stream() {
    let mut run = Run::new(|o| o.n = Some(2))
        .ids(0, &[257])
        .end(0, FinishReason::Length, 1);
    run.events.push(Event::Failed(RequestError::Deadline));
    let (events, _) = run.go();
    assert_eq!(
        events.last(),
        Some(&TextEvent::Failed(RequestError::Deadline))
    );
    let (events, texts) = Run::new(|_| {}).ids(0, &[257]).go();
    assert_eq!(texts, ["ab"]);
    assert_eq!(
        events.last(),
        Some(&TextEvent::Failed(RequestError::EngineDead))
    );
    // Events of continuations that there are none of are ignored.
    let run = Run::new(|_| {})
        .ids(7, &[257])
        .end(7, FinishReason::Stop, 1);
    assert_eq!(run.end(0, FinishReason::Length, 0).go().0.len(), 1);
}

#[test]
fn waiting_in_a_task_gives_the_same() {
    let run = Run::new(|_| {});
    let (sender, receiver) = mpsc::unbounded_channel();
    let options = TextOptions {
        params: &run.params,
        prompt: &PROMPT,
        eos_ids: &[EOS],
        stops: &StopStrings::new(run.params.stop(), false),
    };
    let events = EventStream::from_events(receiver);
    let mut stream = TextStream::new(events, &run.tokenizer, &options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let event = runtime.block_on(async {
        sender
            .send(Event::Token {
                child: 0,
                id: 257,
                logprob: None,
            })
            .unwrap();
        stream.next().await
    });
    assert!(matches!(event, Some(TextEvent::Delta { text, .. }) if text == "ab"));
}
