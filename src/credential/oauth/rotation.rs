//! The refresh token that came with the last access token.
//!
//! It lives as long as the process. Over a restart it is a value of the credential, which a store
//! keeps: [`RefreshTokens::keep`] is then called with what is read again.

use std::sync::{Mutex, PoisonError};

use crate::secret::Secret;

/// The newest refresh token.
#[derive(Debug, Default)]
pub(super) struct RefreshTokens(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    token: Secret,
    /// The secrets of the grant that it came of.
    basis: Vec<Secret>,
}

impl RefreshTokens {
    /// The newest token that came of these secrets. What others have brought is no longer of use:
    /// a new password owes nothing to what the old one returned.
    pub(super) fn current(&self, basis: &[Secret]) -> Option<Secret> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|kept| kept.basis == basis).map(|kept| kept.token.clone())
    }

    /// Takes the place of the one before.
    pub(super) fn keep(&self, token: Secret, basis: &[Secret]) {
        let kept = Kept { token, basis: basis.to_vec() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    /// It is used up, or nobody knows whether it is.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_belongs_to_the_secrets_that_it_came_of() {
        let tokens = RefreshTokens::default();
        let (old, new) = ([Secret::new("old")], [Secret::new("new")]);
        assert_eq!(tokens.current(&old), None);
        tokens.keep(Secret::new("r1"), &old);
        assert_eq!(tokens.current(&old), Some(Secret::new("r1")));
        assert_eq!(tokens.current(&new), None, "another password");
        tokens.keep(Secret::new("r2"), &new);
        assert_eq!(tokens.current(&old), None);
        tokens.forget();
        assert_eq!(tokens.current(&new), None);
        assert!(!format!("{tokens:?}").contains("r2"));
    }
}
