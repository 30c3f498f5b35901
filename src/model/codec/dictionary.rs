//! zstd with a dictionary: the built-in one, or one that the application trained on its states.

use crate::model::error::{Error, Result};
use once_cell::sync::Lazy;
use std::{cell::RefCell, fmt, num::NonZeroU32, thread::LocalKey};
use zstd::zstd_safe::{
    CCtx, CDict, DCtx, DDict, SafeResult, compress_bound, get_dict_id_from_dict, get_error_name,
};

const LEVEL: i32 = 3;

/// Text that many states have in common: field names, values, browser names. It belongs to codec
/// number 2 and must never change. Another text needs another number.
pub(super) const BUILT_IN: &[u8] = include_bytes!("dictionary.txt");
static OF_ALL: Lazy<Dictionary> = Lazy::new(|| Dictionary {
    write: CDict::create(BUILT_IN, LEVEL),
    read: DDict::create(BUILT_IN),
});

// zstd contexts are large. Creating one takes longer than compressing a small state.
thread_local! {
    static WRITER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static READER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// A dictionary, prepared for compression and decompression.
pub struct Dictionary {
    write: CDict<'static>,
    read: DDict<'static>,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dictionary").field(&self.id()).finish()
    }
}

impl Dictionary {
    pub fn built_in() -> &'static Dictionary {
        &OF_ALL
    }

    /// A trained dictionary (`zstd --train`). Fails for other texts, because they have no id.
    pub fn trained(bytes: &[u8]) -> Result<Dictionary> {
        let digest = || {
            get_dict_id_from_dict(bytes)?;
            Some(Dictionary {
                write: CDict::try_create(bytes, LEVEL)?,
                read: DDict::try_create(bytes)?,
            })
        };
        digest().ok_or_else(|| {
            Error::invalid(format!(
                "stateCompression.dictionaries: one of {} bytes is no zstd dictionary; make one \
                 with zstd --train",
                bytes.len()
            ))
        })
    }

    /// The dictionary's id, which is also in data that were compressed with it; `None` for the
    /// built-in one.
    pub fn id(&self) -> Option<NonZeroU32> {
        self.write.get_dict_id()
    }

    pub fn compress(&self, text: &[u8]) -> Result<Vec<u8>, &'static str> {
        let mut packed = Vec::with_capacity(compress_bound(text.len()));
        with_kept(&WRITER, CCtx::try_create, |zstd| {
            zstd.compress_using_cdict(&mut packed, text, &self.write)
        })?;
        packed.shrink_to_fit();
        Ok(packed)
    }

    /// `size`: maximum length of the text in bytes.
    pub fn decompress(&self, packed: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
        let mut text = Vec::with_capacity(size);
        with_kept(&READER, DCtx::try_create, |zstd| {
            zstd.decompress_using_ddict(&mut text, packed, &self.read)
        })?;
        Ok(text)
    }
}

/// Runs `work` with the context of this thread.
fn with_kept<T>(
    kept: &'static LocalKey<RefCell<Option<T>>>,
    make: impl FnOnce() -> Option<T>,
    work: impl FnOnce(&mut T) -> SafeResult,
) -> Result<(), &'static str> {
    kept.with_borrow_mut(|kept| {
        let zstd = match kept {
            Some(zstd) => zstd,
            None => kept.insert(make().ok_or("out of memory")?),
        };
        work(zstd).map_err(get_error_name)?;
        Ok(())
    })
}
