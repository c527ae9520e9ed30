//! Fields, ranges, and the two spellings.
