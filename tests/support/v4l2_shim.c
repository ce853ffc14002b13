/* A V4L2 capture camera for tests, preloaded into a process (LD_PRELOAD; see v4l2.py).
 *
 * Opening the path AVFF_SHIM_DEVICE gives a timer that becomes readable at the picture
 * rate, so that the process's own select() and poll() pace it.  ioctl() and mmap() on that
 * descriptor answer as the V4L2 documentation says (docs.kernel.org, userspace-api/media/v4l):
 * one format, YUYV at 640 x 480 and 25 pictures a second; other formats are adjusted to it.
 *
 *   AVFF_SHIM_DEVICE    path of the camera
 *   AVFF_SHIM_PICTURES  raw YUYV pictures of 640 x 480, played in a loop
 *   AVFF_SHIM_MODE      "busy": streaming belongs to another process (EBUSY);
 *                       "stall": it streams, but has no more pictures; "unplug": ENODEV; else it works
 *   AVFF_SHIM_AFTER     pictures before it stalls or is unplugged
 *   AVFF_SHIM_EPOCH     CLOCK_MONOTONIC time, in ns, at which picture 0 is before the camera; the others
 *                       follow by the clock.  Without it, picture 0 is the first one taken
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 640, HEIGHT = 480, FPS = 25, BUFFERS = 8 };
static const int64_t INTERVAL = 1000000000 / FPS; /* ns */
static const size_t PICTURE = (size_t)WIDTH * HEIGHT * 2;

static int camera = -1;           /* its descriptor while it is open */
static uint8_t *buffers[BUFFERS]; /* shared with the process by mmap() */
static uint32_t count, queue[BUFFERS], queued;
static unsigned given; /* pictures so far */
static const uint8_t *pictures;
static size_t picture_count;

static const char *setting(const char *name)
{
    return getenv(name) ? getenv(name) : "";
}

static int is_camera(const char *path)
{
    return path && strcmp(path, setting("AVFF_SHIM_DEVICE")) == 0;
}

static int fail(int code)
{
    errno = code;
    return -1;
}

/* The C library's own function behind a name that is intercepted here. */
#define REAL(result, name, ...) ((result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

static int now(const char *mode)
{
    return strcmp(setting("AVFF_SHIM_MODE"), mode) == 0 &&
           given >= (unsigned)atoi(setting("AVFF_SHIM_AFTER"));
}

static void load_pictures(void)
{
    struct stat status;
    int file = open(setting("AVFF_SHIM_PICTURES"), O_RDONLY);
    if (file >= 0 && fstat(file, &status) == 0) {
        pictures = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        picture_count = pictures == MAP_FAILED ? 0 : (size_t)status.st_size / PICTURE;
        close(file);
    }
}

static int open_camera(int flags)
{
    if (!picture_count)
        load_pictures();
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | (flags & O_NONBLOCK ? TFD_NONBLOCK : 0));
    if (camera < 0) /* a second descriptor only opens and closes, as beside a running camera */
        camera = timer;
    return timer;
}

static int64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int64_t epoch(void)
{
    return atoll(setting("AVFF_SHIM_EPOCH"));
}

/* Ticks when pictures change: at the epoch and every interval before and after it. */
static int stream(int on)
{
    struct timespec interval = {0, on && !now("stall") ? INTERVAL : 0};
    struct itimerspec pace = {interval, {0, 0}};
    int64_t first = clock_ns() + INTERVAL, past = (first - epoch()) % INTERVAL;
    if (!on)
        queued = 0;
    if (epoch())
        first += past ? INTERVAL - past : 0;
    if (interval.tv_nsec)
        pace.it_value = (struct timespec){first / 1000000000, first % 1000000000};
    return timerfd_settime(camera, TFD_TIMER_ABSTIME, &pace, NULL);
}

/* Number of the picture that is before the camera, and when it was taken. */
static uint64_t taken(struct timeval *when)
{
    int64_t at = clock_ns(), shown = given;
    if (epoch()) {
        shown = at > epoch() ? (at - epoch()) / INTERVAL : 0;
        at = epoch() + shown * INTERVAL;
    }
    *when = (struct timeval){at / 1000000000, at % 1000000000 / 1000};
    return (uint64_t)shown;
}

static int dequeue(struct v4l2_buffer *buffer)
{
    uint64_t ticks;
    if (!queued)
        return fail(EAGAIN);
    if (read(camera, &ticks, sizeof ticks) != sizeof ticks) /* waits, or EAGAIN, as opened */
        return -1;
    uint32_t index = queue[0];
    memmove(queue, queue + 1, --queued * sizeof *queue);
    if (picture_count && buffers[index])
        memcpy(buffers[index], pictures + (taken(&buffer->timestamp) % picture_count) * PICTURE, PICTURE);
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    buffer->index = index;
    buffer->bytesused = buffer->length = (uint32_t)PICTURE;
    given++;
    return now("stall") ? stream(1) : 0; /* no more ticks */
}

static int describe(struct v4l2_pix_format *format)
{
    memset(format, 0, sizeof *format);
    format->width = WIDTH;
    format->height = HEIGHT;
    format->pixelformat = V4L2_PIX_FMT_YUYV;
    format->field = V4L2_FIELD_NONE;
    format->bytesperline = WIDTH * 2;
    format->sizeimage = (uint32_t)PICTURE;
    format->colorspace = V4L2_COLORSPACE_SRGB;
    return 0;
}

static int control(unsigned long request, void *argument)
{
    if (now("unplug"))
        return fail(ENODEV);
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *able = argument;
        memset(able, 0, sizeof *able);
        strcpy((char *)able->card, "Test camera");
        able->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_S_FMT:
        if (now("busy"))
            return fail(EBUSY);
        /* fall through */
    case VIDIOC_G_FMT: {
        struct v4l2_format *format = argument;
        return format->type == V4L2_BUF_TYPE_VIDEO_CAPTURE ? describe(&format->fmt.pix) : fail(EINVAL);
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *format = argument;
        if (format->index)
            return fail(EINVAL);
        format->pixelformat = V4L2_PIX_FMT_YUYV;
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
        struct v4l2_frmsizeenum *size = argument;
        if (size->index || size->pixel_format != V4L2_PIX_FMT_YUYV)
            return fail(EINVAL);
        size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        size->discrete = (struct v4l2_frmsize_discrete){WIDTH, HEIGHT};
        return 0;
    }
    case VIDIOC_ENUM_FRAMEINTERVALS: {
        struct v4l2_frmivalenum *rate = argument;
        if (rate->index)
            return fail(EINVAL);
        rate->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        rate->discrete = (struct v4l2_fract){1, FPS};
        return 0;
    }
    case VIDIOC_S_PARM:
    case VIDIOC_G_PARM: {
        struct v4l2_captureparm *rate = &((struct v4l2_streamparm *)argument)->parm.capture;
        rate->capability = V4L2_CAP_TIMEPERFRAME;
        rate->timeperframe = (struct v4l2_fract){1, FPS};
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = argument;
        count = wanted->count = wanted->count < BUFFERS ? wanted->count : BUFFERS;
        memset(buffers, queued = 0, sizeof buffers);
        return 0;
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = argument;
        if (buffer->index >= count)
            return fail(EINVAL);
        buffer->length = (uint32_t)PICTURE;
        buffer->m.offset = buffer->index * (uint32_t)PICTURE;
        return 0;
    }
    case VIDIOC_QBUF: {
        struct v4l2_buffer *buffer = argument;
        if (buffer->index >= count || queued == BUFFERS)
            return fail(EINVAL);
        queue[queued++] = buffer->index;
        return 0;
    }
    case VIDIOC_DQBUF:
        return dequeue(argument);
    case VIDIOC_STREAMON:
        return stream(1);
    case VIDIOC_STREAMOFF:
        return stream(0);
    default:
        return fail(EINVAL); /* no such control, input or standard */
    }
}

/* What the process calls. */

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (fd >= 0 && fd == camera)
        return control(request, argument);
    return REAL(int, "ioctl", int, unsigned long, ...)(fd, request, argument);
}

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    void *(*real)(void *, size_t, int, int, int, off_t) =
        REAL(void *, "mmap", void *, size_t, int, int, int, off_t);
    if (fd < 0 || fd != camera)
        return real(at, length, protection, flags, fd, offset);
    size_t index = (size_t)offset / PICTURE;
    if (index >= count)
        return fail(EINVAL), MAP_FAILED;
    /* Readers map their buffers read-only; here the camera writes through the same mapping. */
    void *memory = real(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    buffers[index] = memory == MAP_FAILED ? NULL : memory;
    return memory;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return map(at, length, protection, flags, fd, offset);
}

int close(int fd)
{
    if (fd >= 0 && fd == camera)
        camera = -1;
    return REAL(int, "close", int)(fd);
}

#define OPEN(name)                                                                          \
    int name(const char *path, int flags, ...)                                              \
    {                                                                                       \
        va_list rest;                                                                       \
        va_start(rest, flags);                                                              \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? (mode_t)va_arg(rest, int) : 0;      \
        va_end(rest);                                                                       \
        if (is_camera(path))                                                                \
            return open_camera(flags);                                                      \
        return REAL(int, #name, const char *, int, ...)(path, flags, mode);                 \
    }

#define STAT(name)                                                                          \
    int name(const char *path, struct name *status)                                         \
    {                                                                                       \
        path = is_camera(path) ? "/dev/null" : path;                                        \
        return REAL(int, #name, const char *, struct name *)(path, status);                 \
    }

OPEN(open)
OPEN(open64)
STAT(stat)
STAT(stat64)
