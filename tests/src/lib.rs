//! Helpers that the test targets of this package share: golden cases, and models driven without the engine.

pub mod forward;
pub mod golden;
pub mod models_table;
