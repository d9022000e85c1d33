/* Put under a program with LD_PRELOAD: a clock that runs PRELOAD_SPEED times as fast, in the file PRELOAD_LOG a line for each
 * file that is forced to the disk or removed, and with PRELOAD_NO_THREADS no thread but the first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void note(const char *call, const char *what) {
  const char *log = getenv("PRELOAD_LOG");
  int file = log ? open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
  char line[512];
  int length = snprintf(line, sizeof line, "%s %s\n", call, what);
  if (file < 0) return;
  if (write(file, line, length) != length) abort();
  close(file);
}

static void synced(int file) {
  struct stat seen;
  char inode[32];
  if (fstat(file, &seen)) return;
  snprintf(inode, sizeof inode, "%llu", (unsigned long long)seen.st_ino);
  note("sync", inode);
}

int fsync(int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  synced(file);
  return real(file);
}

int fdatasync(int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  synced(file);
  return real(file);
}

int unlink(const char *path) {
  int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
  const char *name = strrchr(path, '/');
  note("unlink", name ? name + 1 : path);
  return real(path);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  const char *speed = getenv("PRELOAD_SPEED");
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (failed || !speed || clock != CLOCK_MONOTONIC) return failed;
  long long fast = (now->tv_sec * 1000000000LL + now->tv_nsec) * atoi(speed);
  now->tv_sec = fast / 1000000000LL;
  now->tv_nsec = fast % 1000000000LL;
  return 0;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with) {
  typedef int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (getenv("PRELOAD_NO_THREADS")) return EAGAIN;
  return ((create)dlsym(RTLD_NEXT, "pthread_create"))(thread, how, run, with);
}
