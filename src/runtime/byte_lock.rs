//! Locks on single bytes of a file, even beyond its end: open file description locks of Linux (fcntl(2)). They
//! belong to the opened file and end at the latest when it is closed or the process ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks a byte; returns false if it is already locked.
///
/// # Errors
/// A file system without locks.
pub(super) fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
    match set(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks a byte, waiting as long as necessary.
///
/// # Errors
/// A file system without locks.
pub(super) fn wait_lock(file: &File, byte: u64) -> io::Result<()> {
    set(file, libc::F_OFD_SETLKW, libc::F_WRLCK, byte)
}

/// Unlocks a byte.
///
/// # Errors
/// A file system without locks.
pub(super) fn unlock(file: &File, byte: u64) -> io::Result<()> {
    set(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte)
}

fn set(file: &File, command: libc::c_int, kind: libc::c_int, byte: u64) -> io::Result<()> {
    let start = libc::off_t::try_from(byte).map_err(io::Error::other)?;
    // SAFETY: fcntl only reads the lock, for which zeros are valid; the descriptor is open.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = start;
        lock.l_len = 1;
        while libc::fcntl(file.as_raw_fd(), command, &raw const lock) == -1 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    Ok(())
}
