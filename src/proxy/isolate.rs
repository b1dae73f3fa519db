//! A mistake of ours costs the request that meets it, and no other.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt as _;

use super::respond::ProxyError;

/// Does `work`. What it leaves behind when it panics is safe to use: what is shared is read anew by
/// every request, and locks and borrows end when the stack is unwound.
///
/// # Errors
/// With its own, and [`ProxyError::Internal`] if it panics.
pub fn isolated<T>(work: impl FnOnce() -> Result<T, ProxyError>) -> Result<T, ProxyError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(reported()))
}

/// The same for work that waits.
///
/// # Errors
/// With its own, and [`ProxyError::Internal`] if it panics.
pub async fn isolated_future<T>(
    work: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(reported()))
}

fn reported() -> ProxyError {
    tracing::error!("a mistake in countersign: the panic's place is on standard error");
    ProxyError::Internal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_error_and_everything_else_passes() {
        assert_eq!(isolated(|| Ok(7)).unwrap(), 7);
        assert!(matches!(isolated::<()>(|| Err(ProxyError::Busy)), Err(ProxyError::Busy)));
        let panicked = isolated::<()>(|| panic!("a mistake"));
        assert!(matches!(panicked, Err(ProxyError::Internal)));
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_also_after_a_wait() {
        assert_eq!(isolated_future(async { Ok(7) }).await.unwrap(), 7);
        let borrowed = std::cell::RefCell::new(());
        let panicked = isolated_future::<()>(async {
            tokio::task::yield_now().await;
            let _held = borrowed.borrow_mut();
            panic!("a mistake")
        });
        assert!(matches!(panicked.await, Err(ProxyError::Internal)));
        assert!(borrowed.try_borrow_mut().is_ok(), "nothing stays borrowed");
    }
}
