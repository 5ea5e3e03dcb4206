//! What a program needs where there is no C library: a first instruction, memory, and an end.
//!
//! A static C library costs a process 275 us here before `main`, most of it asking a
//! virtualised processor what it is; this costs none (ARCHITECTURE.md says how that was measured).
#![allow(unsafe_code, reason = "below this there is only the kernel")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::ptr;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

// The kernel enters here with the stack pointer at argc, aligned to 16 bytes, and leaves all
// other registers undefined (the ABI supplements of the System V ABI, "process initialization").
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "call {start}", "ud2", start = sym start);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "b {start}", start = sym start);
#[cfg(target_arch = "arm")]
global_asm!(".globl _start", "_start:", "mov r0, sp", "b {start}", start = sym start);
#[cfg(target_arch = "riscv64")]
global_asm!(".globl _start", "_start:", ".option push", ".option norelax", "la gp, __global_pointer$", ".option pop", "mv a0, sp", "tail {start}", start = sym start);

/// `stack` is argc, then the pointers of argv.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel has put argc at `stack` and argc pointers after it; with two or more
    // the second argument is a NUL-ended string that lives as long as the process.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one layout, one argument")]
    let asks_for_version = unsafe {
        stack.read() > 1
            && CStr::from_ptr(stack.add(2).cast::<*const c_char>().read()) == c"--version"
    };
    exit(super::main(asks_for_version));
}

fn exit(status: u8) -> ! {
    loop {
        // SAFETY: it ends this process and touches no memory.
        let _ = unsafe { syscalls::syscall!(syscalls::Sysno::exit_group, usize::from(status)) };
    }
}

/// A bug. The kernel does not deliver SIGABRT to PID 1, so this is a plain end, and the end of
/// the rocker.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// The compiled standard crates name these two for unwinding, which `panic = "abort"` rules out.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(101)
}

/// See above.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Memory for the building of one rocker. Small pieces are cut from a chunk, one after the other,
/// and only the latest can be given back: once the rocker lives next to nothing is taken any more.
/// A big one is pages of its own, which come from the kernel when they are touched, and go back.
struct Arena(UnsafeCell<Chunk>);

/// Where the next small piece begins, and how many bytes are left.
struct Chunk {
    next: *mut u8,
    left: usize,
}

impl Arena {
    /// Too short for a huge page: a byte that is touched must not cost 2 MiB.
    const CHUNK: usize = 64 << 10;

    /// From here on a piece is big. Pages are as long, or longer.
    const BIG: usize = 4096;

    const fn is_big(layout: Layout) -> bool {
        layout.size() >= Self::BIG
    }

    /// New pages, all zero; null if there are none.
    fn pages(size: usize) -> *mut u8 {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: they come to a place of the kernel's choice, where nothing is.
        let pages = unsafe { mmap_anonymous(ptr::null_mut(), size, access, flags) };
        pages.map_or(ptr::null_mut(), <*mut _>::cast)
    }
}

// SAFETY: a guard has one thread, so nothing is ever used by two.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena(UnsafeCell::new(Chunk { next: ptr::null_mut(), left: 0 }));

// SAFETY: a big piece is pages that nothing else is in. Small ones never overlap: `next` is the
// end of the last one, and goes back only when that very piece is given back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > Self::BIG {
            return ptr::null_mut();
        }
        if Self::is_big(layout) {
            return Self::pages(layout.size());
        }
        // SAFETY: one thread; the reference ends with this call.
        let chunk = unsafe { &mut *self.0.get() };
        let padding = chunk.next.addr().wrapping_neg() & (layout.align() - 1);
        let (mut piece, mut taken) = (chunk.next.wrapping_add(padding), padding + layout.size());
        if taken > chunk.left {
            (piece, taken) = (Self::pages(Self::CHUNK), layout.size());
            if piece.is_null() {
                return piece;
            }
            chunk.left = Self::CHUNK;
        }
        *chunk = Chunk { next: piece.wrapping_add(layout.size()), left: chunk.left - taken };
        piece
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if Self::is_big(layout) {
            // SAFETY: the pages are the piece, which is the caller's until now. If the kernel
            // refuses they stay.
            let _ = unsafe { munmap(piece.cast(), layout.size()) };
            return;
        }
        // SAFETY: one thread; the reference ends with this call.
        let chunk = unsafe { &mut *self.0.get() };
        if piece.wrapping_add(layout.size()) == chunk.next {
            *chunk = Chunk { next: piece, left: chunk.left + layout.size() };
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same contract.
        let piece = unsafe { self.alloc(layout) };
        if !piece.is_null() && !Self::is_big(layout) {
            // SAFETY: the piece is that long, and nobody else's. Untouched pages are zero.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the layout is valid for any size that a caller may ask for.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if Self::is_big(layout) && Self::is_big(wanted) {
            let flags = MremapFlags::MAYMOVE;
            // SAFETY: the pages are the piece, which is the caller's until now.
            let moved = unsafe { mremap(piece.cast(), layout.size(), size, flags) };
            return moved.map_or(ptr::null_mut(), <*mut _>::cast);
        }
        // SAFETY: one thread; the reference ends before `alloc` makes its own.
        let chunk = unsafe { &mut *self.0.get() };
        let is_last = piece.wrapping_add(layout.size()) == chunk.next;
        if is_last && !Self::is_big(wanted) && size <= chunk.left + layout.size() {
            let left = chunk.left + layout.size() - size;
            *chunk = Chunk { next: piece.wrapping_add(size), left };
            return piece;
        }
        // SAFETY: the layout is the wanted one, which is valid.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: they do not overlap, and both are as long as what is copied.
            unsafe { moved.copy_from_nonoverlapping(piece, size.min(layout.size())) };
            // SAFETY: nobody uses the old one any more.
            unsafe { self.dealloc(piece, layout) };
        }
        moved
    }
}

// What the compiler calls on its own. Nothing on the way of a launch copies much.

/// `memcpy(3)`
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as the caller promises; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..length {
        // SAFETY: as the caller promises.
        unsafe { to.add(at).write(from.add(at).read()) };
    }
    to
}

/// `memmove(3)`
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= length {
        // SAFETY: forwards, no byte is overwritten before it is read.
        return unsafe { memcpy(to, from, length) };
    }
    for at in (0..length).rev() {
        // SAFETY: as the caller promises; backwards, no byte is overwritten before it is read.
        #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one byte")]
        unsafe {
            to.add(at).write(from.add(at).read());
        };
    }
    to
}

/// `memset(3)`
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    let byte = byte.to_le_bytes()[0];
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as the caller promises; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _,
            in("al") byte, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..length {
        // SAFETY: as the caller promises.
        unsafe { to.add(at).write(byte) };
    }
    to
}

/// `memcmp(3)`
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: as the caller promises.
        #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one byte of each")]
        let (a, b) = unsafe { (one.add(at).read(), other.add(at).read()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// `bcmp(3)`
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(one, other, length) }
}

/// `strlen(3)`
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the text ends with a NUL, by the contract; no byte after it is read.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one byte")]
    while unsafe { text.add(length).read() } != 0 {
        length += 1;
    }
    length
}
