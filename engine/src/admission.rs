//! Whether a request can ever be served: told at submission, before anything of it is queued.
//!
//! Must not know: what runs or waits. Invariant: what passes here fits into the model's window, and so into the cache (an
//! engine does not start with a cache that cannot hold one request of full length).

use crate::{ModelInfo, NewRequest, ParamError, PoolingParams, SubmitError, Task, TaskKind};

/// Checks `request` against the model. Gives the most tokens it can come to, prompt and output.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn check(request: &NewRequest, info: &ModelInfo) -> Result<usize, SubmitError> {
    let prompt = request.prompt.len();
    check_ids(request, info)?;
    let max = info.limits.max_len;
    let too_long = |output: usize| SubmitError::TooLong {
        max,
        asked: prompt.saturating_add(output),
        prompt,
        output,
    };
    match &request.task {
        Task::Generate(params) => {
            check_task(info, TaskKind::Generate)?;
            let output = params
                .max_tokens()
                .unwrap_or_else(|| max.saturating_sub(prompt).max(1));
            match prompt.checked_add(output) {
                Some(total) if total <= max => Ok(total),
                _ => Err(too_long(output)),
            }
        }
        Task::Pool(params) => {
            let mut serves = info.tasks.iter().copied();
            let pools = serves.find(|&task| task != TaskKind::Generate);
            let asked = pools.unwrap_or(TaskKind::Embed);
            check_task(info, asked)?;
            check_pooling(*params, prompt, info)?;
            if prompt > max {
                return Err(too_long(0));
            }
            let available = info.config.max_batch_tokens;
            if prompt > available {
                return Err(SubmitError::NeverFits {
                    what: "tokens in one step",
                    needed: prompt,
                    available,
                });
            }
            Ok(prompt)
        }
    }
}

fn check_pooling(params: PoolingParams, prompt: usize, info: &ModelInfo) -> Result<(), ParamError> {
    let refuse = |field, message| Err(ParamError { field, message });
    if params.skip >= prompt {
        let message = format!("{} of {prompt} tokens leave nothing to pool", params.skip);
        return refuse("skip", message);
    }
    let Some(asked) = params.dimensions else {
        return Ok(());
    };
    let embeds = info.tasks.contains(&TaskKind::Embed);
    let most = info.head.as_ref().map_or(0, |head| head.width);
    if embeds && (1..=most).contains(&asked) {
        return Ok(());
    }
    let message = if embeds {
        format!("must be from 1 to {most}, the size of this model's vectors; got {asked}")
    } else {
        "is for embeddings only".to_owned()
    };
    refuse("dimensions", message)
}

fn check_task(info: &ModelInfo, asked: TaskKind) -> Result<(), SubmitError> {
    if info.tasks.contains(&asked) {
        return Ok(());
    }
    let serves: Vec<_> = info.tasks.iter().map(|task| task.name()).collect();
    Err(SubmitError::WrongTask {
        model: info.identity.name.clone(),
        asked: asked.name(),
        serves: serves.join(", "),
    })
}

fn check_ids(request: &NewRequest, info: &ModelInfo) -> Result<(), ParamError> {
    let refuse = |field, message| Err(ParamError { field, message });
    let NewRequest {
        prompt, type_ids, ..
    } = request;
    if prompt.is_empty() {
        return refuse("prompt", "must have at least one token".to_owned());
    }
    let vocab = info.limits.vocab;
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        let message = format!("token id {id} is not below the vocabulary's size, {vocab}");
        return refuse("prompt", message);
    }
    if !type_ids.is_empty() && type_ids.len() != prompt.len() {
        let message = format!("{} segments for {} tokens", type_ids.len(), prompt.len());
        return refuse("type_ids", message);
    }
    Ok(())
}
