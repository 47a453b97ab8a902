//! The data plane as the agent drives it. Only `kernel` knows aya.

pub mod kernel;
