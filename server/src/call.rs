//! [`Call`]: one POST as the routes see it: its body, its tenant, its id, its time of arrival.
//!
//! Owns: the limit on bodies, the identity of a tenant, request ids. Must not know: what the body says.

use crate::wire::Admission;
use crate::{ApiError, AppState};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use koma_engine::{NewRequest, Task};
use sha2::{Digest, Sha256};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A client that sends nothing of its body for this long is given up.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// How much of a body beyond the limit is read and thrown away, as a multiple of the limit: a client that is still
/// sending would lose the reply if its connection were closed at once.
const DISCARD_FACTOR: usize = 8;
/// Longest request id taken from a client.
const MAX_ID: usize = 128;
/// Where clients and platforms write a request's id, first come first.
const ID_HEADERS: [&str; 2] = ["x-request-id", "x-amzn-sagemaker-inference-id"];

/// The id of a request, in its reply's head and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    /// The client's own, if it is short and plain; otherwise a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = ID_HEADERS.iter().find_map(|name| {
            let id = headers.get(*name)?.to_str().ok()?.trim();
            let plain = !id.is_empty() && id.len() <= MAX_ID;
            plain.then(|| id.to_owned())
        });
        Self(given.unwrap_or_else(fresh_id))
    }
}

/// 128 bits in hexadecimal, different each time and hard to guess.
pub(crate) fn fresh_id() -> String {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = [KEYS[0].hash_one(count), KEYS[1].hash_one(count)];
    format!("{high:016x}{low:016x}")
}

/// One POST.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The body, within the limit.
    pub(crate) body: Vec<u8>,
    /// When its head was read.
    pub(crate) arrived: Instant,
    /// Digest of the Authorization header, if there is one.
    tenant: Option<[u8; 32]>,
}

impl Call {
    /// The engine's request for `prompt`: deadlines count from arrival, the cache is shared within tenant and salt.
    pub(crate) fn request(
        &self,
        prompt: Vec<u32>,
        type_ids: Vec<u32>,
        task: Task,
        admission: &Admission,
    ) -> NewRequest {
        NewRequest {
            prompt,
            type_ids,
            task,
            priority: admission.priority,
            queue_deadline: admission.queue_timeout.map(|t| self.arrived + t),
            deadline: admission.timeout.map(|t| self.arrived + t),
            cache_salt: salt(self.tenant, admission.cache_salt.as_deref()),
        }
    }
}

/// sha256 over the tenant's digest (zeros if none) and the salt; zeros where there is neither.
fn salt(tenant: Option<[u8; 32]>, cache_salt: Option<&str>) -> [u8; 32] {
    if tenant.is_none() && cache_salt.is_none() {
        return [0; 32];
    }
    let mut digest = Sha256::new();
    digest.update(tenant.unwrap_or_default());
    digest.update(cache_salt.unwrap_or_default());
    digest.finalize().into()
}

impl FromRequest<AppState> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        let authorization = head.headers.get(header::AUTHORIZATION);
        Ok(Self {
            arrived,
            tenant: authorization.map(|value| Sha256::digest(value.as_bytes()).into()),
            body: read(&head.headers, body, state.limits().body_bytes).await?,
        })
    }
}

/// The body, if it is not longer than `limit`. The content type is not looked at: a body is JSON or refused.
async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) && headers.contains_key(header::EXPECT) {
        return Err(too_large(limit)); // The client asked before sending: it hears the answer without sending.
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::with_capacity(length.unwrap_or(0).min(limit));
    let mut total = 0usize;
    loop {
        let chunk = tokio::time::timeout(BODY_PAUSE, chunks.next()).await;
        let Ok(chunk) = chunk else {
            let message = "the body stopped coming";
            return Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                message,
            ));
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|_| ApiError::bad_request("the body could not be read"))?;
        total = total.saturating_add(chunk.len());
        if total > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        }
        if total <= limit {
            bytes.extend_from_slice(&chunk);
        } else {
            bytes = Vec::new();
        }
    }
    if total > limit {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
