//! One file per route: decode, ask the engine, answer.

pub(crate) mod health;
