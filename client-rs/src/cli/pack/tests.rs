//! What `pack` makes and refuses. `reader` has its own.

use core::num::NonZero;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use backhand::NodeHeader;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tempfile::TempDir;

use super::source::Source;
use super::{Compression, Options, pack, pack_at, parse_epoch};

pub(super) const ALL: [Compression; 4] =
    [Compression::Zstd, Compression::Xz, Compression::Gzip, Compression::Lz4];

pub(super) fn with(compression: Compression) -> Options {
    Options { compression, ..Options::default() }
}

/// A place with an empty directory `tree` to pack.
pub(super) fn place() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    (place, tree)
}

/// Bytes that do not compress.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Several blocks with a hole between them, and an end that is no whole block.
pub(super) fn blocks() -> Vec<u8> {
    let mut bytes = b"rocker ".repeat(40_000);
    bytes.resize(6 * 128 * 1024, 0);
    bytes.extend(noise(200_000));
    bytes
}

pub(super) fn fill(tree: &Path) {
    fs::write(tree.join("rocker.toml"), "entry = \"bin/a\"\n").unwrap();
    fs::create_dir(tree.join("bin")).unwrap();
    fs::write(tree.join("bin/a"), noise(5000)).unwrap();
    fs::write(tree.join("blocks"), blocks()).unwrap();
    fs::write(tree.join("empty"), b"").unwrap();
    symlink("a", tree.join("bin/b")).unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"no utf-8 \xff\n")), b"x").unwrap();
}

pub(super) fn packed(tree: &Path, package: &Path, compression: Compression) -> Vec<u8> {
    pack_at(tree, package, with(compression), 0).unwrap();
    fs::read(package).unwrap()
}

/// Packs `tree` into `p.sqfs` beside it, in vain, and sees that nothing is left of it.
fn refusal(place: &TempDir, tree: &Path) -> String {
    let package = place.path().join("p.sqfs");
    let text = pack(tree, &package, with(Compression::Lz4)).unwrap_err().to_string();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.strip_prefix(&format!("cannot pack {}: ", tree.display())).unwrap().to_owned()
}

#[test]
fn pack_same_tree_gives_same_bytes() {
    let (place, tree) = place();
    fill(&tree);
    let again = place.path().join("again");
    fs::create_dir(&again).unwrap();
    fill(&again);
    let long_ago = SystemTime::UNIX_EPOCH;
    File::open(again.join("empty")).unwrap().set_modified(long_ago).unwrap();
    for compression in ALL {
        let first = packed(&tree, &place.path().join("1"), compression);
        let second = packed(&again, &place.path().join("2"), compression);
        assert!(first == second, "{compression:?}");
        assert_eq!(first.len() % 4096, 0);
    }
}

#[test]
fn pack_with_any_number_of_jobs_gives_same_bytes() {
    let (place, tree) = place();
    fill(&tree);
    for number in 0..100 {
        fs::write(tree.join(number.to_string()), noise(number * 101)).unwrap();
    }
    let package = place.path().join("p");
    for compression in ALL {
        let pack_by = |jobs| {
            let jobs = NonZero::new(jobs).unwrap();
            let options = Options { compression, block_size: 4096, jobs };
            pack_at(&tree, &package, options, 0).unwrap();
            fs::read(&package).unwrap()
        };
        let alone = pack_by(1);
        for jobs in [2, 3, 16] {
            assert!(pack_by(jobs) == alone, "{compression:?}: {jobs}");
        }
    }
}

#[test]
fn pack_counts() {
    let (place, tree) = place();
    fill(&tree);
    let package = place.path().join("p");
    let packed = pack_at(&tree, &package, with(Compression::Zstd), 0).unwrap();
    assert_eq!(packed.files, 5);
    assert_eq!(packed.bytes_in, 16 + 5000 + blocks().len() as u64 + 1);
    assert_eq!(packed.bytes_out, package.metadata().unwrap().len());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn pack_duplicate_at_the_end_leaves_nothing_behind_the_image() {
    let (place, tree) = place();
    fs::write(tree.join("1"), noise(1 << 20)).unwrap();
    let once = packed(&tree, &place.path().join("p"), Compression::Zstd);
    fs::hard_link(tree.join("1"), tree.join("2")).unwrap();
    let twice = packed(&tree, &place.path().join("p"), Compression::Zstd);
    assert_eq!(once.len(), twice.len());
}

/// By backhand, which has nothing of ours: each name, and what it stands for.
fn told(package: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let file = io::BufReader::new(File::open(package).unwrap());
    let image = backhand::FilesystemReader::from_reader(file).unwrap();
    let mut told: Vec<_> = image
        .files()
        .map(|node| {
            let content = match &node.inner {
                backhand::InnerNode::File(file) => {
                    let mut bytes = vec![];
                    image.file(file).reader().read_to_end(&mut bytes).unwrap();
                    bytes
                }
                backhand::InnerNode::Symlink(link) => link.link.as_os_str().as_bytes().to_vec(),
                _ => b"directory".to_vec(),
            };
            (node.fullpath.strip_prefix("/").unwrap().to_owned(), content)
        })
        .collect();
    told.sort();
    told
}

fn found(tree: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(tree).into_iter().map(|entry| entry.unwrap());
    let mut found: Vec<_> = entries
        .map(|entry| {
            let content = match entry.file_type() {
                kind if kind.is_file() => fs::read(entry.path()).unwrap(),
                kind if kind.is_symlink() => {
                    fs::read_link(entry.path()).unwrap().into_os_string().into_vec()
                }
                _ => b"directory".to_vec(),
            };
            (entry.path().strip_prefix(tree).unwrap().to_owned(), content)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn pack_another_reader_finds_all_of_it() {
    let (place, tree) = place();
    fill(&tree);
    fs::write(tree.join("blocks again"), blocks()).unwrap();
    fs::write(tree.join("zeros"), [0; 9000]).unwrap();
    fs::write(tree.join("one block"), noise(4096)).unwrap();
    symlink("x".repeat(255), tree.join("link")).unwrap();
    let deep = tree.join("d/".repeat(300));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("a"), b"a").unwrap();
    fs::create_dir(tree.join("dir")).unwrap();
    for number in 0..1000 {
        let name = format!("{number:04}{}", "x".repeat(number % 250));
        fs::write(tree.join("dir").join(name), noise(number % 70)).unwrap();
    }
    fs::create_dir(tree.join("z")).unwrap();
    fs::write(tree.join("z/last"), b"last").unwrap();
    let package = place.path().join("p");
    for (compression, block_size) in ALL.into_iter().zip([4096, 1 << 16, 1 << 20, 1 << 16]) {
        let options = Options { block_size, ..with(compression) };
        pack_at(&tree, &package, options, 0).unwrap();
        assert!(told(&package) == found(&tree), "{compression:?}");
    }
}

#[test]
fn pack_nothing() {
    let (place, tree) = place();
    packed(&tree, &place.path().join("p"), Compression::Zstd);
    assert_eq!(told(&place.path().join("p")), [(PathBuf::new(), b"directory".to_vec())]);
}

#[test]
fn pack_modes_without_setuid_and_times_as_told() {
    let (place, tree) = place();
    fs::write(tree.join("a"), b"a").unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o3775)).unwrap();
    let package = place.path().join("p");
    pack_at(&tree, &package, with(Compression::Zstd), 12_345).unwrap();
    let file = io::BufReader::new(File::open(&package).unwrap());
    let image = backhand::FilesystemReader::from_reader(file).unwrap();
    let headers: Vec<NodeHeader> = image.files().map(|node| node.header).collect();
    assert_eq!(headers, [0o1775, 0o751].map(|mode| NodeHeader::new(mode, 0, 0, 12_345)));
    assert_eq!(image.mod_time, 12_345);
}

#[test]
fn pack_refuses_what_an_image_cannot_hold() {
    let (place, tree) = place();
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    assert_eq!(refusal(&place, &tree), "socket: a socket cannot be packed");
    fs::remove_file(tree.join("socket")).unwrap();

    nix::unistd::mkfifo(&tree.join("fi\nfo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refusal(&place, &tree), "fi\\nfo: a fifo cannot be packed");
    fs::remove_file(tree.join("fi\nfo")).unwrap();

    File::create(tree.join("big")).unwrap().set_len(1 << 41).unwrap();
    assert_eq!(refusal(&place, &tree), "big: the file is too big");
}

/// Which is not made by its path, either.
#[test]
fn pack_refuses_a_path_that_is_too_long() {
    let (place, tree) = place();
    let name = "n".repeat(250);
    let mut dir = File::open(&tree).unwrap();
    for _ in 0..20 {
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, OFlags::RDONLY, Mode::empty()).unwrap().into();
    }
    let told = refusal(&place, &tree);
    assert!(told.starts_with(&format!("{name}/{name}/")), "{told}");
    assert!(told.ends_with(&format!("/{name}: File name too long")), "{told}");
    assert!(!told.contains(&*tree.to_string_lossy()), "{told}");
}

#[test]
fn pack_refuses_extended_attributes() {
    let (place, tree) = place();
    fs::write(tree.join("a"), b"a").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(tree.join("a"), "user.note", b"x", flags) == Err(Errno::NOTSUP) {
        return;
    }
    let expected = "a: a package cannot hold the extended attribute user.note";
    assert_eq!(refusal(&place, &tree), expected);
}

#[test]
fn pack_refuses_a_bad_manifest() {
    let (place, tree) = place();
    let manifest = tree.join("rocker.toml");
    fs::write(&manifest, "entry = \"\"").unwrap();
    assert_eq!(refusal(&place, &tree), "rocker.toml: line 1: entry: is empty");
    fs::write(&manifest, b"\xff").unwrap();
    assert_eq!(refusal(&place, &tree), "rocker.toml: stream did not contain valid UTF-8");
    fs::write(&manifest, "#".repeat(32 * 1024 + 1)).unwrap();
    assert_eq!(refusal(&place, &tree), "rocker.toml: longer than 32768 bytes");
    fs::remove_file(&manifest).unwrap();
    symlink("other.toml", &manifest).unwrap();
    assert_eq!(refusal(&place, &tree), "rocker.toml: not a regular file");
}

#[test]
fn pack_refuses_bad_places() {
    let (place, tree) = place();
    let told = |dir: &Path, package: &Path| {
        pack(dir, package, with(Compression::Lz4)).unwrap_err().to_string()
    };
    fs::create_dir(tree.join("sub")).unwrap();
    for inside in [tree.join("p"), tree.join("sub/p"), tree.join("sub/../p")] {
        let text = told(&tree, &inside);
        assert!(text.ends_with("/p: lies inside the directory that is to be packed"), "{text}");
    }
    let text = told(&tree, place.path());
    assert!(text.ends_with("exists and is not a regular file"), "{text}");
    let text = told(&place.path().join("none"), &place.path().join("p"));
    assert!(text.ends_with("/none: No such file or directory"), "{text}");
    let text = told(&tree, &place.path().join("none/p"));
    assert!(text.ends_with("/none/p: No such file or directory"), "{text}");
    fs::write(place.path().join("file"), b"").unwrap();
    let text = told(&place.path().join("file"), &place.path().join("p"));
    assert!(text.ends_with("/file: not a directory"), "{text}");
}

#[test]
fn pack_beside_the_tree_with_its_name_as_a_prefix() {
    let (place, tree) = place();
    pack_at(&tree, &place.path().join("tree.sqfs"), with(Compression::Zstd), 0).unwrap();
}

#[test]
fn source_that_changed_is_an_error() {
    let (_place, tree) = place();
    let path = tree.join("a");
    let told = |change: &dyn Fn()| {
        fs::write(&path, b"before").unwrap();
        let source = Source::new(tree.as_path().into(), Path::new("a"), &path.metadata().unwrap());
        change();
        let read = source.read(0, 6, &mut vec![]);
        read.map_err(|fault| fault.to_string())
    };
    let changed = Err("a: the file changed while it was packed".to_owned());
    assert_eq!(told(&|| ()), Ok(()));
    assert_eq!(told(&|| fs::write(&path, b"less").unwrap()), changed);
    assert_eq!(told(&|| fs::write(&path, b"far more").unwrap()), changed);
    let is_written = || File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(told(&is_written), changed);
    let is_replaced = || {
        fs::write(tree.join("b"), b"before").unwrap();
        File::open(tree.join("b")).unwrap().set_modified(modified(&path)).unwrap();
        fs::rename(tree.join("b"), &path).unwrap();
    };
    assert_eq!(told(&is_replaced), changed);
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

#[test]
fn a_directory_that_became_a_link_leads_nowhere() {
    let (_place, tree) = place();
    let (dir, elsewhere) = (tree.join("dir"), tree.join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("key"), b"secret").unwrap();
    symlink("elsewhere", &dir).unwrap();
    // As if the link had been there when the walk looked at it, too.
    let found = dir.join("key").metadata().unwrap();
    let source = Source::new(tree.as_path().into(), Path::new("dir/key"), &found);
    let told = source.read(0, 6, &mut vec![]).unwrap_err().to_string();
    assert_eq!(told, "dir/key: Too many levels of symbolic links");
}

#[test]
fn parse_epoch_takes_32_bits() {
    let epoch = |text: &str| parse_epoch(Some(OsStr::new(text))).ok();
    assert_eq!(parse_epoch(None).ok(), Some(0));
    assert_eq!(epoch("4294967295"), Some(u32::MAX));
    for bad in ["", "4294967296", "-1", "today", "1.5"] {
        assert_eq!(epoch(bad), None, "{bad}");
    }
}
