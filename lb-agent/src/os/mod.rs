//! What the agent asks of the Linux host: links, routes and neighbours over netlink, offloads over ethtool,
//! switches under /proc. Every answer is about the network namespace of the calling thread; nothing here
//! knows about services, and nothing but [`next_hop`] and [`neighbours`] makes the kernel send a packet.

pub mod addresses;
pub mod ethtool;
pub mod hook;
pub mod host;
#[cfg(test)]
pub(crate) mod lab;
pub mod links;
pub mod neighbours;
pub mod netdev;
pub mod netlink;
pub mod next_hop;
pub mod sysctl;
