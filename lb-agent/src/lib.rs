//! The agent of lb as a library; `main.rs` is the binary. ARCHITECTURE.md has the map.

pub mod api;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod decap;
pub mod demo_backend;
pub mod doctor;
pub mod engine;
pub mod health;
pub mod load;
pub mod model;
pub mod os;
pub mod policy;
pub mod run;
pub mod sim;
pub mod slots;
