/*
 * What the command and the library take of a C library, so that the command needs none: it starts
 * sooner that way (ARCHITECTURE.md). Only for machines where the structures of every C library are
 * the kernel's own; others link with theirs.
 *
 * One thread, no locale, no stdio, no memory but what is there from the start.
 */
#define _POSIX_C_SOURCE 200809L
#include "../src/arch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "errno_words.h"

/* What the kernel leaves on the stack: the number of words, the words, NULL, the environment. */
#if defined(__x86_64__)
__asm__(".globl _start\n"
        "_start:\n\t"
        "xor %ebp, %ebp\n\t"
        "mov %rsp, %rdi\n\t"
        "and $-16, %rsp\n\t"
        "call rk_main\n\t"
        "hlt");
#elif defined(__aarch64__)
__asm__(".globl _start\n"
        "_start:\n\t"
        "mov x29, xzr\n\t"
        "mov x30, xzr\n\t"
        "mov x0, sp\n\t"
        "b rk_main");
#else
#error "this machine is not known here: link with a C library, make ALONE="
#endif

/* rk_call() with one more, which is all that mmap(2) needs. */
static long call_mmap(long at, long size, long protection, long flags, long fd, long offset)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = flags;
    register long r8 __asm__("r8") = fd;
    register long r9 __asm__("r9") = offset;
    long result = SYS_mmap;

    __asm__ volatile("syscall"
                     : "+a"(result)
                     : "D"(at), "S"(size), "d"(protection), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_mmap;
    register long x0 __asm__("x0") = at;
    register long x1 __asm__("x1") = size;
    register long x2 __asm__("x2") = protection;
    register long x3 __asm__("x3") = flags;
    register long x4 __asm__("x4") = fd;
    register long x5 __asm__("x5") = offset;

    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#endif
}

int main(int argc, char **argv, char **envp);
void rk_main(char **stack);

/* The linker's: where the program begins, and what is to be done to it there. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));

/* Tables of pointers, if the compiler has made any, have pointers as if the program began at 0:
 * elf(5). The kernel has put it anywhere. */
static void relocate(void)
{
    const char *begin = __ehdr_start;
    size_t at = 0, size = 0;

    for (const Elf64_Dyn *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        at = entry->d_tag == DT_RELA ? entry->d_un.d_ptr : at;
        size = entry->d_tag == DT_RELASZ ? entry->d_un.d_val : size;
    }
    const Elf64_Rela *moved = (const Elf64_Rela *)(const void *)(begin + at);
    for (size_t i = 0; i < size / sizeof(*moved); i++) {
        uintptr_t pointer = (uintptr_t)begin + (uintptr_t)moved[i].r_addend;
        *(uintptr_t *)((uintptr_t)begin + moved[i].r_offset) = pointer;
    }
}

/* What the kernel tells, behind the environment: pairs, the last of which is AT_NULL. getauxval(3) */
static char **auxiliary;

void rk_main(char **stack)
{
    int argc = (int)(intptr_t)stack[0];

    relocate();
    auxiliary = stack + 1 + argc + 1;
    while (*auxiliary++ != NULL) {
    }
    _exit(main(argc, stack + 1, stack + 1 + argc + 1));
}

unsigned long getauxval(unsigned long type)
{
    char **entry = auxiliary;

    while (entry[0] != NULL && (uintptr_t)entry[0] != type) {
        entry += 2;
    }
    return (uintptr_t)entry[1];
}

/* --- <errno.h> -------------------------------------------------------------------------------- */

int *__errno_location(void)
{
    static int number;

    return &number;
}

/* As the C library's calls tell it. */
static long told(long result)
{
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static long call(long number, long a, long b, long c, long d)
{
    return told(rk_call(number, a, b, c, d, 0));
}

/* --- <string.h> ------------------------------------------------------------------------------- */

/* The compiler would make calls of these of loops such as theirs: ../Makefile forbids it. */

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    unsigned char *target = to;
    const unsigned char *source = from;

    for (size_t i = 0; i < size; i++) {
        target[i] = source[i];
    }
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    unsigned char *target = to;
    const unsigned char *source = from;

    if ((uintptr_t)target <= (uintptr_t)source) {
        for (size_t i = 0; i < size; i++) {
            target[i] = source[i];
        }
    } else {
        while (size-- > 0) {
            target[size] = source[size];
        }
    }
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    unsigned char *target = to;

    for (size_t i = 0; i < size; i++) {
        target[i] = (unsigned char)byte;
    }
    return to;
}

int memcmp(const void *left, const void *right, size_t size)
{
    const unsigned char *a = left, *b = right;

    for (size_t i = 0; i < size; i++) {
        if (a[i] != b[i]) {
            return a[i] - b[i];
        }
    }
    return 0;
}

/* What clang makes of a comparison that only asks whether. */
int bcmp(const void *left, const void *right, size_t size);
int bcmp(const void *left, const void *right, size_t size)
{
    return memcmp(left, right, size);
}

size_t strlen(const char *text)
{
    size_t length = 0;

    while (text[length] != '\0') {
        length++;
    }
    return length;
}

int strncmp(const char *left, const char *right, size_t size)
{
    size_t at = 0;

    while (at < size && left[at] == right[at] && left[at] != '\0') {
        at++;
    }
    return at < size ? (unsigned char)left[at] - (unsigned char)right[at] : 0;
}

int strcmp(const char *left, const char *right)
{
    return strncmp(left, right, PTRDIFF_MAX);
}

char *strchr(const char *text, int byte)
{
    for (; *text != (char)byte; text++) {
        if (*text == '\0') {
            return NULL;
        }
    }
    return (char *)text;
}

char *strrchr(const char *text, int byte)
{
    const char *last = NULL;

    for (const char *next = text; (next = strchr(next, byte)) != NULL; next++) {
        last = next;
    }
    return (char *)last;
}

int strerror_r(int number, char *text, size_t size)
{
    const char *words = rk_errno_words(number);
    size_t length = words != NULL ? strlen(words) + 1 : 0;

    if (length == 0 || length > size) {
        return words == NULL ? EINVAL : ERANGE;
    }
    memcpy(text, words, length);
    return 0;
}

/* --- System calls. ---------------------------------------------------------------------------- */

void _exit(int status)
{
    for (;;) {
        rk_call(SYS_exit_group, status, 0, 0, 0, 0);
    }
}

int open(const char *path, int flags, ...)
{
    va_list more;

    va_start(more, flags);
    int mode = (flags & O_CREAT) != 0 ? va_arg(more, int) : 0;
    va_end(more);
    return (int)call(SYS_openat, AT_FDCWD, (long)path, flags, mode);
}

int close(int fd)
{
    return (int)call(SYS_close, fd, 0, 0, 0);
}

ssize_t read(int fd, void *bytes, size_t size)
{
    return call(SYS_read, fd, (long)bytes, (long)size, 0);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    return call(SYS_write, fd, (long)bytes, (long)size, 0);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
    return call(SYS_pread64, fd, (long)bytes, (long)size, offset);
}

ssize_t readlink(const char *restrict path, char *restrict target, size_t size)
{
    return call(SYS_readlinkat, AT_FDCWD, (long)path, (long)target, (long)size);
}

int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    struct timespec timeout = { timeout_ms / 1000, timeout_ms % 1000 * 1000000l };

    return (int)told(rk_call(SYS_ppoll, (long)fds, (long)count,
                             timeout_ms < 0 ? 0 : (long)&timeout, 0, 0));
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    return (int)call(SYS_clock_gettime, clock, (long)now, 0, 0);
}

int socket(int domain, int type, int protocol)
{
    return (int)call(SYS_socket, domain, type, protocol, 0);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return (int)call(SYS_connect, fd, (long)address, (long)length, 0);
}

int shutdown(int fd, int how)
{
    return (int)call(SYS_shutdown, fd, how, 0, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return call(SYS_sendmsg, fd, (long)message, flags, 0);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    return call(SYS_recvmsg, fd, (long)message, flags, 0);
}

/* glibc's. */
struct cmsghdr *__cmsg_nxthdr(struct msghdr *message, struct cmsghdr *item);
struct cmsghdr *__cmsg_nxthdr(struct msghdr *message, struct cmsghdr *item)
{
    unsigned char *end = (unsigned char *)message->msg_control + message->msg_controllen;
    size_t room = (size_t)(end - (unsigned char *)item), length = CMSG_ALIGN(item->cmsg_len);

    if (item->cmsg_len < sizeof(*item) || length > room || room - length < sizeof(*item)) {
        return NULL;
    }
    return (struct cmsghdr *)(void *)((unsigned char *)item + length);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return (void *)told(call_mmap((long)at, (long)size, protection, flags, fd, offset));
}

int munmap(void *at, size_t size)
{
    return (int)call(SYS_munmap, (long)at, (long)size, 0, 0);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    return (pid_t)call(SYS_wait4, pid, (long)status, options, 0);
}

uid_t geteuid(void)
{
    return (uid_t)rk_call(SYS_geteuid, 0, 0, 0, 0, 0);
}

int isatty(int fd)
{
    /* As much as a struct termios of the kernel's takes, and more. */
    char termios[256];

    return rk_call(SYS_ioctl, fd, 0x5401 /* TCGETS */, (long)termios, 0, 0) == 0;
}

int execve(const char *path, char *const *argv, char *const *envp)
{
    return (int)call(SYS_execve, (long)path, (long)argv, (long)envp, 0);
}
