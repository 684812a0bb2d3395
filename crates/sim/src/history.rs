//! What clients saw, and the checkers of it.
//!
//! Two checkers judge the same history, for they fail differently. `revisions` uses the revisions that answers carry: it is
//! exact, cheap, and runs with every answer, but believes the revisions. `register` believes nothing but values and times:
//! it searches for an order of the operations that explains them, which is expensive, so it runs once, at the end.

mod register;
mod revisions;

pub use register::{Action, Operation, Verdict, check};
pub use revisions::{RevisionOrder, Seen, Sent};
