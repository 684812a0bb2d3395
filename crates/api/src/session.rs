//! What nodes and clients agree on about sessions: see [`crate::header::SESSION`].

/// With this instead of a token a session begins.
pub const NEW: &str = "new";

/// Tokens in one request, at most: from requests that went beside each other.
pub const MAX_TOKENS: usize = 64;
