//! Plain types that every other module speaks in: what was configured (`config`) and what is shown (`view`).
//! They hold no behaviour beyond names, defaults and how a value is spelled, and depend on nothing.

pub mod admin;
pub mod config;
pub mod duration;
pub mod pool;
pub mod prefix;
pub mod scenario;
pub mod view;
