//! Mistral (Jiang et al., arXiv:2310.06825): a Llama whose layers see a window, from a Hugging Face folder. GGUF files of it
//! call themselves Llama, or `mistral3`.

use super::decoder::folder::{DEFAULTS, sliding_window};
use super::decoder::{self, Spec};
use super::llama;
use crate::LoadError;
use crate::registry::{Built, Checkpoint};

/// Builds the model. See [`crate::registry`].
pub(crate) fn build(checkpoint: &mut Checkpoint) -> Result<Built, LoadError> {
    if checkpoint.gguf.is_some() {
        return llama::build(checkpoint);
    }
    let json = checkpoint.folder()?.1;
    if json.value("layer_types").is_some() {
        let reason = "is not supported: all layers of this architecture see the same window";
        return Err(json.error("layer_types", reason));
    }
    let mut spec = Spec::folder(&json, &DEFAULTS)?;
    if let Some(window) = sliding_window(&json)? {
        spec.slide(window, None, |_| true);
    }
    decoder::build(checkpoint, &spec)
}
