//! What the programs cost the verifier and the processor. The object is loaded as a data plane would load it, with every
//! size and constant that changes a program, and the kernel says what it made of it. Nothing is pinned or attached.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya_obj::copy_instructions;
use aya_obj::generated::{
    BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL, bpf_attr__bindgen_ty_9, bpf_cmd, bpf_insn, bpf_prog_info,
};
use lb_common::limits::{DEFAULT_FLOW_ENTRIES, MAX_BACKEND_ID, MAX_FLOW_ENTRIES, MIN_FLOW_ENTRIES};
use serde::Serialize;

use super::error::KernelError;
use super::object::{self, Sizes};
use super::pins::Meta;
use crate::model::config::Ports;

/// All that changes a program when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Configuration {
    pub flow_entries: u32,
    pub backend_capacity: u32,
    /// The clock's shift follows from it.
    pub jiffies_per_second: u32,
    /// The flow hash's key follows from it: this byte, 32 times.
    pub seed: u8,
    pub ports: Ports,
}

impl Configuration {
    /// Every combination of the least, the usual and the largest tables, of every shift that a kernel's HZ leads to, and of
    /// two hash keys and pools of ports. A constant that is new to the programs belongs here.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for flow_entries in [MIN_FLOW_ENTRIES, DEFAULT_FLOW_ENTRIES, MAX_FLOW_ENTRIES] {
            for backend_capacity in
                [Sizes::new(flow_entries, 0, Ports::DEFAULT).backend_capacity, u32::from(MAX_BACKEND_ID) + 1]
            {
                // One jiffy a second: the clock is measured with that. 300 has the shift of 250.
                for jiffies_per_second in [1, 100, 250, 1000] {
                    // With each key another pool of ports: the usual one, and one that ends within a block.
                    let of = |(seed, ports)| Self { flow_entries, backend_capacity, jiffies_per_second, seed, ports };
                    all.extend([(0, Ports::DEFAULT), (0xff, Ports { first: 40_000, last: 40_099 })].map(of));
                }
            }
        }
        all
    }
}

impl Default for Configuration {
    /// What a minimal configuration file gives on most kernels.
    fn default() -> Self {
        let backend_capacity = Sizes::new(DEFAULT_FLOW_ENTRIES, 1, Ports::DEFAULT).backend_capacity;
        Self {
            flow_entries: DEFAULT_FLOW_ENTRIES,
            backend_capacity,
            jiffies_per_second: 250,
            seed: 0,
            ports: Ports::DEFAULT,
        }
    }
}

impl Display for Configuration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { flow_entries, backend_capacity, jiffies_per_second, seed, ports } = self;
        write!(
            f,
            "{flow_entries} flows, {backend_capacity} backends, {jiffies_per_second} Hz, key {seed}, ports {ports}"
        )
    }
}

/// Of one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    pub program: String,
    /// Instructions that the verifier walked through.
    pub verified: u32,
    /// Instructions of the program as the kernel has rewritten it.
    pub instructions: usize,
    /// Bytes of machine code; 0 where the kernel does not compile.
    pub jited_bytes: u32,
    /// Instructions that call another function of the program.
    pub calls: usize,
}

/// Loads every program of the object, asks for its cost and throws it away.
///
/// # Errors
/// When the kernel refuses a program; the error names it.
pub fn costs(configuration: Configuration) -> Result<Vec<Cost>, KernelError> {
    let Configuration { flow_entries, backend_capacity, jiffies_per_second, seed, ports } = configuration;
    let sizes = Sizes { flow_entries, backends_needed: 0, backend_capacity, ports };
    let meta = Meta::of_seed([seed; 32], sizes, object::digest(), jiffies_per_second)?;
    let loaded = object::load(&meta, None)?;
    let mut costs = Vec::new();
    for (name, program) in loaded.programs() {
        // An error as well where the agent has forgotten to load it.
        let program = program.fd().map_err(KernelError::program("looking at a program"))?;
        costs.push(ask(name, program.as_fd()).map_err(KernelError::io(format!("ask about the program {name}")))?);
    }
    costs.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(costs)
}

fn ask(name: &str, program: BorrowedFd<'_>) -> io::Result<Cost> {
    // SAFETY: integers only; all zeroes asks for no array.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    get_info(program, &mut info)?;
    let mut instructions = vec![0_u8; info.xlated_prog_len as usize];
    // SAFETY: as above.
    let mut arrays: bpf_prog_info = unsafe { std::mem::zeroed() };
    arrays.xlated_prog_len = info.xlated_prog_len;
    arrays.xlated_prog_insns = instructions.as_mut_ptr() as u64;
    get_info(program, &mut arrays)?;
    // A hardened kernel has taken the constants out of the instructions, and keeps the result to itself.
    if arrays.xlated_prog_insns == 0 {
        return Err(io::Error::other("the kernel hides its instructions (sysctl net.core.bpf_jit_harden)"));
    }
    let instructions = copy_instructions(&instructions).map_err(io::Error::other)?;
    Ok(Cost {
        program: name.to_owned(),
        verified: info.verified_insns,
        instructions: instructions.len(),
        jited_bytes: info.jited_prog_len,
        calls: instructions.iter().filter(|instruction| is_call(instruction)).count(),
    })
}

/// Of another function of the program, not of the kernel.
fn is_call(instruction: &bpf_insn) -> bool {
    u32::from(instruction.code) == BPF_JMP | BPF_CALL && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL
}

/// BPF_OBJ_GET_INFO_BY_FD; aya's own asks for no instructions.
fn get_info(program: BorrowedFd<'_>, info: &mut bpf_prog_info) -> io::Result<()> {
    let question = bpf_attr__bindgen_ty_9 {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of::<bpf_prog_info>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the question is as long as said, and so is the answer's place; arrays in it are of the caller's length, or absent.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &raw const question, size_of_val(&question))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_functions_are_not_those_of_helpers() {
        let instruction = |code: u8, registers: u8| copy_instructions(&[code, registers, 0, 0, 1, 0, 0, 0]).unwrap()[0];
        assert!(is_call(&instruction(0x85, 0x10)));
        assert!(!is_call(&instruction(0x85, 0x00)), "a helper's");
        assert!(!is_call(&instruction(0x85, 0x20)), "a kernel function's");
        assert!(!is_call(&instruction(0x18, 0x10)), "a load of a map's address");
    }

    #[test]
    fn the_usual_configuration_is_one_of_all() {
        let all = Configuration::all();
        assert!(all.contains(&Configuration::default()) && all.len() == 48, "{}", all.len());
    }
}
