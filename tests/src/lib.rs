//! End-to-end tests: the lab of network namespaces, the agent under test, the real programs whose traffic goes
//! through it, and the hostile frames. The tests themselves are in `tests/tests`, one file per promise.

pub mod agent;
pub mod clients;
pub mod config;
pub mod connections;
pub mod hostile;
mod http;
pub mod lab;
pub mod packets;
pub mod programs;
pub mod serial;
pub mod wait;
