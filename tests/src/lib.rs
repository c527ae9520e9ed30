//! Helpers that the test targets of this package share.
