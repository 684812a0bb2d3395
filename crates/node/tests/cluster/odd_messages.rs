//! What no peer says unless something is wrong with it: it is refused, and does no harm.
