//! Two network namespaces for tests, without a name and without a trace: each exists as long as a thread or a
//! descriptor of the test holds it. Tests that use it are skipped, and say so, where namespaces cannot be made.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::os::links::{self, Link};
use crate::os::netlink::Netlink;

/// The namespace of the running test, and a second one to be its neighbour.
pub(crate) struct Lab {
    netlink: Netlink,
    peer: File,
}

/// Runs `test` in a new namespace, on a thread and a runtime of its own.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root to make network namespaces");
        return;
    }
    let peer = namespace_file(|| unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for the peer"));
    joined(thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a namespace for the test");
                block_on(async {
                    let lab = Lab { netlink: Netlink::open().unwrap(), peer };
                    lab.up("lo").await;
                    test(lab).await;
                });
            })
            .join()
    }));
}

/// Enters a namespace on a thread of its own; the descriptor that is returned keeps the namespace alive.
fn namespace_file(enter: impl FnOnce() + Send) -> File {
    joined(thread::scope(|scope| {
        scope
            .spawn(|| {
                enter();
                File::open("/proc/thread-self/ns/net").expect("the namespace's descriptor")
            })
            .join()
    }))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Lab {
    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Runs something in the neighbour's namespace, on a thread and a runtime of its own.
    pub(crate) fn in_peer<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        joined(thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(self.peer.as_fd(), CloneFlags::CLONE_NEWNET).expect("the neighbour's namespace");
                    block_on(async { work().await })
                })
                .join()
        }))
    }

    /// Makes a veth pair, moves the second end to the neighbour's namespace and sets both up.
    pub(crate) async fn veth(&self, name: &str, peer: &str) -> Link {
        let link = self.netlink.handle().link();
        link.add(LinkVeth::new(name, peer).build()).execute().await.unwrap();
        let moved = named(peer).setns_by_fd(self.peer.as_raw_fd()).build();
        link.set(moved).execute().await.unwrap();
        self.up(name).await;
        self.in_peer(|| async { set(&Netlink::open().unwrap(), named(peer).up()).await });
        links::by_name(name).await.unwrap()
    }

    /// A veth pair with 10.0.0.1 and fd00::1 here and 10.0.0.2 and fd00::2 in the neighbour's namespace.
    pub(crate) async fn neighbours(&self, name: &str, peer: &str) -> Link {
        let link = self.veth(name, peer).await;
        add_addresses(&self.netlink, name, 1).await;
        self.in_peer(|| async { add_addresses(&Netlink::open().unwrap(), peer, 2).await });
        link
    }

    pub(crate) async fn up(&self, name: &str) {
        set(&self.netlink, named(name).up()).await;
    }

    pub(crate) async fn down(&self, name: &str) {
        set(&self.netlink, named(name).down()).await;
    }

    pub(crate) async fn delete(&self, name: &str) {
        let index = links::by_name(name).await.unwrap().index;
        self.netlink.handle().link().del(index).execute().await.unwrap();
    }
}

pub(crate) fn named(name: &str) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name)
}

pub(crate) async fn set(netlink: &Netlink, change: LinkMessageBuilder<LinkUnspec>) {
    netlink.handle().link().set(change.build()).execute().await.unwrap();
}

async fn add_addresses(netlink: &Netlink, name: &str, last: u8) {
    let index = links::by_name_with(netlink, name).await.unwrap().index;
    netlink.handle().address().add(index, [10, 0, 0, last].into(), 24).execute().await.unwrap();
    let v6 = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last));
    let mut request = netlink.handle().address().add(index, v6.into(), 64);
    // Without this the address is tentative for a second, and a test would have to wait for it.
    request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    request.execute().await.unwrap();
}

/// Loads an XDP program that passes every frame. Written on the system call because only the data plane uses aya.
pub(crate) fn load_pass() -> OwnedFd {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_TYPE_XDP: u32 = 6;
    /// The first fields of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_count: u32,
        insns: *const u64,
        license: *const libc::c_char,
    }
    // r0 = XDP_PASS; exit
    let instructions = [0x0000_0002_0000_00b7_u64.to_le(), 0x95_u64.to_le()];
    let load = Load { prog_type: PROG_TYPE_XDP, insn_count: 2, insns: instructions.as_ptr(), license: c"GPL".as_ptr() };
    // SAFETY: the kernel reads the structure, whose size is given, and the instructions and text that it points to;
    // all outlive the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let descriptor = i32::try_from(descriptor).unwrap();
    assert!(descriptor >= 0, "loading a program: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
pub(crate) const GENERIC: u32 = 1 << 1;
pub(crate) const NATIVE: u32 = 1 << 2;

/// Attaches a program to an interface.
pub(crate) async fn attach(
    netlink: &Netlink,
    name: &str,
    program: &OwnedFd,
    mode: u32,
) -> Result<(), rtnetlink::Error> {
    let xdp = vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(mode)];
    let change = named(name).append_extra_attribute(LinkAttribute::Xdp(xdp)).build();
    netlink.handle().link().set(change).execute().await
}
