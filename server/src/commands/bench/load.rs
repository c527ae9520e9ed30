//! [`Load`]: a batch of requests of exact lengths, sent at once and timed.

use super::random::Random;
use anyhow::{anyhow, bail};
use futures_util::future::try_join_all;
use koma_engine::{
    EngineHandle, Event, EventStream, NewRequest, PoolingParams, SamplingOptions, SamplingParams,
    Task,
};
use std::time::Instant;

/// What one run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) batch: usize,
    /// Tokens of the longest prompt.
    pub(super) input_len: usize,
    /// And of the shortest: lengths are spread evenly between them.
    pub(super) shortest_input: usize,
    /// Tokens each request generates; none for models that do not.
    pub(super) output_len: Option<usize>,
    /// Prompt ids are below this.
    pub(super) vocab: usize,
    pub(super) seed: u64,
}

/// When each token, or the result, of each request of a batch arrived, in seconds since its requests were submitted.
pub(super) type Arrivals = Vec<Vec<f64>>;

/// Times of one run: of its batches together, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Run {
    /// Batches that ran, one after another.
    pub(super) batches: usize,
    /// From a batch's submission until its last request ended.
    pub(super) seconds: f64,
    /// Of those, until every request of a batch had its first token: all its prompts are computed then.
    pub(super) prefill_seconds: f64,
    /// When each request gave its first token, or its result, since it was submitted.
    pub(super) first: Vec<f64>,
    /// Output tokens that came after a batch's last first one.
    pub(super) decode_tokens: usize,
}

impl Run {
    /// From a batch's last first token to its end.
    pub(super) fn decode_seconds(&self) -> f64 {
        self.seconds - self.prefill_seconds
    }

    pub(super) fn of(batches: &[Arrivals]) -> Self {
        let mut run = Self::default();
        for arrivals in batches {
            run.add(arrivals);
        }
        run
    }

    fn add(&mut self, arrivals: &Arrivals) {
        let all = || arrivals.iter().flatten().copied();
        let first = arrivals.iter().filter_map(|one| one.first().copied());
        let prefilled = first.clone().fold(0.0, f64::max);
        self.batches += 1;
        self.seconds += all().fold(0.0, f64::max);
        self.prefill_seconds += prefilled;
        self.first.extend(first);
        self.decode_tokens += all().filter(|at| *at > prefilled).count();
    }
}

impl Load {
    /// Tokens of the prompt in a place of the batch.
    fn len(&self, place: usize) -> usize {
        let spread = self.input_len - self.shortest_input;
        self.input_len - spread * (self.batch - 1 - place) / (self.batch - 1).max(1)
    }

    /// Tokens of a batch's prompts.
    pub(super) fn input_tokens(&self) -> usize {
        (0..self.batch).map(|place| self.len(place)).sum()
    }

    /// Runs one batch. Each `index` has other prompts.
    pub(super) async fn batch(
        &self,
        engine: &EngineHandle,
        index: u64,
    ) -> anyhow::Result<Arrivals> {
        let requests: Vec<NewRequest> = (0..self.batch)
            .map(|place| self.request(index, place as u64))
            .collect::<anyhow::Result<_>>()?;
        let started = Instant::now();
        let (streams, refused) = engine.submit_all(requests);
        if let Some(refused) = refused {
            return Err(refused.into());
        }
        let expected = self.output_len.unwrap_or(1);
        let all = streams
            .into_iter()
            .map(|stream| follow(stream, started, expected));
        try_join_all(all).await
    }

    fn request(&self, run: u64, place: u64) -> anyhow::Result<NewRequest> {
        let task = match self.output_len {
            None => Task::Pool(PoolingParams::default()),
            Some(output) => Task::Generate(SamplingParams::new(
                &SamplingOptions {
                    max_tokens: Some(i64::try_from(output)?),
                    temperature: Some(0.0),
                    ignore_eos: true,
                    ..SamplingOptions::default()
                },
                self.vocab,
            )?),
        };
        Ok(NewRequest {
            prompt: self.prompt(run, place),
            type_ids: Vec::new(),
            task,
            priority: 0,
            queue_deadline: None,
            deadline: None,
            cache_salt: [0; 32],
        })
    }

    /// Random ids, a pure function of seed, run and place.
    fn prompt(&self, run: u64, place: u64) -> Vec<u32> {
        let mut random = Random::new(self.seed, run << 32 | place);
        let vocab = self.vocab as u64;
        (0..self.len(place as usize))
            .map(|_| random.below(vocab) as u32)
            .collect()
    }
}

/// When each of the `expected` results of a request arrived.
async fn follow(
    mut stream: EventStream,
    started: Instant,
    expected: usize,
) -> anyhow::Result<Vec<f64>> {
    let mut arrivals = Vec::with_capacity(expected);
    while let Some(event) = stream.next().await {
        match event {
            Event::Token { .. } => arrivals.push(started.elapsed().as_secs_f64()),
            Event::Pooled { .. } => {
                arrivals.push(started.elapsed().as_secs_f64());
                break;
            }
            Event::Finished { .. } => break,
            Event::Failed(error) => return Err(anyhow!(error)),
        }
    }
    if arrivals.len() != expected {
        let got = arrivals.len();
        bail!("a request gave {got} results instead of {expected}");
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        batch: 2,
        input_len: 100,
        shortest_input: 100,
        output_len: Some(3),
        vocab: 50,
        seed: 7,
    };

    #[test]
    fn prompts_are_repeatable_distinct_and_in_range() {
        let prompt = LOAD.prompt(0, 0);
        assert_eq!(prompt, LOAD.prompt(0, 0));
        assert_eq!(prompt.len(), 100);
        assert!(prompt.iter().all(|id| *id < 50));
        for other in [LOAD.prompt(0, 1), LOAD.prompt(1, 0)] {
            assert_ne!(other, prompt);
        }
        let reseeded = Load { seed: 8, ..LOAD };
        assert_ne!(reseeded.prompt(0, 0), prompt);
    }

    #[test]
    fn lengths_are_spread_from_the_shortest_to_the_longest() {
        let load = |batch, shortest_input| Load {
            batch,
            shortest_input,
            ..LOAD
        };
        let lens = |load: &Load| (0..load.batch).map(|i| load.len(i)).collect::<Vec<_>>();
        assert_eq!(lens(&load(3, 20)), [20, 60, 100]);
        assert_eq!(load(3, 20).input_tokens(), 180);
        assert_eq!(load(3, 20).prompt(0, 1).len(), 60);
        assert_eq!(lens(&load(1, 20)), [100]);
        assert_eq!(lens(&LOAD), [100, 100]);
    }

    #[test]
    fn a_run_is_split_at_the_last_first_tokens_of_its_batches() {
        let one = vec![vec![0.1, 0.2, 0.3], vec![0.25, 0.35, 0.5]];
        let run = Run::of(std::slice::from_ref(&one));
        assert_eq!(run.first, [0.1, 0.25]);
        assert_eq!((run.batches, run.seconds), (1, 0.5));
        assert_eq!(run.prefill_seconds, 0.25);
        assert_eq!(run.decode_seconds(), 0.25);
        assert_eq!(run.decode_tokens, 3); // 300, 350, 500: what came before is not decode alone
        let run = Run::of(&[one, vec![vec![1.0, 1.5]]]);
        assert_eq!(run.first, [0.1, 0.25, 1.0]);
        assert_eq!((run.batches, run.seconds), (2, 2.0));
        assert_eq!((run.prefill_seconds, run.decode_tokens), (1.25, 4));
    }
}
