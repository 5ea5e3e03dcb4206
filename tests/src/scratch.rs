//! Directories for a test's own, which are gone when it has ended. They belong to root and
//! everybody may look in, for an App has a user of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::{Builder, TempDir};

/// Names the directory that all scratch directories of a test program are in, for its children.
pub(crate) const VARIABLE: &str = "ROCKER_TEST_SCRATCH";

/// Every scratch directory's path begins with the place it is in and this.
pub(crate) const PREFIX: &str = "rocker-test-";

/// A new directory, 0755, on a file system that can hold an upper layer.
pub fn scratch() -> TempDir {
    let top = std::env::var_os(VARIABLE).map_or_else(place, PathBuf::from);
    let dir = Builder::new().prefix(PREFIX).tempdir_in(&top);
    let dir = dir.unwrap_or_else(|error| panic!("cannot make a directory in {top:?}: {error}"));
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    dir
}

/// The first that is there and no overlay itself, as the root of many containers is.
fn place() -> PathBuf {
    /// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h
    const OVERLAY: rustix::fs::FsWord = 0x794c_7630;
    let chosen = std::env::var_os("ROCKER_TEST_DIR").map(PathBuf::from);
    let usual = [std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()];
    let fits = |dir: &PathBuf| rustix::fs::statfs(dir).is_ok_and(|found| found.f_type != OVERLAY);
    chosen.into_iter().chain(usual).find(fits).expect("a directory that can hold an upper layer")
}

/// Makes a directory with this mode and owner, and returns its path.
pub fn directory(path: impl AsRef<Path>, mode: u32, owner: u32) -> PathBuf {
    let path = path.as_ref().to_owned();
    fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {path:?}: {error}"));
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("only root makes owners");
    path
}

/// The names in a directory, sorted.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir.as_ref())
        .unwrap_or_else(|error| panic!("cannot list {:?}: {error}", dir.as_ref()));
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("a directory can be read").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// The directory that all scratch directories of this test program are in.
static TOP: OnceLock<PathBuf> = OnceLock::new();

/// Says which it is, where the environment does not: in the runner.
pub(crate) fn set_top(top: &Path) {
    let _ = TOP.set(top.to_owned());
}

/// Whether a text names a scratch directory of this test program, and not of another that runs
/// at the same time.
pub(crate) fn is_ours(text: &str) -> bool {
    let top = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(|| TOP.get().cloned());
    let top = top.as_ref().and_then(|top| top.file_name()?.to_str());
    text.contains(top.unwrap_or(PREFIX))
}

/// Takes away what a test has mounted below a directory, so that it can be removed.
pub(crate) fn unmount_below(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines().rev() {
        let at = line.split(' ').nth(4).unwrap_or_default();
        if Path::new(at).starts_with(dir) {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Mounts that end with this process; a master started later is in it too.
///
/// # Panics
///
/// If this is not root.
pub fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("root may");
}
