//! [`NeuronEncoder`]: an encoder whose forward runs on Neuron cores.
//!
//! Owns: filling buckets, giving them to cores, putting rows back in order, what becomes of a failed execution. Must not know: the
//! runtime's handles.
//!
//! Invariants: row `i` of the output is request `i` of the batch; an execution that fails takes its own requests with it and no
//! others; all that were begun are waited for.

use super::plan::Plan;
use super::route::{Chunk, Router};
use super::worker::{Done, Job, Worker};
use crate::manifest::InputName;
use koma_models::kernels::neuron::{NeuronError, Status};
use koma_models::kernels::{Cx, Error, Fault, Rows};
use koma_models::{Batch, Encoder, NeuronBucket, NeuronCounters, Workspace};
use std::ops::Range;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
pub(super) struct NeuronEncoder {
    workers: Vec<Worker>,
    plan: Arc<Plan>,
    buckets: Vec<NeuronBucket>,
    router: Router,
    counters: Arc<NeuronCounters>,
    state: Mutex<State>,
}

/// What is used again from step to step.
struct State {
    cpu: Box<dyn Encoder>,
    /// The batch and the buffers of what runs on the CPU.
    again: (Batch, Workspace),
    lengths: Vec<usize>,
    order: Vec<usize>,
    chunks: Vec<Chunk>,
    idle: Vec<Job>,
    /// The core that begins the next step.
    next: usize,
}

impl NeuronEncoder {
    pub(super) fn new(
        workers: Vec<Worker>,
        plan: Arc<Plan>,
        cpu: Box<dyn Encoder>,
        counters: Arc<NeuronCounters>,
    ) -> Self {
        Self {
            buckets: counters.buckets().to_vec(),
            router: Router::new(counters.buckets(), workers.len()),
            workers,
            plan,
            counters,
            state: Mutex::new(State {
                cpu,
                again: (Batch::default(), Workspace::default()),
                lengths: Vec::new(),
                order: Vec::new(),
                chunks: Vec::new(),
                idle: Vec::new(),
                next: 0,
            }),
        }
    }
}

impl Encoder for NeuronEncoder {
    fn forward(&self, cx: &Cx, batch: &Batch, work: &mut Workspace) -> Result<(), Error> {
        let mut held = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *held;
        self.check(batch)?;
        state.lengths.clear();
        let lengths = (0..batch.requests()).map(|request| tokens(batch, request).len());
        state.lengths.extend(lengths);
        let State {
            lengths,
            order,
            chunks,
            ..
        } = state;
        self.router.route(lengths, order, chunks).map_err(|len| {
            refused(format!(
                "a request of {len} tokens is longer than every bucket"
            ))
        })?;
        work.output.reset(batch.requests(), self.plan.width);
        self.compute(cx, batch, state, work);
        Ok(())
    }
}

impl NeuronEncoder {
    /// What a device would not notice: it reads past a table's end with the last row, and knows of no skipped tokens.
    fn check(&self, batch: &Batch) -> Result<(), Error> {
        let vocab = self.plan.vocab;
        if let Some(id) = batch.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(refused(format!("the id {id} is not below {vocab}")));
        }
        if batch.skips.iter().any(|skip| *skip > 0) {
            let reason = "tokens that take no part in the vector of a text";
            return Err(refused(reason.to_owned()));
        }
        Ok(())
    }

    /// Gives every chunk to its core, takes all of them back, and does again on the CPU what a core gave no numbers for.
    fn compute(&self, cx: &Cx, batch: &Batch, state: &mut State, work: &mut Workspace) {
        let (done, finished) = channel::<Done>();
        for (number, chunk) in state.chunks.iter().enumerate() {
            let mut job = state.idle.pop().unwrap_or_default();
            let requests = &state.order[chunk.rows.clone()];
            self.fill(&mut job, (number, chunk.bucket), batch, requests);
            let core = (state.next + chunk.core) % self.workers.len();
            let tokens = requests.iter().map(|request| state.lengths[*request]).sum();
            self.counters.execution(chunk.bucket, core, tokens);
            self.workers[core].give(job, done.clone());
        }
        state.next = (state.next + 1) % self.workers.len();
        drop(done);
        let lost = "the thread of a core has ended".to_owned();
        let lost = Outcome::Failed(NeuronError::Contract(lost));
        let mut outcomes = vec![lost; state.chunks.len()];
        for (job, result) in finished {
            let requests = &state.order[state.chunks[job.chunk].rows.clone()];
            let outcome = self.judge(&job, requests.len(), result);
            if outcome == Outcome::Rows {
                for (row, request) in job.rows.chunks_exact(self.plan.width).zip(requests) {
                    work.output.row_mut(*request).copy_from_slice(row);
                }
            }
            outcomes[job.chunk] = outcome;
            state.idle.push(job);
        }
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let error = match outcome {
                Outcome::Rows => continue,
                Outcome::Again => self.again(cx, batch, state, number, &mut work.output).err(),
                Outcome::Failed(error) => Some(error.into_device()),
            };
            let requests = &state.order[state.chunks[number].rows.clone()];
            if let Some(error) = error {
                tracing::error!(requests = requests.len(), %error, "an execution on a Neuron core failed");
                let (fault, reason) = told(error);
                let failed = requests.iter();
                let failed = failed.map(|request| (*request, Error::Device(fault, reason.clone())));
                work.failed.extend(failed);
            }
        }
        work.failed.sort_unstable_by_key(|(request, _)| *request);
    }

    /// Fills the rows of a bucket: the requests', then empty ones, whose mask is 0 everywhere.
    fn fill(
        &self,
        job: &mut Job,
        (chunk, bucket): (usize, usize),
        batch: &Batch,
        requests: &[usize],
    ) {
        (job.chunk, job.bucket) = (chunk, bucket);
        let NeuronBucket { batch: rows, seq } = self.buckets[bucket];
        job.inputs.resize_with(self.plan.inputs.len(), Vec::new);
        for (input, values) in self.plan.inputs.iter().zip(&mut job.inputs) {
            let fill = match input {
                InputName::InputIds => self.plan.pad_id as i32,
                InputName::AttentionMask | InputName::TokenTypeIds => 0,
            };
            values.clear();
            values.resize(rows * seq, fill);
            for (request, row) in requests.iter().zip(values.chunks_exact_mut(seq)) {
                let range = tokens(batch, *request);
                let row = &mut row[..range.len()];
                match input {
                    InputName::InputIds => copy(row, &batch.ids[range]),
                    InputName::AttentionMask => row.fill(1),
                    // None at all means that all are 0.
                    InputName::TokenTypeIds => copy(row, batch.type_ids.get(range).unwrap_or(&[])),
                }
            }
        }
    }

    /// What becomes of an execution with `rows` requests.
    fn judge(&self, job: &Job, rows: usize, result: Result<(), NeuronError>) -> Outcome {
        match result {
            Ok(()) => {
                let values = &job.rows[..rows * self.plan.width];
                if values.iter().all(|value| value.is_finite()) {
                    Outcome::Rows
                } else {
                    Outcome::Again
                }
            }
            Err(error) => {
                if let Some(Status(code)) = error.status() {
                    self.counters.error(code);
                }
                match error.status() {
                    Some(Status::NOT_A_NUMBER) => Outcome::Again,
                    _ => Outcome::Failed(error),
                }
            }
        }
    }

    /// Computes a chunk on the CPU, whose numbers are then the answer, whatever they are.
    fn again(
        &self,
        cx: &Cx,
        batch: &Batch,
        state: &mut State,
        chunk: usize,
        output: &mut Rows,
    ) -> Result<(), Error> {
        self.counters.rerun();
        let requests = &state.order[state.chunks[chunk].rows.clone()];
        tracing::warn!(
            requests = requests.len(),
            "a Neuron core gave no numbers; the CPU does it again"
        );
        let (part, work) = &mut state.again;
        part.clear(0);
        for request in requests {
            let range = tokens(batch, *request);
            part.ids.extend_from_slice(&batch.ids[range.clone()]);
            part.positions
                .extend_from_slice(&batch.positions[range.clone()]);
            let types = batch.type_ids.get(range.clone()).unwrap_or(&[]);
            part.type_ids.extend_from_slice(types);
            part.cu_seqlens.push(part.ids.len() as u32);
            part.kv_lens.push(range.len() as u32);
            part.logit_rows.push(part.ids.len() as u32 - 1);
        }
        state.cpu.forward(cx, part, work)?;
        for (row, request) in requests.iter().enumerate() {
            output
                .row_mut(*request)
                .copy_from_slice(work.output.row(row));
        }
        Ok(())
    }
}

/// What becomes of an execution.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// Its rows are the answer.
    Rows,
    /// They are not numbers.
    Again,
    /// There are none.
    Failed(NeuronError),
}

/// Where the tokens of `request` lie.
fn tokens(batch: &Batch, request: usize) -> Range<usize> {
    batch.cu_seqlens[request] as usize..batch.cu_seqlens[request + 1] as usize
}

fn copy(row: &mut [i32], values: &[u32]) {
    for (place, value) in row.iter_mut().zip(values) {
        *place = *value as i32;
    }
}

/// An error as a device's, which can be told to several requests.
fn told(error: Error) -> (Fault, String) {
    match error {
        Error::Device(fault, reason) => (fault, reason),
        other => (Fault::Other, other.to_string()),
    }
}

fn refused(reason: String) -> Error {
    Error::Device(Fault::Other, reason)
}
