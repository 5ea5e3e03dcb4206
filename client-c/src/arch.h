/*
 * System calls for a process that shares another one's memory: they touch no errno, look at no
 * thread, and are no cancellation points, as those of the C library are and do. And clone(2)
 * onto a stack, which C cannot say.
 *
 * Where this file does not know the machine, RK_SHARES is 0: children are copies, in which the
 * C library's calls are as good.
 */
#ifndef RK_ARCH_H
#define RK_ARCH_H

#include <sys/syscall.h>

#if defined(__x86_64__)

#define RK_SHARES 1

/* A system call; its result, or a negative errno. */
static inline long rk_call(long number, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result = number;

    __asm__ volatile("syscall"
                     : "+a"(result)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

/* clone(2): the new process calls `run` with `argument` on `stack` and exits with its result.
 * The kernel writes a pidfd to `pidfd` if `flags` say so. */
static inline long rk_clone(long flags, void *stack, int *pidfd, int (*run)(void *),
                            void *argument)
{
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    register int (*r12)(void *) __asm__("r12") = run;
    register void *r13 __asm__("r13") = argument;
    long result = SYS_clone;

    __asm__ volatile("syscall\n\t"
                     "test %%eax, %%eax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "+a"(result)
                     : "D"(flags), "S"(stack), "d"(pidfd), "r"(r10), "r"(r8), "r"(r12),
                       "r"(r13), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

#define RK_SHARES 1

static inline long rk_call(long number, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;

    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                     : "memory");
    return x0;
}

static inline long rk_clone(long flags, void *stack, int *pidfd, int (*run)(void *),
                            void *argument)
{
    register long x8 __asm__("x8") = SYS_clone;
    register long x0 __asm__("x0") = flags;
    register void *x1 __asm__("x1") = stack;
    register int *x2 __asm__("x2") = pidfd;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    register int (*x20)(void *) __asm__("x20") = run;
    register void *x21 __asm__("x21") = argument;

    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x21\n\t"
                     "blr x20\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc 0\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x20), "r"(x21),
                       [exit] "i"(SYS_exit)
                     : "memory");
    return x0;
}

#elif defined(__riscv) && __riscv_xlen == 64

#define RK_SHARES 1

static inline long rk_call(long number, long a, long b, long c, long d, long e)
{
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;

    __asm__ volatile("ecall"
                     : "+r"(a0)
                     : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4)
                     : "memory");
    return a0;
}

static inline long rk_clone(long flags, void *stack, int *pidfd, int (*run)(void *),
                            void *argument)
{
    register long a7 __asm__("a7") = SYS_clone;
    register long a0 __asm__("a0") = flags;
    register void *a1 __asm__("a1") = stack;
    register int *a2 __asm__("a2") = pidfd;
    register long a3 __asm__("a3") = 0;
    register long a4 __asm__("a4") = 0;
    register int (*s2)(void *) __asm__("s2") = run;
    register void *s3 __asm__("s3") = argument;

    __asm__ volatile("ecall\n\t"
                     "bnez a0, 1f\n\t"
                     "mv s0, zero\n\t"
                     "mv a0, s3\n\t"
                     "jalr s2\n\t"
                     "li a7, %[exit]\n\t"
                     "ecall\n\t"
                     "ebreak\n"
                     "1:"
                     : "+r"(a0)
                     : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(s2), "r"(s3),
                       [exit] "i"(SYS_exit)
                     : "memory");
    return a0;
}

#else

#define RK_SHARES 0

#include <errno.h>
#include <sched.h>
#include <unistd.h>

static inline long rk_call(long number, long a, long b, long c, long d, long e)
{
    long result = syscall(number, a, b, c, d, e);
    return result < 0 ? -errno : result;
}

static inline long rk_clone(long flags, void *stack, int *pidfd, int (*run)(void *),
                            void *argument)
{
    int pid = clone(run, stack, (int)flags, argument, pidfd, NULL, NULL);
    return pid < 0 ? -errno : pid;
}

#endif

#endif
