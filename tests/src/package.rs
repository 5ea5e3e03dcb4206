//! Packages for tests, made by `rocker pack` and kept for the other tests of the program.

use core::hash::{Hash, Hasher};
use std::fs::{self, Permissions};
use std::hash::DefaultHasher;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{bin, probe, scratch};

/// A package to be.
#[derive(Clone, Debug, Default, Hash)]
pub struct Package {
    entries: Vec<(PathBuf, Entry)>,
}

#[derive(Clone, Debug, Hash)]
enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
    Copy(PathBuf),
    Link(PathBuf),
}

impl Package {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the probe as `bin/probe`.
    pub fn with_probe() -> Self {
        Self::new().program("bin/probe", probe())
    }

    fn entry(mut self, path: impl AsRef<Path>, entry: Entry) -> Self {
        self.entries.push((path.as_ref().to_owned(), entry));
        self
    }

    /// A directory; those above a file are made without being asked for.
    #[must_use]
    pub fn directory(self, path: impl AsRef<Path>, mode: u32) -> Self {
        self.entry(path, Entry::Directory(mode))
    }

    /// A file.
    #[must_use]
    pub fn file(self, path: impl AsRef<Path>, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, Entry::File(mode, content.as_ref().to_vec()))
    }

    /// A copy of a program, 0755.
    #[must_use]
    pub fn program(self, path: impl AsRef<Path>, program: impl AsRef<Path>) -> Self {
        self.entry(path, Entry::Copy(program.as_ref().to_owned()))
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.entry(path, Entry::Link(target.as_ref().to_owned()))
    }

    /// Writes it out as a directory, as an App's author has it before `rocker pack`.
    pub fn lay_out(&self, top: &Path) {
        for (path, entry) in &self.entries {
            let path = top.join(path);
            fs::create_dir_all(path.parent().expect("below the top")).expect("an empty scratch");
            let written = match entry {
                Entry::Directory(mode) => fs::create_dir_all(&path)
                    .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(*mode))),
                Entry::File(mode, content) => fs::write(&path, content)
                    .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(*mode))),
                Entry::Copy(program) => fs::copy(program, &path).map(|_| ()),
                Entry::Link(target) => symlink(target, &path),
            };
            written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        }
    }

    /// The package's file. The same entries give the same file, which is made once per test
    /// program: so do not write to it.
    ///
    /// # Panics
    ///
    /// If `rocker pack` fails.
    pub fn build(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let name = format!("{:016x}.sqfs", hasher.finish());
        let package = cache().join(name);
        if package.exists() {
            return package;
        }
        let dir = scratch();
        let top = dir.path().join("top");
        fs::create_dir(&top).expect("an empty scratch");
        self.lay_out(&top);
        let unfinished = dir.path().join("unfinished.sqfs");
        let packed = Command::new(bin("rocker")).arg("pack").arg(&top).arg(&unfinished).output();
        let packed = packed.expect("rocker can be started");
        assert!(
            packed.status.success(),
            "rocker pack: {}",
            String::from_utf8_lossy(&packed.stderr)
        );
        // Nobody sees half a package.
        fs::rename(&unfinished, &package).expect("both are in the same file system");
        package
    }
}

/// One for all tests of a program; without the runner, one for the life of the process.
fn cache() -> PathBuf {
    use std::sync::OnceLock;
    static OWN: OnceLock<tempfile::TempDir> = OnceLock::new();
    let top = std::env::var_os(crate::scratch::VARIABLE)
        .map_or_else(|| OWN.get_or_init(scratch).path().to_owned(), PathBuf::from);
    crate::scratch::directory(top.join("packages"), 0o755, rustix::process::getuid().as_raw())
}

/// The package of most tests: the probe, and a file with a line in it.
pub fn probe_package() -> PathBuf {
    Package::with_probe().file("share/hello", 0o644, "hello\n").build()
}
