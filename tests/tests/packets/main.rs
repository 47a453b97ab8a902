//! Packet rows: each is a packet, what happened before it, and everything that the loaded program must make of it
//! (`lb_tests::packets`). One file for each kind of promise; without root they say that they are skipped.

mod answers;
mod decap;
mod errors;
mod eviction;
mod forwarding;
mod hints;
mod latency;
mod malformed;
mod mutation;
mod not_ours;
mod replies;
mod requests;
mod route;
mod schedulers;
mod shared;
mod slots;
mod snat;
mod tcp4;
mod tcp6;
mod tracking;
mod udp4;
mod udp6;
mod way_back;
