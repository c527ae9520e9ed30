//! Neuron devices, without one: the runtime's interface against a stand-in for the library (see `fake_nrt`).

#[path = "neuron/runtime.rs"]
mod runtime;
