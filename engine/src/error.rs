//! What can go wrong with an engine, a submission, a running request.

use crate::runner::StepError;
use koma_models::kernels::{self, Fault};

/// A parameter of a request is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ParamError {
    /// The field as clients spell it.
    pub field: &'static str,
    /// What is wrong, with the allowed range.
    pub message: String,
}

/// Why a request is not taken: nothing of it was queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The caller's fault, in one field.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// Prompt and output together are longer than the model's window.
    #[error(
        "the model's maximum context length is {max} tokens, but the request asks for {asked} ({prompt} in the prompt, {output} for the output)"
    )]
    TooLong {
        /// The model's window.
        max: usize,
        /// Prompt and output.
        asked: usize,
        /// Prompt.
        prompt: usize,
        /// Output.
        output: usize,
    },
    /// Could never be served, even alone: more cache blocks than there are, or longer than a step where the model cannot
    /// be given its prompt in parts.
    #[error("the request needs {needed} {what}, but there are only {available}")]
    NeverFits {
        /// Cache blocks, or tokens per step.
        what: &'static str,
        /// Needed at its longest.
        needed: usize,
        /// There are.
        available: usize,
    },
    /// The model does not do this.
    #[error("the model `{model}` does not serve {asked}; it serves {serves}")]
    WrongTask {
        /// The model.
        model: String,
        /// What was asked.
        asked: &'static str,
        /// What it does.
        serves: String,
    },
    /// Too many wait already.
    #[error("{waiting} requests wait already; try again later")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine thread has died.
    #[error("the engine of this model has stopped after a failure")]
    EngineDead,
}

/// Why an admitted request ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Its queue deadline passed before it started.
    #[error("the request waited longer than its queue deadline allows")]
    QueueDeadline,
    /// Its total deadline passed.
    #[error("the request took longer than its deadline allows")]
    Deadline,
    /// Its logits were not finite (a damaged model, an overflow).
    #[error("the model gave values that are not finite")]
    NotFinite,
    /// Its mask and `min_tokens` left no token to choose.
    #[error("no token is left that the request allows")]
    NothingAllowed,
    /// The step it was in failed.
    #[error("a step of the engine failed: {0}")]
    Step(String),
    /// The device gave up on the step after its own limit of time.
    #[error("the device of this model took too long")]
    DeviceTimeout,
    /// The device had no room for the step.
    #[error("the device of this model is busy; try again later")]
    DeviceBusy,
    /// The device is broken.
    #[error("the device of this model is broken")]
    DeviceBroken,
    /// The engine ended before it did.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine thread has died.
    #[error("the engine of this model has stopped after a failure")]
    EngineDead,
}

impl RequestError {
    /// What a request hears whose step failed with `error`.
    pub(crate) fn of_step(error: &StepError) -> Self {
        match error {
            StepError::Kernels(error) => Self::of_kernels(error),
            StepError::Output { .. } => Self::Step(error.to_string()),
        }
    }

    /// What a request hears that could not be computed because of `error`.
    pub(crate) fn of_kernels(error: &kernels::Error) -> Self {
        match error {
            kernels::Error::Device(Fault::Timeout, _) => Self::DeviceTimeout,
            kernels::Error::Device(Fault::Busy, _) => Self::DeviceBusy,
            kernels::Error::Device(Fault::Broken, _) => Self::DeviceBroken,
            _ => Self::Step(error.to_string()),
        }
    }
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cache budget does not hold one request of the model's full length.
    #[error(
        "model `{model}`: a cache of {given} bytes holds {fits} tokens, but one request of the model's length ({max_len} tokens) needs {needed} bytes; raise --kv-cache-memory or lower --max-model-len"
    )]
    CacheTooSmall {
        /// The model.
        model: String,
        /// Bytes given.
        given: usize,
        /// Tokens that fit.
        fits: usize,
        /// The model's window.
        max_len: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// A setting is out of range.
    #[error("{field}: {message}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Buffers could not be had.
    #[error(transparent)]
    Kernels(#[from] kernels::Error),
    /// The engine thread could not be started.
    #[error("no engine thread: {0}")]
    Thread(std::io::Error),
}
