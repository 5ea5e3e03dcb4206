/* The floor: the shortest sequence of system calls known for a whole launch and its end, with
 * no daemon, no protocol, no checks. What a real launch is compared with.
 *
 *   cc -O2 -static -o floor floor.c && sudo taskset -c 1 ./floor -n 300 -m doc
 *
 *   -m bare   namespaces, id map, entry, exit; no package, no overlay
 *      doc    the sequence diagrams literally: a loop device per rocker, one overlay per
 *             directory, the master writes the maps, a helper and its brother by CLONE_PARENT
 *      best   the same result in fewer steps: one overlay for all directories of a mount, the
 *             guard maps itself, the AppMaster forks the App straight into the PID namespace
 *      warm   best, and the package's superblock is kept and shared by all rockers
 *      walls  warm, and what else stands around each App: no new privileges and empty capability
 *             sets (the bounding set's too) for guard and App, a seccomp filter, devices, shared
 *             memory and terminals of its own
 *      kept   walls, and the overlays were made before: each launch has mounts of its own of them
 *      all    each in turn (default)
 *   -n COUNT  launches that count; a tenth and five more come first, as a warm-up
 *   -o A,B,C  directories to overlay; an empty list for none
 *   -d DIR    where layers, image and mount points are made, and removed
 *   -p FILE   package; else an empty one
 *   -x FILE   the App; it writes CLOCK_MONOTONIC, 8 bytes, to its standard output first
 *             (clock.c). Else the App is a function, as a callback is
 *   -f FILE   the filter of "walls", an array of struct sock_filter; else one that allows all
 *   -r        every sample, a line each: launch and cycle, microseconds. Else the medians
 *   -w        the same, each launch for a line that it reads, and no warm-up
 *   -v        overlays are mounted "volatile"
 *   -t        DIR on a new tmpfs
 *   -s        stage the overlay's mount, as Linux before 6.15 needs (found out by itself)
 *
 * launch_us  start of clone(guard) to the first instruction of the App
 * cycle_us   ... to App reaped, guard gone (it noticed by itself), loop device detached
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif
#define TREE_CLONE (1 | O_CLOEXEC)
#define F_EMPTY 4 /* MOVE_MOUNT_F_EMPTY_PATH */
#define UID 1000
#define MAXOV 16
#define MAXN 20000

enum { BARE, DOC, BEST, WARM, WALLS, KEPT, MODES };
static const char *const mode_name[MODES] = { "bare", "doc", "best", "warm", "walls", "kept" };
enum { START, GUARD, PKGDEV, OVERLAY, PKGMNT, PROC, USER, READY, MAPPED, APP, APPDEAD, GDEAD, DETACHED, STAMPS };
static const char *const step_name[STAMPS] = { "", "clone_guard", "pkg_device", "overlays", "pkg_mount", "proc_mount",
	"userns", "ready_to_client", "master_maps", "enter_to_app", "app_exit_reap", "guard_exit", "loop_detached" };

struct shared { volatile uint64_t t[STAMPS]; int loop; };
static struct shared *S;
static int mode, nov, self_pidfd, kept[MAXOV], pkg_mnt = -1, pkg_tree = -1, dev_tree = -1, vol, datafs, staged, raw, asked;
static int said[2] = { -1, -1 }; /* the App's standard output */
static char *ov[MAXOV], up[MAXOV][256], wk[MAXOV][256], data[160] = "floor.d", pkg[4200], execdir[256], staging[256], devices[256], *prog, *base;
static struct sock_filter filter[4096] = { { BPF_RET, 0, 0, SECCOMP_RET_ALLOW } };
static struct sock_fprog walls = { 1, filter };
static double sample[STAMPS + 2][MAXN];

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
#define STAMP(i) (S->t[i] = now())
#define TRY(x) ({ long r_ = (long)(x); if (r_ < 0) { fprintf(stderr, "%s:%d %s: %s\n", mode_name[mode], __LINE__, #x, strerror(errno)); _exit(100); } r_; })

static void put(const char *path, const char *text)
{
	int f = TRY(open(path, O_WRONLY | O_CLOEXEC));
	TRY(write(f, text, strlen(text)));
	close(f);
}
static void mkdirs(const char *path)
{
	char b[512]; snprintf(b, sizeof b, "%s", path);
	for (char *q = b + 1; *q; q++) if (*q == '/') { *q = 0; mkdir(b, 0755); *q = '/'; }
	mkdir(b, 0755);
}
/* smallest valid squashfs: an empty root directory, nothing compressed */
static void write_image(const char *path)
{
	static unsigned char b[4096];
#define P(off, n, v) do { uint64_t v_ = (v); memcpy(b + (off), &v_, n); } while (0)
	P(0, 4, 0x73717368); P(4, 4, 1); P(12, 4, 131072); P(20, 2, 1); P(22, 2, 17); P(26, 2, 1); P(28, 2, 4);
	P(32, 8, 0); P(40, 8, 144); P(48, 8, 136); P(56, 8, ~0ull); P(64, 8, 96); P(72, 8, 130); P(80, 8, 130); P(88, 8, ~0ull);
	P(96, 2, 0x8000 | 32); P(98, 2, 1); P(100, 2, 0755); P(110, 4, 1); P(118, 4, 2); P(122, 2, 3); P(126, 4, 2);
	P(130, 2, 0x8000 | 4); P(136, 8, 130);
	int f = TRY(open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644)); TRY(write(f, b, sizeof b)); close(f);
}
static int loop_attach(char *dev)
{
	int ctl = TRY(open("/dev/loop-control", O_RDWR | O_CLOEXEC)), img = TRY(open(pkg, O_RDONLY | O_CLOEXEC)), f;
	for (;;) {
		S->loop = TRY(ioctl(ctl, LOOP_CTL_GET_FREE));
		sprintf(dev, "/dev/loop%d", S->loop);
		f = TRY(open(dev, O_RDONLY | O_CLOEXEC));
		struct loop_config c = { .fd = img, .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR };
		if (!ioctl(f, LOOP_CONFIGURE, &c)) break;
		if (errno != EBUSY) TRY(-1);
		close(f); /* somebody else took that number first */
	}
	close(ctl); close(img);
	return f;
}
static int new_overlay(const char *lower, int i)
{
	int fs = TRY(syscall(SYS_fsopen, "overlay", 1));
	TRY(syscall(SYS_fsconfig, fs, 1, "lowerdir", lower, 0));
	TRY(syscall(SYS_fsconfig, fs, 1, "upperdir", up[i], 0));
	TRY(syscall(SYS_fsconfig, fs, 1, "workdir", wk[i], 0));
	if (vol) TRY(syscall(SYS_fsconfig, fs, 0, "volatile", 0, 0));
	TRY(syscall(SYS_fsconfig, fs, 6, 0, 0, 0));
	int m = TRY(syscall(SYS_fsmount, fs, 1, 0));
	close(fs);
	return m;
}
static void overlays(void)
{
	if (mode == DOC) {
		for (int i = 0; i < nov; i++) {
			char o[1024];
			snprintf(o, sizeof o, "lowerdir=%s,upperdir=%s,workdir=%s%s", ov[i], up[i], wk[i], vol ? ",volatile" : "");
			TRY(mount("overlay", ov[i], "overlay", 0, o));
		}
		return;
	}
	int root = -1; struct stat a, b;
	TRY(stat("/", &a));
	for (int i = 0; i < nov; i++) {
		TRY(stat(ov[i], &b));
		int m;
		if (b.st_dev == a.st_dev) { /* part of the root file system: a piece of the one overlay over "/" */
			if (root < 0) {
				root = mode == KEPT ? kept[MAXOV - 1] : new_overlay("/", MAXOV - 1);
				if (staged) { /* before 6.15 only attached mounts can be cloned */
					TRY(syscall(SYS_move_mount, root, "", AT_FDCWD, staging, F_EMPTY));
				}
			}
			m = TRY(syscall(SYS_open_tree, root, ov[i] + 1, TREE_CLONE));
		} else
			m = mode == KEPT ? TRY(syscall(SYS_open_tree, kept[i], "", TREE_CLONE | AT_EMPTY_PATH)) : new_overlay(ov[i], i);
		TRY(syscall(SYS_move_mount, m, "", AT_FDCWD, ov[i], F_EMPTY));
		close(m);
	}
	if (root >= 0 && staged) TRY(umount2(staging, MNT_DETACH));
	if (root >= 0) close(root);
}
static int new_mount(const char *type, const char *key, const char *value)
{
	int fs = TRY(syscall(SYS_fsopen, type, 1));
	TRY(syscall(SYS_fsconfig, fs, 1, key, value, 0));
	TRY(syscall(SYS_fsconfig, fs, 6, 0, 0, 0));
	int m = TRY(syscall(SYS_fsmount, fs, 1, MS_NOSUID | MS_NOEXEC));
	close(fs);
	return m;
}
static void own_devices(void) /* dev_tree is the master's; what an App writes to is not */
{
	int shm = new_mount("tmpfs", "size", "64m"), pts = new_mount("devpts", "ptmxmode", "0666");
	TRY(syscall(SYS_move_mount, dev_tree, "", AT_FDCWD, "/dev", F_EMPTY));
	TRY(syscall(SYS_move_mount, shm, "", AT_FDCWD, "/dev/shm", F_EMPTY));
	TRY(syscall(SYS_move_mount, pts, "", AT_FDCWD, "/dev/pts", F_EMPTY));
	close(shm); close(pts); close(dev_tree);
}
static void give_up(void) /* all that a process could win back by executing something */
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 } };
	for (int c = 0; !prctl(PR_CAPBSET_DROP, c, 0, 0, 0); c++) ;
	TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	TRY(syscall(SYS_capset, &h, none));
}
static int guard(void *arg)
{
	int *sk = arg, lf = -1; char dev[32], c = 'r';
	STAMP(GUARD);
	close(sk[0]);
	TRY(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
	if (mode == DOC || mode == BEST) lf = loop_attach(dev);
	STAMP(PKGDEV);
	if (mode != BARE) overlays();
	STAMP(OVERLAY);
	if (lf >= 0) { TRY(mount(dev, execdir, "squashfs", MS_RDONLY | MS_NOSUID | MS_NODEV, 0)); close(lf); }
	if (mode >= WARM) {
		TRY(syscall(SYS_move_mount, pkg_tree, "", AT_FDCWD, execdir, F_EMPTY));
		close(pkg_tree);
	}
	STAMP(PKGMNT);
	TRY(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
	if (mode >= WALLS) own_devices();
	STAMP(PROC);
	if (mode == DOC) TRY(unshare(CLONE_NEWUSER));
	else {
		TRY(syscall(SYS_setgroups, 0, 0)); /* be the App's user, entirely: owner of the user ns, no trace of root left */
		TRY(syscall(SYS_setresgid, UID, UID, UID)); TRY(syscall(SYS_setresuid, UID, UID, UID));
		TRY(unshare(CLONE_NEWUSER));
		prctl(PR_SET_DUMPABLE, 1); /* /proc/self/ *_map must be ours to open */
		put("/proc/self/setgroups", "deny"); put("/proc/self/uid_map", "0 1000 1"); put("/proc/self/gid_map", "0 1000 1");
	}
	if (mode >= WALLS) give_up();
	prctl(PR_SET_DUMPABLE, 0);
	STAMP(USER);
	TRY(write(sk[1], &c, 1));
	/* wait for the App's pidfd, then for its end, then for every orphan: nothing polls */
	union { char b[CMSG_SPACE(sizeof(int))]; struct cmsghdr h; } u; struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u };
	if (recvmsg(sk[1], &m, MSG_CMSG_CLOEXEC) == 1) {
		struct pollfd p = { .events = POLLIN };
		memcpy(&p.fd, CMSG_DATA(&u.h), sizeof p.fd);
		poll(&p, 1, -1);
		while (waitpid(-1, 0, 0) > 0) ;
	}
	_exit(0);
}
static void app(void)
{
	if (mode >= WALLS) {
		give_up();
		TRY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &walls, 0, 0));
	}
	STAMP(APP);
	if (prog) {
		char *av[] = { prog, 0 }, *ev[] = { 0 };
		if (dup2(said[1], 1) == 1) execve(prog, av, ev);
		_exit(99);
	}
	_exit(7);
}
static void become(void) { TRY(syscall(SYS_setresgid, 0, 0, 0)); TRY(syscall(SYS_setresuid, 0, 0, 0)); }
static pid_t enter(int gfd)
{
	pid_t a, c; int pp[2];
	if (mode == DOC) { /* child enters, then clones the App as its brother */
		TRY(pipe2(pp, O_CLOEXEC));
		c = TRY(fork());
		if (!c) {
			syscall(SYS_setgroups, 0, 0);
			TRY(setns(gfd, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID)); become();
			a = TRY(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0));
			if (!a) app();
			TRY(write(pp[1], &a, sizeof a)); _exit(0);
		}
		close(pp[1]); TRY(read(pp[0], &a, sizeof a)); close(pp[0]); waitpid(c, 0, 0);
		return a;
	}
	TRY(setns(gfd, CLONE_NEWPID)); /* this thread's next child is born in the rocker's pid ns */
	a = TRY(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	if (!a) { syscall(SYS_setgroups, 0, 0); TRY(setns(gfd, CLONE_NEWNS | CLONE_NEWUSER)); become(); app(); }
	TRY(setns(self_pidfd, CLONE_NEWPID));
	return a;
}
static void send_fd(int sk, int fd)
{
	union { char b[CMSG_SPACE(sizeof(int))]; struct cmsghdr h; } u = { 0 }; char c = 'p'; struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u };
	u.h.cmsg_level = SOL_SOCKET; u.h.cmsg_type = SCM_RIGHTS; u.h.cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(&u.h), &fd, sizeof fd);
	TRY(sendmsg(sk, &m, MSG_NOSIGNAL));
}
static void drop_volatile_mark(void) /* allowed: this machine has not crashed since */
{
	for (int i = 0; i < MAXOV; i++) {
		char b[512]; snprintf(b, sizeof b, "%s/work/incompat/volatile/dirty", wk[i]);
		unlink(b); *strrchr(b, '/') = 0; rmdir(b); *strrchr(b, '/') = 0; rmdir(b);
	}
}
static void one(int it)
{
	static char stack[1 << 18] __attribute__((aligned(16)));
	int sk[2], st; char c, b[64];
	if (vol) drop_volatile_mark();
	memset((void *)S->t, 0, sizeof S->t); S->loop = -1;
	STAMP(START);
	TRY(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sk));
	if (mode >= WARM) pkg_tree = TRY(syscall(SYS_open_tree, pkg_mnt, ".", TREE_CLONE)); /* a copy of the mount the master keeps */
	if (mode >= WALLS) dev_tree = TRY(syscall(SYS_open_tree, AT_FDCWD, devices, TREE_CLONE));
	pid_t g = TRY(clone(guard, stack + sizeof stack, CLONE_NEWNS | CLONE_NEWPID | SIGCHLD, sk));
	close(sk[1]); if (mode >= WARM) close(pkg_tree); if (mode >= WALLS) close(dev_tree);
	int gfd = TRY(syscall(SYS_pidfd_open, g, 0));
	if (read(sk[0], &c, 1) != 1) { fprintf(stderr, "guard failed\n"); exit(1); }
	STAMP(READY);
	if (mode == DOC) {
		sprintf(b, "/proc/%d/setgroups", g); put(b, "deny");
		sprintf(b, "/proc/%d/uid_map", g); put(b, "0 1000 1");
		sprintf(b, "/proc/%d/gid_map", g); put(b, "0 1000 1");
	}
	STAMP(MAPPED);
	pid_t a = enter(gfd);
	int afd = TRY(syscall(SYS_pidfd_open, a, 0));
	send_fd(sk[0], afd); close(afd); close(sk[0]);
	if (waitpid(a, &st, 0) != a || st != (prog ? 0 : 7 << 8)) { fprintf(stderr, "app status %x\n", st); exit(1); }
	STAMP(APPDEAD);
	if (prog) {
		uint64_t word[2]; /* its clock, and what else it says */
		if (read(said[0], word, sizeof word) < (ssize_t)sizeof *word) { fprintf(stderr, "the App said nothing\n"); exit(1); }
		S->t[APP] = word[0];
	}
	TRY(waitpid(g, &st, 0)); close(gfd);
	STAMP(GDEAD);
	if (S->loop >= 0 && mode < WARM) { sprintf(b, "/sys/block/loop%d/loop/backing_file", S->loop); while (!access(b, F_OK)) ; }
	STAMP(DETACHED);
	if (st) { fprintf(stderr, "guard status %x\n", st); exit(1); }
	if (it < 0) return;
	uint64_t last = S->t[START];
	for (int i = 1; i < STAMPS; i++) { sample[i][it] = ((int64_t)(S->t[i] - last)) / 1e3; last = S->t[i]; }
	sample[STAMPS][it] = (S->t[APP] - S->t[START]) / 1e3;
	sample[STAMPS + 1][it] = (S->t[DETACHED] - S->t[START]) / 1e3;
}
static int by_value(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
static double at(double *v, int n, double q) { return v[(int)(q * (n - 1))]; }
static void run(int m, int n)
{
	mode = m;
	if (mode >= WALLS) { /* the master's own devices: empty, here */
		char b[512];
		TRY(mount("devices", devices, "tmpfs", MS_NOSUID | MS_NOEXEC, 0));
		snprintf(b, sizeof b, "%s/shm", devices); mkdirs(b);
		snprintf(b, sizeof b, "%s/pts", devices); mkdirs(b);
	}
	if (mode >= WARM) { /* the master's own attached mount of the package */
		char dev[32]; int lf = loop_attach(dev);
		TRY(mount(dev, execdir, "squashfs", MS_RDONLY | MS_NOSUID | MS_NODEV, 0)); close(lf);
		pkg_mnt = TRY(open(execdir, O_PATH | O_DIRECTORY | O_CLOEXEC));
	}
	if (mode == KEPT) {
		struct stat a, b;
		if (staged) { fprintf(stderr, "no overlay can be kept before Linux 6.15\n"); exit(1); }
		TRY(stat("/", &a));
		kept[MAXOV - 1] = new_overlay("/", MAXOV - 1);
		for (int i = 0; i < nov; i++) {
			TRY(stat(ov[i], &b));
			if (b.st_dev != a.st_dev) kept[i] = new_overlay(ov[i], i);
		}
	}
	for (int i = asked ? 0 : -n / 10 - 5; i < n; i++) {
		if (asked && getchar() < 0) break;
		one(i);
		if (asked) { printf("%.1f %.1f\n", sample[STAMPS][i], sample[STAMPS + 1][i]); fflush(stdout); }
	}
	if (mode == KEPT) for (int i = 0; i < MAXOV; i++) if (kept[i]) { close(kept[i]); kept[i] = 0; }
	if (mode >= WARM) { close(pkg_mnt); umount2(execdir, MNT_DETACH); }
	if (mode >= WALLS) umount2(devices, MNT_DETACH);
	if (asked) return;
	if (raw) {
		for (int i = 0; i < n; i++) printf("%.1f %.1f\n", sample[STAMPS][i], sample[STAMPS + 1][i]);
		fflush(stdout);
		return;
	}
	for (int i = 1; i < STAMPS + 2; i++) qsort(sample[i], n, sizeof(double), by_value);
	printf("{\"mode\":\"%s\",\"iters\":%d,\"overlay_dirs\":%d,\"volatile\":%d,\"staged\":%d,\"data_fs\":\"%s\",\"launch_us\":%.1f,\"launch_p95_us\":%.1f,\"cycle_us\":%.1f,\"cycle_p95_us\":%.1f,\"steps_us\":{",
		mode_name[m], n, m == BARE ? 0 : nov, vol, m >= BEST ? staged : 0, datafs ? "tmpfs" : "given", at(sample[STAMPS], n, .5), at(sample[STAMPS], n, .95),
		at(sample[STAMPS + 1], n, .5), at(sample[STAMPS + 1], n, .95));
	for (int i = 1; i < STAMPS; i++) printf("%s\"%s\":%.1f", i > 1 ? "," : "", step_name[i], at(sample[i], n, .5));
	printf("}}\n"); fflush(stdout);
}
static int unlink_it(const char *p, const struct stat *sb, int t, struct FTW *f) { (void)sb; (void)t; (void)f; return remove(p), 0; }
int main(int argc, char **argv)
{
	int n = 300, o, which = -1; char *list = strdup("/usr,/var,/etc,/home,/root"); struct stat sb;
	while ((o = getopt(argc, argv, "n:m:o:d:p:x:f:rwvts")) > 0) switch (o) {
		case 'n': n = atoi(optarg) < MAXN ? atoi(optarg) : MAXN; break;
		case 'm': for (int i = 0; i < MODES; i++) if (!strcmp(optarg, mode_name[i])) which = i; break;
		case 'o': list = optarg; break;
		case 'd': snprintf(data, sizeof data, "%s", optarg); break;
		case 'p': if (!realpath(optarg, pkg)) { perror(optarg); return 1; } break;
		case 'x': prog = optarg; break;
		case 'f': {
			int f = TRY(open(optarg, O_RDONLY | O_CLOEXEC));
			walls.len = TRY(read(f, filter, sizeof filter)) / sizeof *filter;
			close(f);
			break;
		}
		case 'r': raw = 1; break;
		case 'w': asked = 1; break;
		case 'v': vol = 1; break;
		case 't': datafs = 1; break;
		case 's': staged = 1; break;
		default: return 2;
	}
	if (geteuid()) { fprintf(stderr, "needs root\n"); return 1; }
	S = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TRY(unshare(CLONE_NEWNS)); TRY(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0)); /* leave the host's mounts alone */
	if (prog) TRY(pipe2(said, O_CLOEXEC));
	self_pidfd = TRY(syscall(SYS_pidfd_open, getpid(), 0));
	mkdirs(data);
	if (!(base = realpath(data, 0))) { perror(data); return 1; }
	if (datafs) TRY(mount("floor", base, "tmpfs", 0, 0));
	for (char *s = strtok(list, ","); s && nov < MAXOV - 1; s = strtok(0, ",")) if (s[0] == '/' && s[1] && !lstat(s, &sb) && S_ISDIR(sb.st_mode)) ov[nov++] = s;
	for (int i = 0; i < MAXOV; i++) {
		snprintf(up[i], 256, "%s/up/%d", base, i); mkdirs(up[i]);
		snprintf(wk[i], 256, "%s/wk/%d", base, i); mkdirs(wk[i]);
	}
	drop_volatile_mark();
	snprintf(execdir, sizeof execdir, "%s/exec", base); mkdirs(execdir);
	snprintf(staging, sizeof staging, "%s/stage", base); mkdirs(staging);
	snprintf(devices, sizeof devices, "%s/dev", base); mkdirs(devices);
	int fs = TRY(syscall(SYS_fsopen, "tmpfs", 1)), m, k;
	TRY(syscall(SYS_fsconfig, fs, 6, 0, 0, 0));
	m = TRY(syscall(SYS_fsmount, fs, 1, 0));
	if ((k = syscall(SYS_open_tree, m, "", TREE_CLONE | AT_EMPTY_PATH)) < 0) staged = 1;
	close(fs); close(m); if (k >= 0) close(k);
	if (!pkg[0]) { snprintf(pkg, sizeof pkg, "%s/pkg.sqfs", base); write_image(pkg); }
	for (int i = 0; i < MODES; i++) if (which < 0 || which == i) run(i, n);
	if (datafs) umount2(base, MNT_DETACH);
	const char *own[] = { "up", "wk", "exec", "stage", "dev", "pkg.sqfs" };
	for (int i = 0; i < 6; i++) { char b[512]; snprintf(b, sizeof b, "%s/%s", base, own[i]); nftw(b, unlink_it, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT); }
	rmdir(base);
	return 0;
}
