//! Clusters of nodes without a shell: scripts of the protocol, step by step.

mod defects;
mod harness;
