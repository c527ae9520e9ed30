//! The names of the ways of pooling.

pub use koma_kernels::Pooling;

/// All of them, by the names that sentence-transformers has for them.
pub(crate) const NAMED: [(&str, Pooling); 6] = [
    ("cls", Pooling::Cls),
    ("max", Pooling::Max),
    ("mean", Pooling::Mean),
    ("mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("weightedmean", Pooling::WeightedMean),
    ("lasttoken", Pooling::Last),
];

/// The name that sentence-transformers has for it.
///
/// # Panics
/// Never: all are named.
pub fn pooling_name(pooling: Pooling) -> &'static str {
    let named = NAMED.iter().find(|(_, named)| *named == pooling);
    named.expect("all of them are named").0
}
