//! The stores against real servers, and against faults.

mod cached;
mod conformance;
mod fake_gcs;
mod faults;
mod faulty;
mod folders;
mod http_services;
mod late;
mod lines;
mod secrets;
mod servers;
