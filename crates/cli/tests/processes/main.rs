//! The program as operators meet it: real processes, sockets and disks, with kill -9, SIGSTOP and bad folders.
//!
//! Every test starts its own nodes and ends them, however it ends; one cluster runs at a time, because timings are held too.
//! What was measured is printed: `cargo test -p quorate-cli --test processes -- --nocapture`.

mod abuse;
mod backups;
mod bad_input;
mod bad_starts;
mod caches;
mod completions;
mod copied_folders;
mod discovery;
mod documents;
mod expectation;
mod expiry;
mod figures;
mod formation;
mod full_disk;
mod history;
mod keyspaces;
mod kills;
mod locks;
mod many_keyspaces;
mod membership;
mod moves;
mod node_watches;
mod once;
mod outside;
mod outside_behind;
mod outside_kinds;
mod outside_tls;
mod pauses;
mod replication;
mod restarts;
mod sessions;
mod stops;
mod support;
mod top;
mod tours;
mod transactions;
mod transfers;
mod watches;
