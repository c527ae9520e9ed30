//! [`ApiError`]: the one table from what went wrong to a status, a code and `OpenAI`'s error envelope.
//!
//! Owns: statuses, `type` and `code` words, `Retry-After`. Must not know: routes, models. Invariant: no message carries
//! a path, a pointer or the text of a panic; what is ours is logged and answered in general words.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use koma_engine::{ParamError, RequestError, SubmitError};
use serde_json::{Value, json};

/// An answer that is an error: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub message: String,
    /// The field at fault, as the client spells it; dotted where nested (`messages.0.role`).
    pub param: Option<String>,
    /// The word for programs (`context_length_exceeded`).
    pub code: Option<&'static str>,
    /// Seconds until it is worth trying again.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without a field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: Some(code),
            retry_after: None,
        }
    }

    /// 400: the field `param` is wrong. The message names the field, whoever reads only that.
    pub fn field(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self {
            status: StatusCode::BAD_REQUEST,
            message: format!("{param}: {message}"),
            param: Some(param),
            code: Some("invalid_value"),
            retry_after: None,
        }
    }

    /// 400 without a field: the body as a whole is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    }

    /// 500 that says no more than where to look. `detail` goes to the log.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        tracing::error!(%detail, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server failed; its log says more under this request's id",
        )
    }

    /// 503, worth trying again after `seconds`.
    pub fn unavailable(code: &'static str, message: impl Into<String>, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    /// The same error, in the field `param`.
    #[must_use]
    pub fn in_field(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same error, in the field `param` unless it names one already; for refusals that know no field, only a limit.
    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        if self.param.is_none() && self.status == StatusCode::BAD_REQUEST {
            self.param = Some(param.into());
        }
        self
    }

    /// `OpenAI`'s `type` word.
    fn kind(&self) -> &'static str {
        if self.status.is_client_error() {
            "invalid_request_error"
        } else {
            "server_error"
        }
    }

    /// The envelope; also what a stream sends when it fails after its first byte.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }

    /// The envelope as JSON text.
    pub fn json(&self) -> String {
        self.body().to_string()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<ParamError> for ApiError {
    fn from(error: ParamError) -> Self {
        Self::field(error.field, error.message)
    }
}

/// A full queue is answered with 1 second here; [`crate::ServedModel::refusal`] knows better from the running work.
impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Param(error) => error.into(),
            SubmitError::TooLong { .. } | SubmitError::NeverFits { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
            }
            SubmitError::WrongTask { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "wrong_task", message).in_field("model")
            }
            SubmitError::QueueFull { .. } => Self::unavailable("queue_full", message, 1),
            SubmitError::ShuttingDown => Self::unavailable("shutting_down", message, 1),
            SubmitError::EngineDead => Self::unavailable("engine_dead", message, 10),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::QueueDeadline => Self::unavailable("queue_deadline_exceeded", message, 1),
            RequestError::Deadline => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
            }
            RequestError::NotFinite => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", message)
            }
            RequestError::NothingAllowed => {
                Self::new(StatusCode::BAD_REQUEST, "nothing_allowed", message)
                    .in_field("allowed_token_ids")
            }
            RequestError::Step(detail) => Self::internal(detail),
            RequestError::DeviceTimeout => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "device_timeout", message)
            }
            RequestError::DeviceBusy => Self::unavailable("device_busy", message, 1),
            RequestError::DeviceBroken => Self::unavailable("device_broken", message, 10),
            RequestError::ShuttingDown => Self::unavailable("shutting_down", message, 1),
            RequestError::EngineDead => Self::unavailable("engine_dead", message, 10),
        }
    }
}
