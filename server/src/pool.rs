//! Pooling: all inputs of a call submitted, all of their rows awaited.
//!
//! Owns: the order of rows, counts. Must not know: what the rows mean, texts.

use crate::call::Call;
use crate::wire::{Admission, UsageReply};
use crate::{ApiError, AppState, Finished, Observer, ServedModel};
use koma_engine::models::tokenizer::Encoded;
use koma_engine::{
    Event, EventStream, FinishReason, NewRequest, PoolingParams, RequestError, SubmitError, Task,
    TaskKind,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// One pooling job over a model.
pub(crate) struct Pool<'a> {
    call: &'a Call,
    model: Arc<ServedModel>,
    observer: Arc<dyn Observer>,
    task: TaskKind,
    admission: Admission,
    pub(crate) params: PoolingParams,
}

impl<'a> Pool<'a> {
    /// A job of `task` over `model`, with the head's activation.
    pub(crate) fn new(
        state: &AppState,
        call: &'a Call,
        model: &Arc<ServedModel>,
        task: TaskKind,
        admission: Admission,
    ) -> Self {
        Self {
            call,
            model: Arc::clone(model),
            observer: Arc::clone(state.observer()),
            task,
            admission,
            params: PoolingParams::default(),
        }
    }

    /// The result of each input, in order, and the counts. Inputs come with the names of their places in the body. The first
    /// failure ends all of it.
    pub(crate) async fn run(
        &self,
        encoded: Vec<(String, Encoded)>,
    ) -> Result<(Vec<Vec<f32>>, UsageReply), ApiError> {
        let mut rows = Vec::with_capacity(encoded.len());
        let mut usage = UsageReply::default();
        let mut pending: VecDeque<EventStream> = VecDeque::new();
        let (names, requests): (Vec<String>, Vec<NewRequest>) = encoded
            .into_iter()
            .map(|(name, encoded)| {
                let task = Task::Pool(self.params);
                let (ids, types) = (encoded.ids, encoded.type_ids);
                (name, self.call.request(ids, types, task, &self.admission))
            })
            .unzip();
        let mut next = 0;
        while next < requests.len() {
            let all = requests[next..].iter().cloned();
            let (streams, refused) = self.model.handle.submit_all(all);
            next += streams.len();
            pending.extend(streams);
            match refused {
                None => {}
                // The queue is full of this job's own inputs: it goes on as they end.
                Some(SubmitError::QueueFull { .. }) if !pending.is_empty() => {
                    self.take_first(&mut pending, &mut rows, &mut usage).await?;
                }
                Some(error) => {
                    let error = self.refused(self.model.refusal(error));
                    return Err(error.about(names[next].clone()));
                }
            }
        }
        while !pending.is_empty() {
            self.take_first(&mut pending, &mut rows, &mut usage).await?;
        }
        Ok((rows, usage))
    }

    async fn take_first(
        &self,
        pending: &mut VecDeque<EventStream>,
        rows: &mut Vec<Vec<f32>>,
        usage: &mut UsageReply,
    ) -> Result<(), ApiError> {
        let Some(mut stream) = pending.pop_front() else {
            return Ok(());
        };
        match stream.next().await {
            Some(Event::Pooled {
                values,
                usage: counts,
                timings,
            }) => {
                usage.add_prompt(counts);
                rows.push(values);
                self.observer.finished(&Finished {
                    model: self.model.name(),
                    task: self.task,
                    reason: FinishReason::Stop,
                    usage: counts,
                    timings,
                    elapsed: self.call.arrived.elapsed(),
                    n: 1,
                    max_tokens: None,
                });
                Ok(())
            }
            Some(Event::Failed(error)) => Err(self.refused(error.into())),
            Some(Event::Token { .. } | Event::Finished { .. }) | None => {
                Err(self.refused(RequestError::EngineDead.into()))
            }
        }
    }

    fn refused(&self, error: ApiError) -> ApiError {
        let code = error.code.unwrap_or_default();
        self.observer.refused(self.model.name(), code);
        error
    }
}
