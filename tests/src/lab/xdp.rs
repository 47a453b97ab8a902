//! Programs seen from outside: the smallest program there is, for the far ends of veth pairs and as the
//! foreign program of a test; and what the kernel says is attached, asked over netlink so that the tests need
//! neither the agent nor its libraries to answer.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_agent::dataplane::kernel::tc_programs;
use lb_agent::model::config::Hook;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::{Handle, LinkUnspec};

use super::namespace::Namespace;
use super::netlink;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The beginning of `union bpf_attr` as BPF_PROG_LOAD reads it.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads a program that passes every packet to the stack.
pub fn load_pass() -> Result<OwnedFd> {
    const XDP_PASS: u64 = 2;
    // `r0 = XDP_PASS; exit`: opcode in the lowest byte, immediate in the upper half.
    let instructions: [u64; 2] = [0xb7 | (XDP_PASS << 32), 0x95];
    let mut name = [0; 16];
    name[..12].copy_from_slice(b"lb_test_pass");
    let attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    let size = std::mem::size_of::<LoadAttributes>();
    // SAFETY: the attributes and what they point to live until the call returns, and their size is passed along.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size) };
    let fd = i32::try_from(fd).context("a descriptor is a small number")?;
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("loading an XDP program that passes everything");
    }
    // SAFETY: the call has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program in native mode, unless there is one; the kernel detaches it when the device goes.
pub async fn attach(handle: &Handle, device: &str, program: &OwnedFd) -> Result<()> {
    let index = netlink::link(handle, device).await?.index;
    let how = LinkXdp::Flags(XDP_FLAGS_UPDATE_IF_NOEXIST | XDP_FLAGS_DRV_MODE);
    let attribute = LinkAttribute::Xdp(vec![LinkXdp::Fd(program.as_raw_fd()), how]);
    let change = LinkUnspec::new_with_index(index).append_extra_attribute(attribute).build();
    handle.link().change(change).execute().await.with_context(|| format!("attaching an XDP program to {device}"))
}

/// The program on a device: its number, if there is one.
pub async fn program_id(handle: &Handle, device: &str) -> Result<Option<u32>> {
    let message = netlink::message(handle, device).await?;
    let xdp = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(about) => Some(about),
        _ => None,
    });
    Ok(xdp.and_then(|about| {
        about.iter().find_map(|detail| match detail {
            LinkXdp::ProgId(id) if *id != 0 => Some(*id),
            _ => None,
        })
    }))
}

/// The program that packets meet first on a device at a hook, asked in the device's namespace.
pub async fn program_at(hook: Hook, handle: &Handle, device: &str) -> Result<Option<u32>> {
    match hook {
        Hook::Xdp => program_id(handle, device).await,
        Hook::Auto | Hook::Tc => Ok(tc_programs(device).first().copied()),
    }
}

/// Asks every 10 ms which program is on each of some devices, and remembers every answer that differs.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Seen>>>,
}

/// What was seen on one device, in the order in which it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub device: String,
    pub programs: Vec<Option<u32>>,
    pub polls: u64,
}

impl Watch {
    const PERIOD: Duration = Duration::from_millis(10);

    pub fn start(namespace: &Namespace, devices: &[String], hook: Hook) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut seen: Vec<Seen> =
            devices.iter().map(|device| Seen { device: device.clone(), programs: Vec::new(), polls: 0 }).collect();
        let stopped = Arc::clone(&stop);
        let thread = namespace.tokio_thread(move || async move {
            let handle = netlink::connect()?;
            let mut ticks = tokio::time::interval(Self::PERIOD);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                for one in &mut seen {
                    let id = program_at(hook, &handle, &one.device).await?;
                    one.polls += 1;
                    if one.programs.last() != Some(&id) {
                        one.programs.push(id);
                    }
                }
            }
            Ok(seen)
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Result<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
