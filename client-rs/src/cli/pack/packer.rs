//! Blocks are compressed, one after the other.

use backhand::compression::{
    CompressionAction, CompressionOptions, Compressor, DefaultCompressor, Lz4, Zstd,
};
use backhand::{BackhandError, FilesystemCompressor};
use zstd::zstd_safe::{CParameter, Strategy};

use super::{Compression, Options};

/// Level of zstd: beyond it each percent costs seconds, and who wants the smallest takes xz
/// (docs/bench/packages.md).
///
/// But for one thing: it looks for a better match once more and not twice (`ZSTD_lazy`, not
/// `ZSTD_lazy2`). That takes a quarter less time for a third of a percent of size.
const ZSTD_LEVEL: u8 = 9;

/// What an image says of its codec, and what backhand compresses by.
pub(super) fn codec(compression: Compression) -> Result<FilesystemCompressor, BackhandError> {
    let (id, options) = match compression {
        Compression::Zstd => {
            let options = Zstd { compression_level: ZSTD_LEVEL.into() };
            (Compressor::Zstd, Some(CompressionOptions::Zstd(options)))
        }
        Compression::Xz => (Compressor::Xz, None),
        Compression::Gzip => (Compressor::Gzip, None),
        // The kernel refuses an lz4 image that does not name the one format there is.
        Compression::Lz4 => {
            (Compressor::Lz4, Some(CompressionOptions::Lz4(Lz4 { version: 1, flags: 0 })))
        }
    };
    FilesystemCompressor::new(id, options)
}

/// Compresses blocks. Each thread has one of its own.
pub(super) enum Packer {
    /// With one context for all: backhand makes one for each block, and clears it.
    Zstd(zstd::bulk::Compressor<'static>),
    Other {
        codec: FilesystemCompressor,
        block_size: u32,
    },
}

impl Packer {
    pub(super) fn new(options: Options) -> Result<Self, BackhandError> {
        let Options { compression, block_size, .. } = options;
        Ok(match compression {
            Compression::Zstd => {
                let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL.into())?;
                zstd.set_parameter(CParameter::Strategy(Strategy::ZSTD_lazy))?;
                Self::Zstd(zstd)
            }
            Compression::Xz | Compression::Gzip | Compression::Lz4 => {
                Self::Other { codec: codec(compression)?, block_size }
            }
        })
    }

    /// The block as it is in the image, unless it is no smaller: then the writer takes it as it is.
    /// What was packed before does not matter.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BackhandError> {
        match self {
            Self::Zstd(zstd) => Ok(zstd.compress(bytes)?),
            Self::Other { codec, block_size } => {
                DefaultCompressor.compress(bytes, *codec, *block_size)
            }
        }
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
}
