//! The routes over toy engines, without a port: `app(state)` answers requests one by one.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bad_input;
mod bad_target;
mod encoders;
mod exchange;
mod failure;
mod generate;
mod observer;
mod pool;
mod server;
mod state;
