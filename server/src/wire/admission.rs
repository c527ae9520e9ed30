//! [`Admission`]: the fields that say when and with whom a request runs; [`Cut`]: how a prompt that is too long is cut.

use super::Fields;
use crate::ApiError;
use std::time::Duration;

/// Longest deadline a client may ask for: a day, in milliseconds.
const MAX_TIMEOUT_MS: i64 = 24 * 60 * 60 * 1000;
/// Most characters of a `cache_salt`.
const MAX_SALT: usize = 128;

/// When and with whom a request runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Admission {
    /// `priority`: lower goes first, default 0.
    pub(crate) priority: i32,
    /// `queue_timeout_ms`: fail with 503 if not started within this time of arrival.
    pub(crate) queue_timeout: Option<Duration>,
    /// `timeout_ms`: fail with 504 if not finished within this time of arrival.
    pub(crate) timeout: Option<Duration>,
    /// `cache_salt`: only requests with the same salt (and Authorization) share cached prefixes.
    pub(crate) cache_salt: Option<String>,
}

impl Admission {
    pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        let (low, high) = (i64::from(i32::MIN), i64::from(i32::MAX));
        let priority = fields.in_range("priority", low, high)?.unwrap_or(0);
        let cache_salt = fields.string("cache_salt")?.filter(|salt| !salt.is_empty());
        if cache_salt
            .as_ref()
            .is_some_and(|salt| salt.chars().count() > MAX_SALT)
        {
            let message = format!("must have at most {MAX_SALT} characters");
            return Err(fields.error("cache_salt", message));
        }
        Ok(Self {
            priority: i32::try_from(priority).unwrap_or(0),
            queue_timeout: milliseconds(fields, "queue_timeout_ms")?,
            timeout: milliseconds(fields, "timeout_ms")?,
            cache_salt,
        })
    }
}

fn milliseconds(fields: &mut Fields<'_>, name: &str) -> Result<Option<Duration>, ApiError> {
    let value = fields.in_range(name, 1, MAX_TIMEOUT_MS)?;
    Ok(value.map(|ms| Duration::from_millis(ms.unsigned_abs())))
}

/// What to do with a prompt that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Refuse it.
    #[default]
    Refuse,
    /// Cut it to the model's window (`truncate: true`, or `truncate_prompt_tokens: -1`).
    Window,
    /// Cut it to this many tokens (`truncate_prompt_tokens`).
    To(usize),
}

impl Cut {
    pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        let tokens = fields.in_range("truncate_prompt_tokens", -1, i64::from(u32::MAX))?;
        let window = fields.boolean("truncate")?.unwrap_or(false);
        match tokens {
            Some(0) => Err(fields.error("truncate_prompt_tokens", "must be -1 or at least 1")),
            Some(-1) => Ok(Self::Window),
            Some(tokens) => Ok(Self::To(usize::try_from(tokens).unwrap_or(usize::MAX))),
            None if window => Ok(Self::Window),
            None => Ok(Self::Refuse),
        }
    }

    /// The most tokens of a prompt for a model that takes `window`; none if nothing is to be cut.
    pub(crate) fn limit(self, window: usize) -> Option<usize> {
        match self {
            Self::Refuse => None,
            Self::Window => Some(window),
            Self::To(tokens) => Some(tokens.min(window)),
        }
    }
}

/// Whether the head's activation is left out: `raw_scores: true` or `use_activation: false`.
pub(crate) fn raw_scores(fields: &mut Fields<'_>) -> Result<bool, ApiError> {
    let raw = fields.boolean("raw_scores")?;
    let activated = fields.boolean("use_activation")?;
    match (raw, activated) {
        (Some(raw), Some(activated)) if raw == activated => {
            Err(fields.error("use_activation", "contradicts raw_scores"))
        }
        (raw, activated) => Ok(raw.unwrap_or(false) || activated == Some(false)),
    }
}
