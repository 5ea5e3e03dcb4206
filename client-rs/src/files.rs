//! Files in a rocker that takes orders: which, and how they are to be opened.

use core::time::Duration;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use protocol::message::ClientMessage;
use protocol::{Errno, FilePath, How, Item, Rule};

use crate::error::Error;
use crate::open::{ANSWER, Answer, OpenRocker, refused};

/// A file to open in an [`OpenRocker`], as [`std::fs::OpenOptions`] would.
///
/// A fifo, a socket or a device is refused (`EACCES`), so that nobody waits in vain for what an
/// App has put in a file's place; [`any_kind`](Self::any_kind) takes them, too.
#[derive(Clone, Debug)]
pub struct OpenFile {
    path: PathBuf,
    how: How,
    mode: u16,
}

impl OpenFile {
    /// This file, as the rocker's programs see it: at an absolute path, or below the work dir,
    /// out of which no link then leads. To be read, unless something else is said.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), how: How::default(), mode: 0 }
    }

    fn also(mut self, how: How) -> Self {
        self.how = self.how.and(how);
        self
    }

    /// To read from.
    #[must_use]
    pub fn read(self) -> Self {
        self.also(How::READ)
    }

    /// To write to.
    #[must_use]
    pub fn write(self) -> Self {
        self.also(How::WRITE)
    }

    /// To write to its end, whatever others do.
    #[must_use]
    pub fn append(self) -> Self {
        self.also(How::WRITE.and(How::APPEND))
    }

    /// Empties it.
    #[must_use]
    pub fn truncate(self) -> Self {
        self.also(How::WRITE.and(How::TRUNCATE))
    }

    /// Makes it if it is not there, with these permissions (at most `0o777`, less `0o022`) and
    /// the App's ids.
    #[must_use]
    pub fn create(mut self, mode: u16) -> Self {
        self.mode = mode;
        self.also(How::CREATE)
    }

    /// Makes it, and fails if anything is there, be it a link.
    #[must_use]
    pub fn create_new(self, mode: u16) -> Self {
        self.create(mode).also(How::EXCLUSIVE)
    }

    /// Only a directory will do.
    #[must_use]
    pub fn directory(self) -> Self {
        self.also(How::DIRECTORY)
    }

    /// A link at the end of the path will not do.
    #[must_use]
    pub fn no_follow(self) -> Self {
        self.also(How::NO_FOLLOW)
    }

    /// Neither opening nor what is done afterwards waits (`O_NONBLOCK`).
    #[must_use]
    pub fn non_blocking(self) -> Self {
        self.also(How::NON_BLOCKING)
    }

    /// A fifo, a socket or a device will do.
    #[must_use]
    pub fn any_kind(self) -> Self {
        self.also(How::ANY_KIND)
    }

    fn order(&self) -> Result<protocol::OpenFile<'_>, Error> {
        let is_accessed = self.how.has(How::READ) || self.how.has(How::WRITE);
        let how = if is_accessed { self.how } else { self.how.and(How::READ) };
        Ok(protocol::OpenFile { path: checked(&self.path)?, how, mode: self.mode })
    }
}

pub(crate) fn checked(path: &Path) -> Result<FilePath<'_>, Error> {
    let bytes = OsStr::as_bytes(path.as_os_str());
    let rule = match bytes {
        [] => Rule::Empty,
        _ if bytes.contains(&0) => Rule::ControlByte,
        _ => Rule::TooLong,
    };
    FilePath::new(bytes).ok_or_else(|| Error::invalid(rule, Item::File, bytes))
}

impl OpenRocker {
    /// Opens up to 16 files in the rocker, with the App's rights: one answer for each.
    ///
    /// Technically: the guard opens them and sends the descriptors. It never waits: `EAGAIN` for
    /// a file on which a process of the rocker has a lease (`man 2 fcntl`). Magic links
    /// (`/proc/PID/fd`) are not followed (`ELOOP`), files of a `proc` not opened (`EACCES`), and
    /// a path below the work dir leads nowhere else (`EXDEV`).
    ///
    /// # Errors
    ///
    /// That the order breaks a rule, or that the guard is lost.
    pub fn open_files(&mut self, files: &[OpenFile]) -> Result<Vec<Result<File, Error>>, Error> {
        let orders = files.iter().map(OpenFile::order).collect::<Result<Vec<_>, _>>()?;
        let orders = heapless::Vec::from_slice(&orders)
            .map_err(|_| Error::invalid(Rule::TooMany, Item::File, b""))?;
        let id = self.next_id();
        self.order(ClientMessage::Open { id, files: orders }, &[])?;
        let (errnos, opened) = self.until(Some(ANSWER), |answer| match answer {
            Answer::Opened { id: answered, errnos, files } if answered == id => {
                Ok(Ok((errnos, files)))
            }
            Answer::Refused { id: answered, error } if answered == id => {
                Ok(Err(error.ordered("open a file inside")))
            }
            other => Err(other),
        })??;
        if errnos.len() != files.len() {
            return Err(crate::open::lost(protocol::Loss::Garbage));
        }
        let mut opened = opened.into_iter().map(|file: OwnedFd| File::from(file));
        let answers = files.iter().zip(errnos).map(|(file, errno)| match errno {
            // As many came as were opened, or the message was none.
            Errno(0) => opened.next().ok_or_else(|| crate::open::lost(protocol::Loss::Garbage)),
            errno => Err(refused(errno, &format!("open {}", file.path.display()))
                .ordered("open a file inside")),
        });
        Ok(answers.collect())
    }

    /// Deletes a file, a link or an empty directory in the rocker, with the App's rights. The
    /// path is read as [`open_files`](Self::open_files) reads it.
    ///
    /// # Errors
    ///
    /// The kernel's, with the path; `EINVAL` for a path that ends in no name.
    pub fn delete(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.delete_at(path.as_ref(), false)
    }

    /// The same for a directory with all that is in it, which may take so long. What is mounted
    /// below is not touched: `EBUSY`.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete), when some of it may be gone; `ETIME` if it takes longer, be it
    /// because a program adds to it.
    pub fn delete_tree(&mut self, path: impl AsRef<Path>, timeout: Duration) -> Result<(), Error> {
        const TIME: Errno = Errno(62);
        let began = Instant::now();
        loop {
            // The guard looks after others every second.
            match self.delete_at(path.as_ref(), true) {
                Err(error) if error.errno() == Some(TIME) && began.elapsed() < timeout => {}
                answer => return answer,
            }
        }
    }

    fn delete_at(&mut self, path: &Path, tree: bool) -> Result<(), Error> {
        let (id, path) = (self.next_id(), checked(path)?);
        self.obeyed(id, ClientMessage::Delete { id, path, tree })
            .map_err(|error| error.ordered("delete a file inside"))
    }

    /// Makes a symbolic link at `path` that leads to `target`, with the App's rights.
    ///
    /// # Errors
    ///
    /// The kernel's, with the path.
    pub fn symlink(
        &mut self,
        target: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<(), Error> {
        let (target, path) = (checked(target.as_ref())?, checked(path.as_ref())?);
        let id = self.next_id();
        self.obeyed(id, ClientMessage::Symlink { id, target, path })
            .map_err(|error| error.ordered("make a link inside"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_as_asked_for() {
        let how = |file: OpenFile| file.order().unwrap().how;
        assert_eq!(how(OpenFile::new("a")), How::READ);
        assert_eq!(how(OpenFile::new("a").write()), How::WRITE);
        assert_eq!(
            how(OpenFile::new("a").read().append()),
            [How::READ, How::WRITE, How::APPEND].into_iter().fold(How::default(), How::and)
        );
        let file = OpenFile::new("a").write().create_new(0o640);
        let order = file.order().unwrap();
        assert!(order.how.has(How::CREATE.and(How::EXCLUSIVE)) && order.mode == 0o640);
    }

    #[test]
    fn what_is_no_path_is_told() {
        let refusal = |path: &str| OpenFile::new(path).order().unwrap_err().to_string();
        assert_eq!(refusal(""), "file: it is empty");
        assert!(refusal("a\0b").starts_with("file a\\u{0}b: "));
        assert!(refusal(&"a".repeat(4096)).ends_with("it is too long"));
    }
}
