//! [`Status`]: what the library's status codes mean, and [`NeuronError`].

use super::api::RawStatus;
use crate::{Error, Fault};
use std::fmt;

/// A status of the library other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub i32);

impl Status {
    /// `NRT_RESOURCE`
    pub const RESOURCE: Self = Self(4);
    /// `NRT_TIMEOUT`
    pub const TIMEOUT: Self = Self(5);
    /// `NRT_HW_ERROR`
    pub const HARDWARE: Self = Self(6);
    /// `NRT_QUEUE_FULL`
    pub const QUEUE_FULL: Self = Self(7);
    /// `NRT_LOAD_NOT_ENOUGH_NC`
    pub const TOO_FEW_CORES: Self = Self(9);
    /// `NRT_UNSUPPORTED_NEFF_VERSION`
    pub const NEFF_VERSION: Self = Self(10);
    /// `NRT_EXEC_COMPLETED_WITH_NUM_ERR`
    pub const NOT_A_NUMBER: Self = Self(1003);
    /// `NRT_EXEC_NC_BUSY`
    pub const CORE_BUSY: Self = Self(1005);

    /// What it means, in a few words.
    pub fn meaning(self) -> &'static str {
        match self.0 {
            1 => "failed without a reason",
            2 => "invalid NEFF, or tensors that are not those of the model",
            3 => "invalid handle",
            4 => "not enough memory or another resource of the device",
            5 => "timed out",
            6 => "hardware failure",
            7 => "the queue of executions is full",
            9 => "not enough free cores for the NEFF",
            10 => "the version of the NEFF is not supported by this runtime",
            13 => "the runtime is not started",
            14 => "the runtime is closed",
            15 => "a queue is empty",
            101 => "the core cannot recover from an error",
            1002 => "invalid input",
            1003 => "numerical error: the result is not a number",
            1004 => "ended with an error",
            1005 => "the core is in use",
            1006 => "an index is out of bounds",
            1100 => "a collective operation is pending",
            1200 => "a collective operation is stuck",
            1201 | 1205 => "the device's memory has an error",
            1202 => "the core's memory has an error",
            1203 => "a transfer ended with an error of the hardware",
            1204 => "too many notifications",
            _ => "unknown status",
        }
    }

    /// What becomes of a request that meets it.
    pub fn fault(self) -> Fault {
        match self {
            Self::TIMEOUT => Fault::Timeout,
            Self::QUEUE_FULL | Self::CORE_BUSY => Fault::Busy,
            // The numbers are what newer runtimes tell in place of `HARDWARE`.
            Self::HARDWARE | Self(101 | 1200..=1203 | 1205) => Fault::Broken,
            _ => Fault::Other,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NRT_STATUS {}: {}", self.0, self.meaning())
    }
}

/// What can go wrong with a Neuron device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NeuronError {
    /// There is no library, or not the one that is meant.
    #[error("the Neuron runtime is not to be had: {0}")]
    Library(String),
    /// A process starts the runtime once.
    #[error("the Neuron runtime was started in this process before, and can be started once only")]
    Started,
    /// The library said no.
    #[error("{call} gave {status}")]
    Status {
        /// The function.
        call: &'static str,
        /// Its status.
        status: Status,
    },
    /// The library, or the caller, does not keep to the documented interface.
    #[error("{0}")]
    Contract(String),
}

impl NeuronError {
    /// The status, if the library gave one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Library(_) | Self::Started | Self::Contract(_) => None,
        }
    }

    /// As a failed step tells it.
    pub fn into_device(self) -> Error {
        let fault = self.status().map_or(Fault::Other, Status::fault);
        Error::Device(fault, self.to_string())
    }
}

/// Nothing, or the status of `call` as an error.
pub(super) fn check(call: &'static str, raw: RawStatus) -> Result<(), NeuronError> {
    match raw {
        0 => Ok(()),
        code => Err(NeuronError::Status {
            call,
            status: Status(code),
        }),
    }
}

/// A handle that `call` gave together with success.
pub(super) fn handle<T>(
    call: &'static str,
    pointer: *mut T,
) -> Result<std::ptr::NonNull<T>, NeuronError> {
    std::ptr::NonNull::new(pointer)
        .ok_or_else(|| NeuronError::Contract(format!("{call} gave success without a handle")))
}
