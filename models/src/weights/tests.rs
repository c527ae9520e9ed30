//! Conversion, accounting and damaged files.
