//! Neuron devices, without one: the runtime's interface against a stand-in for the library (see `fake_nrt`).

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

#[path = "neuron/rig.rs"]
mod rig;
#[path = "neuron/runtime.rs"]
mod runtime;
#[path = "neuron/serving.rs"]
mod serving;
#[path = "neuron/steps.rs"]
mod steps;
#[path = "neuron/verify.rs"]
mod verify;
