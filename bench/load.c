/* A closed-loop load generator: each connection sends, reads the whole answer, sends again.
 *
 *   load CONNECTIONS WARMUP_S SECONDS STAGGER_MS REQUESTS_FILE REQUEST_BYTES PORT...
 *
 * The file holds requests of REQUEST_BYTES each, sent in turn. Connections begin evenly over
 * STAGGER_MS and are dealt to the ports in turn. Counted is what begins after the warm-up and ends
 * in time. Prints one JSON object; times in microseconds: `gap_us` is the time between reads that
 * brought the end of an event, within an answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEAD_BYTES 16384
#define MAX_CONNECTIONS 8000

enum { HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };

typedef struct {
    int fd, port, status, closes;
    char head[HEAD_BYTES];
    size_t head_bytes;
    int state;
    uint64_t left, size_so_far, line_bytes;
    char last; /* byte of the body, to find events across reads */
    uint64_t begin_at, sent_at, first_at, event_at;
    const char *out;
    size_t out_left;
} Conn;

typedef struct {
    uint32_t *values;
    size_t count, room;
} Samples;

static Conn *conns;
static Samples latencies, firsts, gaps;
static uint64_t counted_from, counted_to;
static uint64_t requests, errors, reconnects, events, body_bytes;
static char *stock;
static size_t stock_count, stock_next, request_bytes;
static int epoll_fd;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void sample(Samples *s, uint64_t value) {
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 1 << 16;
        s->values = realloc(s->values, s->room * sizeof *s->values);
    }
    s->values[s->count++] = value;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *s) {
    if (!s->count) {
        printf(",\"%s\":null", name);
        return;
    }
    qsort(s->values, s->count, sizeof *s->values, by_value);
    printf(",\"%s\":{\"p50\":%u,\"p90\":%u,\"p99\":%u,\"max\":%u}", name, s->values[s->count / 2],
           s->values[s->count * 9 / 10], s->values[s->count * 99 / 100], s->values[s->count - 1]);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void open_connection(Conn *c) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(c->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&address, sizeof address)) fail("load: connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void flush(Conn *c) {
    while (c->out_left) {
        ssize_t n = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) return; /* the read says what happened */
        if (n < 0) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
            return;
        }
        c->out += n;
        c->out_left -= n;
    }
}

static void begin(Conn *c) {
    c->state = HEAD;
    c->head_bytes = 0;
    c->first_at = c->event_at = 0;
    c->last = 0;
    c->out = stock + (stock_next++ % stock_count) * request_bytes;
    c->out_left = request_bytes;
    c->sent_at = now_us();
    flush(c);
}

static void again(Conn *c) {
    close(c->fd);
    reconnects++;
    open_connection(c);
    begin(c);
}

static void broken(Conn *c) {
    errors++;
    if (errors > 1000) {
        fprintf(stderr, "load: more than 1000 errors\n");
        exit(1);
    }
    again(c);
}

static void done(Conn *c, uint64_t now) {
    if (c->status != 200) errors++;
    else if (c->sent_at >= counted_from && now < counted_to) {
        requests++;
        sample(&latencies, now - c->sent_at);
    }
    if (c->closes) again(c);
    else begin(c);
}

static int parse_head(Conn *c) {
    char *end = memmem(c->head, c->head_bytes, "\r\n\r\n", 4);
    int chunked = 0;
    c->status = atoi(c->head + 9);
    c->closes = 0;
    c->left = 0;
    for (char *line = c->head; line < end; line = (char *)memchr(line, '\n', end + 2 - line) + 1) {
        if (!strncasecmp(line, "content-length:", 15)) c->left = strtoull(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
        if (!strncasecmp(line, "connection: close", 17)) c->closes = 1;
    }
    c->size_so_far = 0;
    c->line_bytes = 0;
    return chunked ? CHUNK_SIZE : LENGTH;
}

/* Counts the ends of events, which are two newlines in a row. */
static void body(Conn *c, const char *data, size_t size, uint64_t now) {
    if (!c->first_at) {
        c->first_at = now;
        if (c->status == 200 && c->sent_at >= counted_from && now < counted_to)
            sample(&firsts, now - c->sent_at);
    }
    uint64_t found = 0;
    const char *end = data + size;
    if (c->last == '\n' && *data == '\n') found++;
    for (const char *at = data; (at = memchr(at, '\n', end - at)) && at + 1 < end; at++)
        if (at[1] == '\n') {
            found++;
            at++;
            if (at + 1 >= end) break;
        }
    c->last = data[size - 1];
    if (found && c->last == '\n' && (size == 1 || data[size - 2] == '\n')) c->last = 0;
    if (now >= counted_from && now < counted_to) {
        events += found;
        body_bytes += size;
        if (found && c->event_at) sample(&gaps, now - c->event_at);
    }
    if (found) c->event_at = now;
}

/* Reads on; returns 0 when the connection was replaced. */
static int feed(Conn *c, const char *data, size_t size, uint64_t now) {
    const char *end = data + size;
    while (data < end || (c->state == LENGTH && !c->left)) {
        size_t there = end - data;
        switch (c->state) {
        case HEAD: {
            size_t before = c->head_bytes, take = HEAD_BYTES - before < there
                                                      ? HEAD_BYTES - before : there;
            memcpy(c->head + before, data, take);
            c->head_bytes += take;
            char *stop = memmem(c->head, c->head_bytes, "\r\n\r\n", 4);
            if (!stop) {
                if (c->head_bytes == HEAD_BYTES) return broken(c), 0;
                return 1;
            }
            data += stop + 4 - c->head - before;
            c->state = parse_head(c);
            break;
        }
        case LENGTH: {
            size_t take = c->left < there ? c->left : there;
            if (take) body(c, data, take, now);
            data += take;
            c->left -= take;
            if (!c->left) {
                int closes = c->closes;
                done(c, now);
                if (closes) return 0;
                if (data == end) return 1;
            }
            break;
        }
        case CHUNK_SIZE: {
            char byte = *data++;
            if (byte == '\n') {
                c->left = c->size_so_far;
                c->size_so_far = 0;
                c->line_bytes = 0;
                c->state = c->left ? CHUNK : TRAILER;
            } else if (byte >= '0' && byte <= '9') c->size_so_far = c->size_so_far * 16 + byte - '0';
            else if ((byte | 32) >= 'a' && (byte | 32) <= 'f')
                c->size_so_far = c->size_so_far * 16 + (byte | 32) - 'a' + 10;
            else if (byte != '\r') return broken(c), 0;
            break;
        }
        case CHUNK: {
            size_t take = c->left < there ? c->left : there;
            body(c, data, take, now);
            data += take;
            c->left -= take;
            if (!c->left) c->state = CHUNK_END;
            break;
        }
        case CHUNK_END:
            if (*data++ == '\n') c->state = CHUNK_SIZE;
            break;
        case TRAILER:
            if (*data == '\n' && c->line_bytes == 0) {
                int closes = c->closes;
                data++;
                done(c, now);
                if (closes) return 0;
            } else {
                if (*data == '\n') c->line_bytes = 0;
                else if (*data != '\r') c->line_bytes++;
                data++;
            }
            break;
        }
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 8) {
        fprintf(stderr, "load CONNECTIONS WARMUP_S SECONDS STAGGER_MS REQUESTS BYTES PORT...\n");
        return 2;
    }
    int count = atoi(argv[1]), ports = argc - 7, begun = 0;
    if (count < 1 || count > MAX_CONNECTIONS) return fprintf(stderr, "load: connections\n"), 2;
    uint64_t warmup = atof(argv[2]) * 1e6, length = atof(argv[3]) * 1e6;
    uint64_t stagger = strtoull(argv[4], NULL, 10) * 1000;
    request_bytes = strtoul(argv[6], NULL, 10);
    FILE *file = fopen(argv[5], "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info)) fail(argv[5]);
    stock = malloc(info.st_size);
    stock_count = info.st_size / request_bytes;
    if (!stock_count || fread(stock, 1, info.st_size, file) != (size_t)info.st_size) fail("read");
    epoll_fd = epoll_create1(0);
    conns = calloc(count, sizeof(Conn));
    uint64_t start = now_us();
    counted_from = start + warmup;
    counted_to = counted_from + length;
    for (int i = 0; i < count; i++) {
        conns[i].port = atoi(argv[7 + i % ports]);
        conns[i].begin_at = start + stagger * i / count;
    }
    static char data[1 << 18];
    struct epoll_event ready[512];
    for (uint64_t now = start; now < counted_to; now = now_us()) {
        for (; begun < count && conns[begun].begin_at <= now; begun++) {
            open_connection(&conns[begun]);
            begin(&conns[begun]);
        }
        int n = epoll_wait(epoll_fd, ready, 512, begun < count ? 1 : 100);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT) {
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
                flush(c);
            }
            if (!(ready[i].events & ~EPOLLOUT)) continue;
            ssize_t got = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
            if (got > 0) feed(c, data, got, now_us());
            else if (got == 0 || errno != EAGAIN) broken(c);
        }
    }
    double seconds = length / 1e6;
    printf("{\"requests\":%lu,\"errors\":%lu,\"reconnects\":%lu,\"events\":%lu,\"body_bytes\":%lu,"
           "\"seconds\":%.3f,\"requests_per_second\":%.1f,\"events_per_second\":%.1f",
           requests, errors, reconnects, events, body_bytes, seconds, requests / seconds,
           events / seconds);
    print_samples("latency_us", &latencies);
    print_samples("ttft_us", &firsts);
    print_samples("gap_us", &gaps);
    printf("}\n");
    return 0;
}
