//! The directory on the BPF file system: who may use it, what is in it, how it goes away.
//!
//! ```text
//! PIN_DIR/v1/maps/SERVICES_V4 ...   the maps, and META, which only the agent reads
//!           /programs/balance ...
//!           /links/HOOK-IFINDEX     the attachments
//! ```
//!
//! A fresh data plane is pinned under another name first and renamed when it is complete, so what is found under `v1` is
//! whole. One of another layout lies beside it (`v2`) until the newer has taken its interfaces ([`super::succession`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use aya::programs::links::PinnedLink;
use aya::programs::{ProgramInfo, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::hash::KEY_WORDS;
use lb_common::maps::LAYOUT;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::attach::Hook;
use super::error::KernelError;
use super::object::Sizes;
use crate::model::config::Ports;
use crate::os::host::on_bpffs;

pub(super) const META: &str = "META";

/// A locked pin directory. The lock ends with the process, however it ends.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    pub(super) fn lock(root: &Path) -> Result<Self, KernelError> {
        if !on_bpffs(root).map_err(KernelError::io(format!("look at {}", root.display())))? {
            return Err(KernelError::NotBpffs(root.to_owned()));
        }
        make_directory(root)?;
        let directory = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(root)
            .map_err(KernelError::io(format!("open {}", root.display())))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(KernelError::Locked(root.to_owned())),
            Err((_, error)) => Err(KernelError::io(format!("lock {}", root.display()))(error.into())),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn current(&self) -> PathBuf {
        self.root.join(directory_name(LAYOUT))
    }

    /// Data planes of other layouts that are pinned here.
    pub(super) fn others(&self) -> Vec<PathBuf> {
        layouts(&self.root).into_iter().filter(|path| *path != self.current()).collect()
    }

    fn unfinished(&self) -> PathBuf {
        self.root.join("unfinished")
    }

    pub(super) fn map_path(&self, name: &str) -> PathBuf {
        self.current().join("maps").join(name)
    }

    pub(super) fn program_path(&self, name: &str) -> PathBuf {
        self.current().join("programs").join(name)
    }

    pub(super) fn link_path(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.current().join("links").join(format!("{}-{ifindex}", hook.name()))
    }

    pub(super) fn map_data(&self, name: &'static str) -> Result<MapData, KernelError> {
        MapData::from_pin(self.map_path(name)).map_err(KernelError::map(name))
    }

    pub(super) fn map(&self, name: &'static str) -> Result<Map, KernelError> {
        Map::from_map_data(self.map_data(name)?).map_err(KernelError::map(name))
    }

    pub(super) fn program(&self, name: &'static str) -> Result<Xdp, KernelError> {
        Xdp::from_pin(self.program_path(name), XdpAttachType::Interface).map_err(KernelError::program(name))
    }

    pub(super) fn tc_program(&self) -> Result<SchedClassifier, KernelError> {
        let name = super::object::BALANCE_TC;
        SchedClassifier::from_pin(self.program_path(name)).map_err(KernelError::program(name))
    }

    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> Result<Option<PinnedLink>, KernelError> {
        let path = self.link_path(hook, ifindex);
        if !path.exists() {
            return Ok(None);
        }
        PinnedLink::from_pin(&path).map(Some).map_err(|error| KernelError::Io {
            what: format!("open {}", path.display()),
            source: io::Error::other(error),
        })
    }

    /// Hooks and interface numbers that have a pinned attachment.
    pub(super) fn links(&self) -> Result<Vec<(Hook, u32)>, KernelError> {
        let directory = self.current().join("links");
        let entries = fs::read_dir(&directory).map_err(KernelError::io(format!("read {}", directory.display())))?;
        Ok(entries.flatten().filter_map(|entry| parse_link(entry.file_name().to_str()?)).collect())
    }

    /// None: no data plane of this layout is here.
    pub(super) fn read_meta(&self) -> Result<Option<Meta>, KernelError> {
        if !self.current().exists() {
            return Ok(None);
        }
        let map = MapData::from_pin(self.map_path(META)).map_err(|_| KernelError::Incomplete(self.root.clone()))?;
        meta_of(map).map(Some)
    }

    pub(super) fn write_meta(&self, meta: Meta) -> Result<(), KernelError> {
        let map = self.map_data(META)?;
        set_meta(&mut Array::try_from(Map::Array(map)).map_err(KernelError::map(META))?, meta)
    }

    /// Lets `fill` pin a data plane in a new directory, then puts that in place in one step.
    pub(super) fn create(
        &self,
        meta: Meta,
        fill: impl FnOnce(&Path) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let unfinished = self.unfinished();
        if unfinished.exists() {
            remove_tree(&unfinished)?;
        }
        for directory in ["", "maps", "programs", "links"] {
            make_directory(&unfinished.join(directory))?;
        }
        let mut map = Array::<_, [u8; META_BYTES]>::create(1, 0).map_err(KernelError::map(META))?;
        set_meta(&mut map, meta)?;
        map.pin(unfinished.join("maps").join(META)).map_err(pin_error)?;
        fill(&unfinished)?;
        fs::rename(&unfinished, self.current()).map_err(KernelError::io("put the data plane in place"))
    }
}

/// Of any layout: the map's size and what this reads of it stay.
pub(super) fn meta_of(map: MapData) -> Result<Meta, KernelError> {
    let array = Array::<_, [u8; META_BYTES]>::try_from(Map::Array(map)).map_err(KernelError::map(META))?;
    let bytes = array.get(&0, 0).map_err(KernelError::map(META))?;
    Ok(zerocopy::transmute!(bytes))
}

fn directory_name(layout: u32) -> String {
    format!("v{layout}")
}

/// Directories of data planes of any layout below `root`.
fn layouts(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let of_layout = |name: &str| name.strip_prefix('v').is_some_and(|layout| layout.parse::<u32>().is_ok());
    entries
        .into_iter()
        .filter(|entry| entry.file_name().to_str().is_some_and(of_layout))
        .map(|entry| entry.path())
        .collect()
}

/// The reverse of [`Pins::link_path`]. Before layout 8 there was XDP only, and a name was the interface's number.
pub(super) fn parse_link(name: &str) -> Option<(Hook, u32)> {
    let (hook, ifindex) = name.split_once('-').unwrap_or((Hook::Xdp.name(), name));
    Some((Hook::ALL.into_iter().find(|known| known.name() == hook)?, ifindex.parse().ok()?))
}

fn set_meta(map: &mut Array<MapData, [u8; META_BYTES]>, meta: Meta) -> Result<(), KernelError> {
    let bytes: [u8; META_BYTES] = zerocopy::transmute!(meta);
    map.set(0, bytes, 0).map_err(KernelError::map(META))
}

pub(super) fn pin_error(error: aya::pin::PinError) -> KernelError {
    KernelError::Io { what: "pinning".into(), source: io::Error::other(super::error::chain(&error)) }
}

fn make_directory(path: &Path) -> Result<(), KernelError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(KernelError::io(format!("make the directory {}", path.display())))
}

const META_BYTES: usize = size_of::<Meta>();

/// What the agent must know of a data plane that it did not load itself. The seed, the namespace and the size of the whole are
/// the same in every layout, so that the next one can follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(super) struct Meta {
    /// Everything secret is derived from this.
    pub(super) seed: [u8; 32],
    /// Of the object that the programs came from.
    pub(super) digest: [u8; 32],
    /// Inode of the network namespace.
    namespace: u64,
    pub(super) flow_entries: u32,
    pub(super) backend_capacity: u32,
    /// Jiffies a second.
    pub(super) jiffies_per_second: u32,
    /// Jiffies are shifted by this to give the flow entries' unit of time.
    pub(super) time_shift: u32,
    first_port: u32,
    last_port: u32,
}

impl Meta {
    pub(super) fn new(sizes: Sizes, digest: [u8; 32], jiffies_per_second: u32) -> Result<Self, KernelError> {
        let mut seed = [0; 32];
        let mut random = File::open("/dev/urandom").map_err(KernelError::io("open /dev/urandom"))?;
        io::Read::read_exact(&mut random, &mut seed).map_err(KernelError::io("read /dev/urandom"))?;
        Self::of_seed(seed, sizes, digest, jiffies_per_second)
    }

    pub(super) fn of_seed(
        seed: [u8; 32],
        sizes: Sizes,
        digest: [u8; 32],
        jiffies_per_second: u32,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            seed,
            digest,
            namespace: network_namespace()?,
            flow_entries: sizes.flow_entries,
            backend_capacity: sizes.backend_capacity,
            jiffies_per_second,
            time_shift: time_shift(jiffies_per_second),
            first_port: sizes.ports.first.into(),
            last_port: sizes.ports.last.into(),
        })
    }

    pub(super) fn check(&self, pins: &Pins, sizes: Sizes) -> Result<(), KernelError> {
        let path = || pins.root().to_owned();
        self.check_namespace(pins)?;
        if self.flow_entries != sizes.flow_entries {
            return Err(KernelError::FlowTableSize { path: path(), is: self.flow_entries, asked: sizes.flow_entries });
        }
        if self.backend_capacity < sizes.backends_needed {
            let (is, asked) = (self.backend_capacity, sizes.backends_needed);
            return Err(KernelError::BackendCapacity { path: path(), is, asked });
        }
        if self.ports() != sizes.ports {
            return Err(KernelError::Ports { path: path(), is: self.ports(), asked: sizes.ports });
        }
        Ok(())
    }

    pub(super) fn check_namespace(&self, pins: &Pins) -> Result<(), KernelError> {
        let same = self.namespace == network_namespace()?;
        if same { Ok(()) } else { Err(KernelError::OtherNamespace(pins.root().to_owned())) }
    }

    /// Source ports that flows are lent.
    pub(super) fn ports(&self) -> Ports {
        Ports { first: self.first_port as u16, last: self.last_port as u16 }
    }

    pub(super) fn hash_key(&self) -> [u32; KEY_WORDS] {
        let mut words = [0; KEY_WORDS];
        for (part, words) in words.chunks_mut(8).enumerate() {
            let digest = self.derive(&format!("flow hash {part}"));
            for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(4)) {
                *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        words
    }

    pub(super) fn slot_seed(&self) -> [u8; 16] {
        let digest = self.derive("slot tables");
        std::array::from_fn(|index| digest[index])
    }

    fn derive(&self, purpose: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.seed).chain_update(purpose).finalize().into()
    }

    /// Seconds in one unit of flow entries' time.
    pub(super) fn time_unit_seconds(&self) -> f64 {
        f64::from(1_u32 << self.time_shift) / f64::from(self.jiffies_per_second)
    }
}

/// The shift that brings jiffies closest to seconds.
fn time_shift(jiffies_per_second: u32) -> u32 {
    (0..16).min_by_key(|shift| (1_u32 << shift).abs_diff(jiffies_per_second)).unwrap_or(0)
}

fn network_namespace() -> Result<u64, KernelError> {
    let metadata =
        fs::metadata("/proc/thread-self/ns/net").map_err(KernelError::io("look at the network namespace"))?;
    Ok(metadata.ino())
}

/// What [`unload`] removed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unloaded {
    pub attachments: usize,
    pub programs: usize,
    pub maps: usize,
}

/// Detaches the programs and removes every pin below `root`, of any layout. Nothing there is no error.
///
/// # Errors
/// When an agent is running with this directory, or when it cannot be removed.
pub fn unload(root: &Path) -> Result<Unloaded, KernelError> {
    if !root.exists() {
        return Ok(Unloaded::default());
    }
    let pins = Pins::lock(root)?;
    let mut removed = Unloaded::default();
    let layouts = fs::read_dir(root).map_err(KernelError::io("read the pin directory"))?;
    for layout in layouts.flatten().map(|layout| layout.path()) {
        let count = |directory: &str| fs::read_dir(layout.join(directory)).into_iter().flatten().count();
        removed.attachments += count("links");
        removed.programs += count("programs");
        removed.maps += count("maps");
        remove_data_plane(&layout)?;
    }
    drop(pins);
    fs::remove_dir(root).map_err(KernelError::io(format!("remove {}", root.display())))?;
    Ok(removed)
}

/// Undoes what a start has loaded and not finished; a data plane of another layout stays.
///
/// # Errors
/// As [`unload`].
pub fn undo(root: &Path) -> Result<(), KernelError> {
    let pins = Pins::lock(root)?;
    if pins.others().is_empty() {
        drop(pins);
        return unload(root).map(drop);
    }
    remove_data_plane(&pins.current())
}

/// The attachments first: from there on packets go to the stack, and none meets half a data plane.
pub(super) fn remove_data_plane(directory: &Path) -> Result<(), KernelError> {
    let links = directory.join("links");
    if links.exists() {
        remove_tree(&links)?;
    }
    remove_tree(directory)
}

/// Kernel's numbers of the balancing programs pinned below `root`, of any layout; none where nothing is or nothing can be seen.
pub fn pinned_programs(root: &Path) -> Vec<u32> {
    let names = [super::object::BALANCE, super::object::BALANCE_TC];
    let pins = layouts(root).into_iter().flat_map(|layout| names.map(|name| layout.join("programs").join(name)));
    pins.filter_map(|pin| Some(ProgramInfo::from_pin(pin).ok()?.id())).collect()
}

fn remove_tree(path: &Path) -> Result<(), KernelError> {
    fs::remove_dir_all(path).map_err(KernelError::io(format!("remove {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_time_is_about_a_second() {
        for (hertz, shift) in [(100, 7), (250, 8), (300, 8), (1000, 10)] {
            assert_eq!(time_shift(hertz), shift);
        }
    }

    #[test]
    fn names_of_attachments_are_read_back() {
        assert_eq!(parse_link("xdp-3"), Some((Hook::Xdp, 3)));
        assert_eq!(parse_link("tc-70000"), Some((Hook::Tc, 70_000)));
        assert_eq!(parse_link("3"), Some((Hook::Xdp, 3)));
        assert_eq!([parse_link("x"), parse_link("tc-"), parse_link("tcx-3")], [None; 3]);
    }

    #[test]
    fn secrets_differ_by_purpose_and_seed() {
        let meta = |seed| Meta {
            seed: [seed; 32],
            digest: [0; 32],
            namespace: 0,
            flow_entries: 0,
            backend_capacity: 0,
            jiffies_per_second: 250,
            time_shift: 8,
            first_port: 1,
            last_port: 1,
        };
        assert_ne!(meta(1).hash_key(), meta(2).hash_key());
        assert_ne!(meta(1).slot_seed(), meta(2).slot_seed());
        let key = meta(1).hash_key();
        assert_ne!(key[..4], key[8..], "both parts of the key are derived");
    }
}
