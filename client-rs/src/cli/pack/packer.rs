//! Blocks are compressed, one after the other.

use std::io;

use backhand::compression::{CompressionAction, Compressor, DefaultCompressor};
use backhand::{BackhandError, FilesystemCompressor};
use zstd::zstd_safe::{CParameter, Strategy};

use super::{Compression, Options};

/// Level of zstd: beyond it each percent costs seconds, and who wants the smallest takes xz
/// (docs/bench/packages.md).
///
/// But for one thing: it looks for a better match once more and not twice (`ZSTD_lazy`, not
/// `ZSTD_lazy2`). That takes a quarter less time for a third of a percent of size.
const ZSTD_LEVEL: u8 = 9;

/// What an image says of its codec: the number, and the options as they stand in it. The kernel
/// refuses lz4 without the version of its format.
pub(super) fn describe(compression: Compression) -> (u16, Vec<u8>) {
    match compression {
        Compression::Gzip => (1, vec![]),
        Compression::Xz => (4, vec![]),
        Compression::Lz4 => (5, [1_u32, 0].map(u32::to_le_bytes).concat()),
        Compression::Zstd => (6, u32::from(ZSTD_LEVEL).to_le_bytes().to_vec()),
    }
}

/// Compresses blocks. Each thread has one of its own.
pub(super) enum Packer {
    /// With one context for all: to make one for each block is to clear it each time.
    Zstd(zstd::bulk::Compressor<'static>),
    /// By liblz4, as `mksquashfs` does: backhand's has half its table for blocks of 64 KiB, and
    /// packages were up to 4 % larger.
    Lz4,
    Other {
        codec: FilesystemCompressor,
        block_size: u32,
    },
}

impl Packer {
    pub(super) fn new(options: Options) -> io::Result<Self> {
        let Options { compression, block_size, .. } = options;
        let other = |codec| {
            let codec = FilesystemCompressor::new(codec, None).map_err(words)?;
            Ok(Self::Other { codec, block_size })
        };
        match compression {
            Compression::Zstd => {
                let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL.into())?;
                zstd.set_parameter(CParameter::Strategy(Strategy::ZSTD_lazy))?;
                Ok(Self::Zstd(zstd))
            }
            Compression::Lz4 => Ok(Self::Lz4),
            Compression::Xz => other(Compressor::Xz),
            Compression::Gzip => other(Compressor::Gzip),
        }
    }

    /// The block as it is in the image; none if it gets no smaller, and so is there as it is.
    /// What was packed before does not matter.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let packed = match self {
            Self::Zstd(zstd) => zstd.compress(bytes)?,
            Self::Lz4 => lz4::block::compress(bytes, None, false)?,
            Self::Other { codec, block_size } => {
                DefaultCompressor.compress(bytes, *codec, *block_size).map_err(words)?
            }
        };
        Ok(Some(packed).filter(|packed| packed.len() < bytes.len()))
    }
}

fn words(error: BackhandError) -> io::Error {
    match error {
        BackhandError::StdIo(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ALL, with};
    use super::*;

    /// Otherwise a package would depend on which thread made which block.
    #[test]
    fn pack_does_not_remember() {
        for compression in ALL {
            let options = Options { block_size: 4096, ..with(compression) };
            let mut packer = Packer::new(options).unwrap();
            for block in include_bytes!("reader.rs").chunks(4096) {
                let alone = Packer::new(options).unwrap().pack(block).unwrap();
                assert!(packer.pack(block).unwrap() == alone, "{compression:?}");
            }
        }
    }

    #[test]
    fn pack_tells_what_gets_no_smaller() {
        for compression in ALL {
            let mut packer = Packer::new(with(compression)).unwrap();
            assert_eq!(packer.pack(b"a").unwrap(), None, "{compression:?}");
            assert!(packer.pack(&[0; 100]).unwrap().is_some_and(|packed| packed.len() < 100));
        }
    }
}
