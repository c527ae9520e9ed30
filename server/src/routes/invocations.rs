//! `/invocations`: `SageMaker`'s one route for everything. The fields say what is asked; for `input` and `inputs` the model
//! does. Replies are those of the routes that are named here.

use crate::call::Call;
use crate::routes::{chat, classify, completions, embeddings, rerank};
use crate::wire::Fields;
use crate::wire::chat::ChatRequest;
use crate::wire::classify::{AGGREGATION, ClassifyRequest};
use crate::wire::completion::CompletionRequest;
use crate::wire::embeddings::EmbeddingsRequest;
use crate::wire::rerank::RerankRequest;
use crate::{ApiError, AppState};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;

/// The answer of the route that the payload means.
pub(crate) async fn invocations(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let mut fields = Fields::body(&call.body)?;
    let task = task(&state, &mut fields)?;
    let limits = *state.limits();
    match task {
        Payload::Chat => {
            let request = ChatRequest::parse(fields, limits.messages)?;
            chat::converse(&state, &call, request).await
        }
        Payload::Task(TaskKind::Generate) => {
            let request = CompletionRequest::parse(fields, limits.inputs)?;
            completions::complete(&state, &call, request).await
        }
        Payload::Task(TaskKind::Embed) => {
            let request = EmbeddingsRequest::parse(fields, limits.inputs)?;
            embeddings::embed(&state, &call, request).await
        }
        Payload::Task(TaskKind::Classify | TaskKind::Tag) => {
            let request = ClassifyRequest::parse(fields, limits.inputs)?;
            classify::label(&state, &call, request).await
        }
        Payload::Task(TaskKind::Score) => {
            let request = RerankRequest::parse(fields, limits.documents)?;
            rerank::order(&state, &call, request).await
        }
    }
}

/// What a payload asks for.
enum Payload {
    Chat,
    Task(TaskKind),
}

/// `messages`: chat; `prompt`: completions; `query`: rerank; `input`: embeddings or classify, whichever the model serves
/// (a token classifier where `aggregation_strategy` is given and no model); `inputs` with `parameters`, as Hugging Face's containers have it: the same, or completions.
fn task(state: &AppState, fields: &mut Fields<'_>) -> Result<Payload, ApiError> {
    const ANY: [TaskKind; 4] = [
        TaskKind::Embed,
        TaskKind::Classify,
        TaskKind::Tag,
        TaskKind::Generate,
    ];
    let short = &ANY[..3];
    if fields.has("messages") {
        return Ok(Payload::Chat);
    }
    for (name, task) in [("prompt", TaskKind::Generate), ("query", TaskKind::Score)] {
        if fields.has(name) {
            return Ok(Payload::Task(task));
        }
    }
    let tasks: &[TaskKind] = if fields.has("input") {
        short
    } else if fields.has("inputs") {
        fields.flatten("parameters")?;
        &ANY
    } else {
        let message = "the body must have messages, prompt, input, inputs, or query and documents";
        return Err(ApiError::bad_request(message));
    };
    let model = fields.peek("model").map(|raw| raw.string()).transpose()?;
    let named = model.filter(|name| !name.is_empty());
    let tasks = if named.is_none() && fields.has(AGGREGATION) {
        &ANY[2..3]
    } else {
        tasks
    };
    let (_, task) = state.lookup_any(named.as_deref(), tasks)?;
    if !fields.has("input") {
        fields.rename("max_new_tokens", "max_tokens");
        let new = if task == TaskKind::Generate {
            "prompt"
        } else {
            "input"
        };
        fields.rename("inputs", new);
    }
    Ok(Payload::Task(task))
}
