//! Damaged and odd files, made byte by byte.
