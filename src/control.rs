//! What is asked of the running program, and what came of it.

/// What can be asked of the running program. Clones are of the same.
#[derive(Debug, Clone, Default)]
pub struct Control;

impl Control {
    /// How many reloads ended in which way, by the outcome's word.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        ["unchanged", "taken", "refused"].map(|word| (word, 0))
    }
}
