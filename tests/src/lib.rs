//! Helpers that the targets of this package share: golden cases, models driven without the engine, and how good they are.

pub mod artifact;
pub mod fake_nrt;
pub mod forward;
pub mod golden;
pub mod models_table;
pub mod quality;
