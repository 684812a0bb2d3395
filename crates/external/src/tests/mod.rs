//! The stores against real servers, and against faults.

mod cached;
mod conformance;
mod folders;
mod http_services;
mod lines;
mod servers;
