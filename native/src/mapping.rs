//! Memory shared with another process or the kernel, seen as 64-bit atomics: the only way to read what
//! somebody else may be writing that is defined behaviour and costs nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// A shared mapping, unmapped when dropped. Its file must not shrink while it is mapped: touching what is no
/// longer there ends the process.
pub struct Mapping {
    address: NonNull<AtomicU64>,
    size: usize,
}

// SAFETY: the mapping belongs to this value alone until it is dropped, and is only reached through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes (more than none) of the file, from `offset` (a multiple of the page size) on.
    pub fn new(fd: BorrowedFd, offset: usize, size: usize, access: Access) -> io::Result<Self> {
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let address = unsafe {
            let offset = offset as libc::off_t;
            libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { address, size })
    }

    /// All of it. Where the mapping is for reading, the words may only be loaded.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping starts at a page, is `size` bytes long and lives as long as `self`; whoever
        // else writes to it may, as the words are atomics, and any bytes are valid ones.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.size / size_of::<AtomicU64>()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and `words` cannot outlive `self`.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.size) };
    }
}

/// A file of its own for a descriptor of the caller's: closing one leaves the other open.
pub fn duplicate(fd: i32) -> io::Result<File> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is borrowed for this call only, which fails with EBADF if there is no such descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(File::from(borrowed.try_clone_to_owned()?))
}

pub fn page_size() -> usize {
    // SAFETY: a query without side effects.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}
