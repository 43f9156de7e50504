//! What becomes of volumes when the daemon starts: what a crash left is completed or removed.

use std::fs;
use std::io;

use jiff::Timestamp;
use keg_store::Volume;

use super::fill::{STAGE, is_empty};
use super::{GONE, MADE_UP_DIGITS, check_name, options, remove_tree};
use crate::engine::{Shared, file_error};
use crate::error::EngineError;

impl Shared {
    /// Unmounts what no running container holds, removes what was half made or half removed, and
    /// makes volumes of directories that have none and are not empty. To be called once, when it
    /// is known which containers run.
    ///
    /// # Errors
    /// If the database or the directory cannot be read.
    pub(crate) fn recover_volumes(&self) -> Result<(), EngineError> {
        for details in self.all_volumes()? {
            let volume = &details.volume;
            if !volume.options.is_empty()
                && !self.holds.is_held(&volume.name)
                && let Err(error) = options::unmount(&details.mountpoint)
            {
                tracing::warn!(volume = volume.name, %error, "cannot unmount a volume");
            }
            remove_tree(&self.volume_dir(&volume.name).join(STAGE));
        }
        self.remove_scratch();
        let dir = self.settings.volumes();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(file_error("read", &dir)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(file_error("read", &dir))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(GONE) {
                remove_tree(&entry.path());
            } else if check_name(&name).is_ok() && self.find_volume(&name)?.is_none() {
                self.settle(&name)?;
            }
        }
        Ok(())
    }

    /// Removes the places where layers are brought together for a moment.
    fn remove_scratch(&self) {
        for entry in fs::read_dir(self.scratch()).into_iter().flatten().flatten() {
            let path = entry.path();
            if let Err(error) = options::unmount(&path).and_then(|()| fs::remove_dir(&path)) {
                tracing::warn!(?path, %error, "cannot remove a directory of the daemon's own");
            }
        }
    }

    /// Decides what a directory without a row is.
    fn settle(&self, name: &str) -> Result<(), EngineError> {
        let data = self.volume_data(name);
        if is_empty(&data).map_err(file_error("read", &data))? {
            remove_tree(&self.volume_dir(name));
            return Ok(());
        }
        tracing::warn!(volume = name, "a directory that was no volume any more is one again");
        remove_tree(&self.volume_dir(name).join(STAGE));
        let made_up =
            name.len() == MADE_UP_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let volume = Volume {
            name: name.to_owned(),
            labels: keg_store::Labels::new(),
            options: keg_store::Labels::new(),
            anonymous: made_up,
            created_at: Timestamp::now(),
        };
        let ns = &self.settings.namespace;
        Ok(self.store.transaction(|tx| tx.create_volume(ns, &volume))?)
    }
}
