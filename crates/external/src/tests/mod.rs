//! The stores against real servers, and against faults.

mod cached;
mod conformance;
mod fake_gcs;
mod fake_search;
mod faults;
mod faulty;
mod folders;
mod late;
mod lines;
mod secrets;
