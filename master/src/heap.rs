//! How the C library's allocator serves a daemon that makes small things for months.

#![allow(unsafe_code, reason = "neither std nor nix can set up malloc")]

/// Has the heap stay as small as it is used.
///
/// Each piece of memory is joined with its free neighbours as soon as it is freed. glibc keeps free
/// pieces of up to 128 bytes apart (`M_MXFAST`, `man 3 mallopt`) until somebody asks for 1 KiB or
/// more, which no launch does. They come to lie between larger ones, none of which is large enough
/// any more, and the heap grows with each launch. What was freed last is in the thread's own cache
/// first, with or without this.
///
/// All threads share one arena (`M_ARENA_MAX`): those that do errands are few and short, and each
/// would leave one of its own.
#[cfg(target_env = "gnu")]
pub fn keep_small() {
    for (option, value) in [(libc::M_MXFAST, 0), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: it sets a number of the allocator's, under the allocator's lock.
        let is_set = unsafe { libc::mallopt(option, value) };
        debug_assert_eq!(is_set, 1, "malloc knows both numbers, and takes these");
    }
}

/// Other C libraries do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn keep_small() {}
