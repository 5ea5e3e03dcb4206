//! Words for numbers.

/// The name of a system call of this machine; none for a number that this release does not know.
///
/// ```
/// assert_eq!(rocker_client::syscall_name(u32::MAX), None);
/// ```
pub fn syscall_name(number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    syscalls::Sysno::new(number).map(|call| call.name())
}
