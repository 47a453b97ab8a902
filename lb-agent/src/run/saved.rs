//! What administrators ordered, kept in `state_dir` so that it outlives the agent. Written whole or not at all; a disk that
//! does not take it, or a file that makes no sense, is logged and never touches the packets.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::engine::Overrides;

const NAME: &str = "overrides.json";
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    /// Seconds since 1970, to know how much of a timed order has passed meanwhile.
    saved_at: u64,
    overrides: Overrides,
}

/// The place of the file below `state_dir`.
#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Nothing saved gives the default.
    pub(super) fn load(&self) -> Overrides {
        match self.read() {
            Ok(document) => {
                let passed = now().saturating_sub(document.saved_at);
                document.overrides.aged(Duration::from_secs(passed))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Overrides::default(),
            Err(error) => {
                tracing::warn!(path = %self.path().display(), %error, "saved drains and weights cannot be read, going on without");
                Overrides::default()
            }
        }
    }

    pub(super) fn save(&self, overrides: Overrides) {
        if let Err(error) = self.write(&Document { saved_at: now(), overrides }) {
            tracing::warn!(path = %self.path().display(), %error, "drains and weights cannot be saved: they will not survive a restart");
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    fn read(&self) -> io::Result<Document> {
        let path = self.path();
        if fs::metadata(&path)?.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large"));
        }
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    fn write(&self, document: &Document) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let unfinished = self.directory.join(format!("{NAME}.new"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(document)?)?;
        file.sync_all()?;
        fs::rename(unfinished, self.path())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_or_written_is_no_disaster() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("state"));
        assert_eq!(store.load(), Overrides::default(), "nothing there");
        store.save(Overrides::default());
        assert_eq!(store.load(), Overrides::default());
        fs::write(store.path(), b"{").unwrap();
        assert_eq!(store.load(), Overrides::default(), "garbage");
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        Store::new(&file.join("below a file")).save(Overrides::default());
    }
}
