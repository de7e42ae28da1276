/* A mock worker that must never be the bottleneck: one thread, epoll, answers made in advance.
 *
 *   worker PORT EVENTS INTERVAL_US JSON_BYTES PROMPT_TOKENS
 *
 * POST with "stream":true: EVENTS chat chunks of server-sent events, one chunk each, INTERVAL_US
 * apart (0: as fast as the socket takes them). Any other POST: a chat answer of JSON_BYTES. GET:
 * what routers ask a worker at their start. Each answer says that its prompt had PROMPT_TOKENS, a third
 * of them cached.
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
#include <time.h>
#include <unistd.h>

#define MAX_FDS 20000
#define IN_BYTES (1 << 20)
#define BLOCK_EVENTS 64
#define JSON_HEAD "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n"

typedef struct {
    char *bytes;
    size_t length;
} Text;

typedef struct {
    char *in;        /* what was received and not yet answered */
    size_t in_bytes;
    int active;      /* an answer is being sent */
    Text head, tail; /* what comes before and after the events */
    uint64_t events; /* of this answer */
    uint64_t sent;   /* bytes of this answer */
    uint64_t started_us;
    int wants_out;
} Conn;

static Conn conns[MAX_FDS];
static int epoll_fd, paced_count, highest_fd;
static uint64_t stream_events, interval_us;
static Text json_answer, info_answer, stream_head, stream_tail, block;
static size_t event_bytes;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static Text json(const char *body) {
    Text text = {malloc(strlen(body) + 256), 0};
    text.length = sprintf(text.bytes, JSON_HEAD "%s", strlen(body), body);
    return text;
}

static Text chunk(const char *body) {
    Text text = {malloc(strlen(body) + 32), 0};
    text.length = sprintf(text.bytes, "%zx\r\n%s\r\n", strlen(body), body);
    return text;
}

static void make_answers(size_t json_bytes, unsigned long prompt_tokens) {
    char usage[256], last_events[1024];
    sprintf(usage,
            "{\"prompt_tokens\":%lu,\"completion_tokens\":100,\"total_tokens\":%lu,"
            "\"prompt_tokens_details\":{\"cached_tokens\":%lu}}",
            prompt_tokens, prompt_tokens + 100, prompt_tokens / 3);
    static const char *chat =
        "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1700000000,"
        "\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"%s\"},\"finish_reason\":\"stop\"}],\"usage\":%s}";
    static const char *delta =
        "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\","
        "\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,"
        "\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
    static const char *end =
        "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\","
        "\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{},"
        "\"finish_reason\":\"stop\"}],\"usage\":%s}\n\n"
        "data: [DONE]\n\n";
    size_t bare = strlen(chat) + strlen(usage) - 4; /* without what stands for both strings */
    size_t filler = json_bytes > bare ? json_bytes - bare : 1;
    char *words = malloc(filler + 1), *body = malloc(filler + bare + 1);
    memset(words, 'w', filler);
    words[filler] = 0;
    sprintf(body, chat, words, usage);
    json_answer = json(body);
    info_answer = json(
        "{\"model_path\":\"mock\",\"served_model_name\":\"mock\",\"is_generation\":true,"
        "\"status\":\"ready\",\"version\":\"mock\",\"object\":\"list\","
        "\"data\":[{\"id\":\"mock\",\"object\":\"model\"}]}");
    stream_head.bytes =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        "transfer-encoding: chunked\r\n\r\n";
    stream_head.length = strlen(stream_head.bytes);
    sprintf(last_events, end, usage);
    Text event = chunk(delta), last = chunk(last_events);
    event_bytes = event.length;
    block.length = event.length * BLOCK_EVENTS;
    block.bytes = malloc(block.length);
    for (int i = 0; i < BLOCK_EVENTS; i++)
        memcpy(block.bytes + i * event.length, event.bytes, event.length);
    stream_tail.bytes = malloc(last.length + 8);
    memcpy(stream_tail.bytes, last.bytes, last.length);
    memcpy(stream_tail.bytes + last.length, "0\r\n\r\n", 5);
    stream_tail.length = last.length + 5;
}

static void watch(int fd, int out) {
    if (conns[fd].wants_out == out) return;
    conns[fd].wants_out = out;
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e);
}

static void finish(Conn *c) {
    if (c->active && c->events && interval_us) paced_count--;
    c->active = 0;
}

static void drop(int fd) {
    finish(&conns[fd]);
    free(conns[fd].in);
    memset(&conns[fd], 0, sizeof(Conn));
    close(fd);
}

static void answer_next(int fd);

/* Sends what may be sent by now. */
static void pump(int fd) {
    Conn *c = &conns[fd];
    uint64_t events_end = c->head.length + c->events * event_bytes;
    uint64_t total = events_end + c->tail.length, allowed = total;
    if (c->events && interval_us) {
        uint64_t due = 1 + (now_us() - c->started_us) / interval_us;
        if (due < c->events) allowed = c->head.length + due * event_bytes;
    }
    while (c->sent < allowed) {
        char *from;
        size_t size;
        if (c->sent < c->head.length) {
            from = c->head.bytes + c->sent;
            size = c->head.length - c->sent;
        } else if (c->sent < events_end) {
            size_t at = (c->sent - c->head.length) % event_bytes;
            uint64_t end = allowed < events_end ? allowed : events_end;
            from = block.bytes + at;
            size = block.length - at;
            if (size > end - c->sent) size = end - c->sent;
        } else {
            from = c->tail.bytes + (c->sent - events_end);
            size = total - c->sent;
        }
        ssize_t n = send(fd, from, size, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(fd, 1);
            else drop(fd);
            return;
        }
        c->sent += n;
        /* a saturated stream gives way to the others after each block */
        if (c->events && !interval_us && c->sent < total && n > 4096) {
            watch(fd, 1);
            return;
        }
    }
    watch(fd, 0);
    if (c->sent == total) {
        finish(c);
        answer_next(fd);
    }
}

static int wants_stream(const char *body, size_t size) {
    const char *at = memmem(body, size, "\"stream\"", 8);
    if (!at) return 0;
    for (at += 8; at < body + size && (*at == ':' || *at == ' '); at++) {}
    return at < body + size && *at == 't';
}

/* Begins the answer to the first whole request in the buffer, if there is one. */
static void answer_next(int fd) {
    Conn *c = &conns[fd];
    if (c->active || !c->in_bytes) return;
    char *end = memmem(c->in, c->in_bytes, "\r\n\r\n", 4);
    if (!end) return;
    size_t head = end + 4 - c->in, body = 0;
    for (char *line = c->in; line < end; line = (char *)memchr(line, '\n', end + 2 - line) + 1) {
        if (!strncasecmp(line, "content-length:", 15)) body = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) {
            fprintf(stderr, "worker: chunked requests are not understood\n");
            drop(fd);
            return;
        }
    }
    if (c->in_bytes < head + body) return;
    int post = c->in[0] == 'P', stream = post && wants_stream(c->in + head, body);
    c->in_bytes -= head + body;
    memmove(c->in, c->in + head + body, c->in_bytes);
    c->active = 1;
    c->sent = 0;
    c->started_us = now_us();
    c->events = stream ? stream_events : 0;
    c->head = stream ? stream_head : post ? json_answer : info_answer;
    c->tail = stream ? stream_tail : (Text){NULL, 0};
    if (stream && interval_us) paced_count++;
    pump(fd);
}

static void receive(int fd) {
    Conn *c = &conns[fd];
    ssize_t n = recv(fd, c->in + c->in_bytes, IN_BYTES - c->in_bytes, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    c->in_bytes += n;
    answer_next(fd);
}

int main(int argc, char **argv) {
    if (argc != 6)
        return fprintf(stderr, "worker PORT EVENTS INTERVAL_US JSON_BYTES PROMPT_TOKENS\n"), 2;
    stream_events = strtoull(argv[2], NULL, 10);
    interval_us = strtoull(argv[3], NULL, 10);
    make_answers(strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096))
        return perror("worker"), 1;
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll_fd, ready, 256, paced_count ? 1 : -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= MAX_FDS) { close(fd); continue; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[fd].in = malloc(IN_BYTES);
                    if (fd > highest_fd) highest_fd = fd;
                    struct epoll_event added = {.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &added);
                }
                continue;
            }
            if (conns[fd].in && (ready[i].events & EPOLLOUT)) pump(fd);
            if (conns[fd].in && (ready[i].events & ~EPOLLOUT)) receive(fd);
        }
        if (paced_count)
            for (int fd = 0; fd <= highest_fd; fd++)
                if (conns[fd].active && conns[fd].events && !conns[fd].wants_out) pump(fd);
    }
}
