//! Removing what is over, where a store only hides it: whoever comes across it takes it away, as long as nobody wrote the key
//! meanwhile. What nobody comes across stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{ErrorKind, StoreError, Written};

/// Whoever reads waits no longer for the removal of what he may not have anyway.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Sweeps one store.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    /// We may read there, and not remove: it is not tried again until the store is opened anew.
    is_denied: AtomicBool,
}

impl Sweeper {
    /// Carries out a removal that happens only if the pair is still the one that is over. How that ends is nobody's concern.
    pub(crate) async fn sweep(&self, removal: impl Future<Output = Result<Written, StoreError>>) {
        if self.is_denied.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(Err(error)) = tokio::time::timeout(MAX_WAIT, removal).await
            && error.kind == ErrorKind::Denied
        {
            self.is_denied.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_may_not_remove_does_not_try_again_and_nobody_waits_for_long() {
        let sweeper = Sweeper::default();
        sweeper.sweep(std::future::pending()).await;
        let fails = |kind| async move { Err(StoreError::new("told", kind, "planted")) };
        sweeper.sweep(fails(ErrorKind::Failing)).await;
        let mut is_tried = false;
        sweeper.sweep(async { Ok(Written::Done(None)).inspect(|_| is_tried = true) }).await;
        assert!(std::mem::take(&mut is_tried));
        sweeper.sweep(fails(ErrorKind::Denied)).await;
        sweeper.sweep(async { Ok(Written::Done(None)).inspect(|_| is_tried = true) }).await;
        assert!(!is_tried);
    }
}
