//! How the C library's allocator serves a daemon that makes small things for months.

#![allow(unsafe_code, reason = "neither std nor nix can set up malloc")]

/// Has each piece of memory joined with its free neighbours as soon as it is freed.
///
/// glibc keeps free pieces of up to 128 bytes apart (`M_MXFAST`, `man 3 mallopt`) until somebody
/// asks for 1 KiB or more, which no launch does. They come to lie between larger ones, none of
/// which is large enough any more, and the heap grows with each launch. What was freed last is in
/// the thread's own cache first, with or without this.
#[cfg(target_env = "gnu")]
pub fn join_free_pieces() {
    // SAFETY: it sets a number of the allocator's, under the allocator's lock.
    let is_set = unsafe { libc::mallopt(libc::M_MXFAST, 0) };
    debug_assert_eq!(is_set, 1, "malloc knows the number, and 0 is one that it takes");
}

/// Other C libraries keep none apart.
#[cfg(not(target_env = "gnu"))]
pub fn join_free_pieces() {}
