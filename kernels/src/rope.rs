//! Rotary position embedding (Su et al., arXiv:2104.09864) on the packed q, k, v rows.

use crate::cpu::isa::dispatch;
use crate::cpu::rope::Rotate;
use crate::cpu::shared::Shared;
use crate::{Cx, HeadLayout, Rows};

/// Frequencies of a model's rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Inverse frequencies, `[rotary_dim / 2]`, scaling already applied.
    pub inv_freq: Vec<f32>,
    /// Factor on cos and sin (1 except for YaRN-like scaling).
    pub scale: f32,
    /// Whether pairs are neighbours (0,1), (2,3).. (GGUF's order of Llama weights) and not halves (i, i + `rotary_dim/2`)
    /// (Hugging Face's order).
    pub interleaved: bool,
}

/// Cosines and sines of one step's positions, once for all layers: `out` becomes `[tokens, rotary_dim]`, the first half
/// of a row cos, the second sin. The angle is the f32 product `position * inv_freq`, as in Hugging Face.
pub fn rope_angles(cx: &Cx, positions: &[u32], table: &RopeTable, out: &mut Rows) {
    let half = table.inv_freq.len();
    out.reset(positions.len(), 2 * half);
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::rope_angles(stream, positions, table, out);
    }
    let rows = Shared::new(out.as_mut_slice());
    // A sine or cosine counts for twenty simple operations.
    cx.run_rows(positions.len(), 40 * half, &|range| {
        for r in range {
            // SAFETY: a row belongs to one range.
            let row = unsafe { rows.part(2 * half * r..2 * half * (r + 1)) };
            let (cos, sin) = row.split_at_mut(half);
            for ((c, s), f) in cos.iter_mut().zip(sin).zip(&table.inv_freq) {
                let angle = positions[r] as f32 * f;
                *c = angle.cos() * table.scale;
                *s = angle.sin() * table.scale;
            }
        }
    });
}

/// Rotates the q and k heads of each row in place. `qkv`: `[tokens, layout.qkv_width()]`; `angles`: of [`rope_angles`];
/// a head's first `angles.width()` values are rotated, the rest stay.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn rope(cx: &Cx, qkv: &mut Rows, layout: &HeadLayout, angles: &Rows, interleaved: bool) {
    assert_eq!(qkv.width(), layout.qkv_width(), "rope: width");
    assert_eq!(qkv.rows(), angles.rows(), "rope: tokens");
    assert!(angles.width() <= layout.k_dim, "rope: rotary dim");
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::rope(stream, qkv, layout, angles, interleaved);
    }
    let half = angles.width() / 2;
    let heads = (layout.q_heads + layout.kv_heads) * layout.k_dim;
    let (rows, width) = (qkv.rows(), qkv.width());
    let qkv = Shared::new(qkv.as_mut_slice());
    cx.run_rows(rows, 2 * heads, &|range| {
        for r in range {
            let (cos, sin) = angles.row(r).split_at(half);
            let kernel = Rotate {
                // SAFETY: a row belongs to one range.
                heads: unsafe { qkv.part(r * width..r * width + heads) },
                dim: layout.k_dim,
                cos,
                sin,
                interleaved,
            };
            dispatch(cx.isa(), kernel);
        }
    });
}
