//! Threads without which the node is nothing.

/// Ends the process if the thread that holds it panics: the others would wait for it for ever, and only a new start knows
/// what is true.
#[derive(Debug)]
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
