//! A data plane of another layout is followed by this one: its maps cannot be taken over, but its secrets and its attachments can.
//!
//! So flows keep their buckets and slots, and no interface is without a program: the old one works by its own maps until the
//! new ones are filled, then each attachment changes its program in one step. What is lost is the memory of single flows.

use std::fs;
use std::path::Path;

use aya::maps::MapData;
use aya::programs::links::PinnedLink;

use super::Kernel;
use super::attach::{Hook, relink_tc, relink_xdp};
use super::error::KernelError;
use super::pins::{META, Pins, meta_of, parse_link, remove_data_plane};

/// What a new data plane takes the place of: the secret of the one that is there, if it is of this namespace.
pub(super) fn seed_of_another(pins: &Pins) -> Result<Option<[u8; 32]>, KernelError> {
    let others = pins.others();
    let Some(other) = others.first() else { return Ok(None) };
    let unknown = |_| KernelError::UnknownLayout(other.clone());
    let meta =
        MapData::from_pin(other.join("maps").join(META)).map_err(|_| KernelError::UnknownLayout(other.clone()))?;
    let meta = meta_of(meta).map_err(unknown)?;
    meta.check_namespace(pins)?;
    Ok(Some(meta.seed))
}

impl Kernel {
    /// Whether a data plane of another layout still has its pins here, and perhaps packets.
    pub fn follows_another(&self) -> bool {
        !self.pins.others().is_empty()
    }

    /// Takes over the attachment of another layout. False: there is none, or its interface has gone.
    pub(super) fn inherit(&mut self, hook: Hook, ifindex: u32) -> Result<bool, KernelError> {
        for other in self.pins.others() {
            let links = fs::read_dir(other.join("links")).into_iter().flatten().flatten();
            let is_it = |name: Option<&str>| name.and_then(parse_link) == Some((hook, ifindex));
            for link in links.filter(|link| is_it(link.file_name().to_str())) {
                if self.take(hook, ifindex, &link.path())? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn take(&mut self, hook: Hook, ifindex: u32, path: &Path) -> Result<bool, KernelError> {
        let what = || format!("take over {}", path.display());
        let link = PinnedLink::from_pin(path);
        let link = link.map_err(|error| KernelError::io(what())(std::io::Error::other(error)))?;
        let alive = match hook {
            Hook::Xdp => relink_xdp(&mut self.balance, link.into())?,
            Hook::Tc => relink_tc(&mut self.balance_tc, link.into())?,
        };
        if alive {
            fs::rename(path, self.pins.link_path(hook, ifindex)).map_err(KernelError::io(what()))?;
        }
        Ok(alive)
    }

    /// Removes what other layouts have left, with what is still attached by them.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove_others(&mut self) -> Result<(), KernelError> {
        self.pins.others().iter().try_for_each(|other| remove_data_plane(other))
    }
}
