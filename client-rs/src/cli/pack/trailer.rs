//! What `rocker.toml` says once more, behind the image, where otherwise padding is: the command
//! `rocker` starts a package by it, and has neither to unpack nor to parse anything.
//!
//! At `bytes_used` of the superblock, all numbers little endian:
//!
//! ```text
//! 16 bytes   `rocker manifest` and a 1, the version
//! 96 bytes   the file's first 96 bytes: its superblock
//! u32        n
//! n bytes    strings, each ended by a NUL, the first letter says what it is:
//!            e  entry             once
//!            a  an argument       each, in order
//!            v  NAME=value        each variable, by name
//!            c  cwd               if there is one
//!            o  an overlay dir    each, in order
//!            O                    overlay = "auto"
//!            l                    landlock = true
//! ```
//!
//! n is 0 if the package has no `rocker.toml`. All of it is [`LENGTH_MAX`] bytes at most; what is
//! longer is left out, and the reader finds `rocker.toml` in the image: there the truth is.
//!
//! Whoever adds to an image, as `mksquashfs` does by default, writes another superblock. Then the
//! copy here is no longer the same, and nobody believes the rest.

use std::io;

use super::super::manifest::{Manifest, Overlay};
use super::image::fit;
use super::tables::Record;

/// The longest trailer, in bytes: one read.
const LENGTH_MAX: usize = 4096;

/// How it begins. The last byte is the version.
const MAGIC: &[u8; 16] = b"rocker manifest\x01";

/// The trailer of the package that has this superblock and this manifest; empty if it were too
/// long.
pub(super) fn make(superblock: &[u8], manifest: Option<&Manifest>) -> io::Result<Vec<u8>> {
    let strings = manifest.map(strings).unwrap_or_default();
    let head = Record::default().bytes(MAGIC).bytes(superblock).u32(fit(strings.len())?);
    let trailer = head.bytes(&strings).0;
    Ok(if trailer.len() <= LENGTH_MAX { trailer } else { vec![] })
}

/// None of the values has a NUL: [`Manifest::parse`] sees to that.
fn strings(manifest: &Manifest) -> Vec<u8> {
    let Manifest { entry, args, env, cwd, overlay, landlock } = manifest;
    let mut strings = vec![];
    let mut add = |letter: &str, value: &str| {
        strings.extend([letter, value, "\0"].concat().into_bytes());
    };
    add("e", entry);
    args.iter().for_each(|arg| add("a", arg));
    env.iter().for_each(|(name, value)| add("v", &format!("{name}={value}")));
    cwd.iter().for_each(|cwd| add("c", cwd));
    match overlay {
        Overlay::None => {}
        Overlay::Auto => add("O", ""),
        Overlay::Dirs(dirs) => dirs.iter().for_each(|dir| add("o", dir)),
    }
    if *landlock {
        add("l", "");
    }
    strings
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use super::super::tests::{ALL, noise, packed, place, with};
    use super::super::tree::Tree;
    use super::super::{Compression, Options, image, read_file};

    /// The package's superblock, and what is behind the image.
    fn split(package: &[u8]) -> (&[u8], &[u8]) {
        let used = u64::from_le_bytes(package[40..48].try_into().unwrap());
        (&package[..96], &package[usize::try_from(used).unwrap()..])
    }

    /// Sees that the trailer has these strings, and that zeros follow, no more than must be.
    fn assert_trailer(package: &[u8], strings: &[u8]) {
        let (superblock, behind) = split(package);
        let n = u32::try_from(strings.len()).unwrap().to_le_bytes();
        let expected = [b"rocker manifest\x01", superblock, &n, strings].concat();
        assert_eq!(
            behind[..expected.len()].escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        let padding = &behind[expected.len()..];
        assert!(padding.iter().all(|byte| *byte == 0));
        assert!(padding.len() < 4096 && package.len().is_multiple_of(4096), "{}", padding.len());
    }

    #[test]
    fn trailer_has_every_key() {
        let (place, tree) = place();
        let text = r#"
            landlock = true
            overlay = ["/var", "/etc"]
            args = ["--face", "", "round one"]
            cwd = "/var/lib/clock"
            entry = "bin/clock"
            [env]
            LANG = "C.UTF-8"
            EMPTY = ""
        "#;
        fs::write(tree.join("rocker.toml"), text).unwrap();
        // Of another directory: no manifest.
        fs::create_dir(tree.join("z")).unwrap();
        fs::write(tree.join("z/rocker.toml"), "entry = \"other\"").unwrap();
        for compression in ALL {
            let package = packed(&tree, &place.path().join("p"), compression);
            let strings = b"ebin/clock\0a--face\0a\0around one\0vEMPTY=\0vLANG=C.UTF-8\0\
                            c/var/lib/clock\0o/var\0o/etc\0l\0";
            assert_trailer(&package, strings);
        }
    }

    #[test]
    fn trailer_has_no_more_than_the_manifest() {
        let (place, tree) = place();
        let pack = || packed(&tree, &place.path().join("p"), Compression::Zstd);
        assert_trailer(&pack(), b"");
        for (text, strings) in [
            ("entry = \"a\"", &b"ea\0"[..]),
            ("entry = \"a\"\noverlay = \"auto\"", b"ea\0O\0"),
            ("entry = \"a\"\noverlay = []\nlandlock = false", b"ea\0"),
        ] {
            fs::write(tree.join("rocker.toml"), text).unwrap();
            assert_trailer(&pack(), strings);
        }
    }

    #[test]
    fn trailer_that_is_too_long_is_left_out() {
        let (place, tree) = place();
        let path = place.path().join("p");
        // With the letter and the NUL as long as there is room.
        let room = 4096 - 16 - 96 - 4;
        let entry = "x".repeat(room - 2);
        fs::write(tree.join("rocker.toml"), format!("entry = \"{entry}\"")).unwrap();
        assert_trailer(&packed(&tree, &path, Compression::Zstd), format!("e{entry}\0").as_bytes());
        let text = format!("entry = \"{entry}x\"");
        fs::write(tree.join("rocker.toml"), &text).unwrap();
        let package = packed(&tree, &path, Compression::Zstd);
        let (_, behind) = split(&package);
        assert!(behind.iter().all(|byte| *byte == 0));
        assert!(behind.len() < 4096 && package.len().is_multiple_of(4096));
        assert_eq!(read_file(&path, "rocker.toml", 1 << 15).unwrap().unwrap(), text.as_bytes());
    }

    #[test]
    fn trailer_that_the_padding_is_too_short_for_makes_it_longer() {
        let (place, tree) = place();
        let path = place.path().join("p");
        fs::write(tree.join("rocker.toml"), "entry = \"a\"").unwrap();
        let mut grown = 0;
        for length in (1..4096).step_by(64) {
            fs::write(tree.join("a"), noise(length)).unwrap();
            let package = packed(&tree, &path, Compression::Zstd);
            assert_trailer(&package, b"ea\0");
            let (_, behind) = split(&package);
            grown += usize::from(behind.len() >= 4096);
            assert!(read_file(&path, "a", 4096).unwrap().unwrap() == noise(length), "{length}");
        }
        // It is 119 bytes long.
        assert!((1..=2).contains(&grown), "{grown}");
    }

    /// Whatever becomes of the file meanwhile.
    #[test]
    fn trailer_is_of_the_bytes_that_are_packed() {
        let (place, dir) = place();
        let (source, path) = (dir.join("rocker.toml"), place.path().join("p"));
        for block_size in [4096, 1 << 16] {
            let text = format!("entry = \"old\"{}", " ".repeat(5000));
            fs::write(&source, &text).unwrap();
            let tree = Tree::walk(&dir).unwrap();
            fs::write(&source, text.replace("old", "new")).unwrap();
            let options = Options { block_size, ..with(Compression::Zstd) };
            let mut package = Cursor::new(vec![]);
            image::write(&tree, options, 0, &mut package).unwrap();
            let package = package.into_inner();
            assert_trailer(&package, b"eold\0");
            fs::write(&path, &package).unwrap();
            let found = read_file(&path, "rocker.toml", 1 << 15).unwrap().unwrap();
            assert!(found == text.as_bytes(), "{block_size}");
        }
    }
}
