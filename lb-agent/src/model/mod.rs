//! Plain types that every other module speaks in: what was configured (`config`) and what is shown (`view`).
//! They hold no behaviour beyond names, defaults, how a value is spelled and what `auto` stands for (`hook`), and depend on
//! nothing.

pub mod admin;
pub mod config;
pub mod duration;
pub mod hook;
pub mod latency;
pub mod pool;
pub mod prefix;
pub mod scenario;
pub mod view;
