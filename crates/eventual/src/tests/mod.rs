//! Whole replicas: a cluster of them with a network that loses, repeats and reorders, disks that lose what was not synced, and
//! clocks that jump; an oracle that knows all that was ever written; properties P1 to P12 of what they become.

mod caches;
mod cluster;
mod copies;
mod disks;
mod hunt;
mod joining;
mod merging;
mod mirrors;
mod mutations;
mod oracle;
mod properties;
mod scenarios;
mod sessions;
mod watching;
