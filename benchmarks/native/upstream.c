/*
 * A provider that uses little CPU time: it responds to chat requests like an OpenAI-compatible API.
 *
 *   upstream            listens on a free port of 127.0.0.1 and prints it
 *
 * GET anything              the model list, with two models
 * POST, not streamed        one completion, at once
 * POST …/embeddings          a hundred vectors of 4,096 numbers, in base64 if the body asks for it and its model is not
 *                           called "numbers-only"
 * POST with "stream":true   Server-Sent Events, with the number and pace given in the prompt, then the event with the
 *                           finish reason, the one with usage, and [DONE]
 *
 * The pace is in the prompt ("events=000200 interval_us=020000"), because every gateway passes a prompt on unchanged.
 * Each event's text is " #<number>@<time>@": the time at which it was due, in microseconds of the monotonic clock. It is
 * not the time of sending, so that a delay of this process counts and cannot make a gateway look faster.
 *
 * It has one thread, which waits with epoll and checks all streams every millisecond.
 */
#include "common.h"

enum { VECTORS = 100, DIMENSIONS = 4096 };
enum { LARGEST_REQUEST = 8 << 20, BATCH = 512, TICK_MS = 1, LARGEST_EVENT = 512 };

/* As in a real response: with these ids and names, an event is as long as one of Fireworks', some 250 bytes. */
#define ID "\"id\":\"chatcmpl-6b2f0e1c9a\",\"created\":1763800000,\"model\":\"" MODEL "\""
#define MODEL "accounts/fireworks/models/deepseek-v3p1"
#define SECOND_MODEL "accounts/fireworks/models/kimi-k2-instruct"
#define LISTED(id) \
    "{\"id\":\"" id "\",\"object\":\"model\",\"owned_by\":\"fireworks\",\"created\":1755700000,\"kind\":\"HF_BASE_MODEL\"," \
    "\"supports_chat\":true,\"supports_image_input\":false,\"supports_tools\":true,\"context_length\":163840}"
#define CHUNK "data: {" ID ",\"object\":\"chat.completion.chunk\",\"choices\":["

typedef struct connection {
    int fd;
    char *request; /* The part of the current request that has arrived. */
    size_t length, capacity;
    size_t wanted; /* Length of the whole request, 0 while its head is incomplete. */
    /* The stream that is being sent. */
    int place; /* Index in `streams`, -1 while there is none. */
    int events, sent;
    int64_t interval_us, due_us;
    char unsent[2 * LARGEST_EVENT]; /* The end of an event that the socket did not accept. */
    size_t unsent_length;
    const char *large; /* The rest of a large response. */
    size_t large_length;
} connection;

static connection **streams;
static int stream_count, stream_capacity;
static int epoll;
static char completion[2048], model_list[2048];
static size_t completion_length, model_list_length;
static char *numbers, *packed; /* The two forms of the vectors. */
static size_t numbers_length, packed_length;

static void end_stream(connection *c) {
    if (c->place < 0) return;
    connection *last = streams[--stream_count];
    streams[c->place] = last;
    last->place = c->place;
    c->place = -1;
}

static void drop(connection *c) {
    end_stream(c);
    close(c->fd);
    free(c->request);
    free(c);
}

/* Sends a short response; a peer whose socket does not accept a kilobyte at once counts as disconnected. */
static int send_whole(connection *c, const char *data, size_t length) {
    return send(c->fd, data, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

/* Sends as much of a large response as the socket accepts; the main loop calls it again when there is room, so that the
 * events of streams are not late meanwhile. */
static int send_large(connection *c) {
    while (c->large_length) {
        ssize_t taken = send(c->fd, c->large, c->large_length, MSG_NOSIGNAL);
        if (taken < 0 && errno == EAGAIN) break;
        if (taken < 0) return -1;
        c->large += taken;
        c->large_length -= (size_t)taken;
    }
    watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN | (c->large_length ? EPOLLOUT : 0), c);
    return 0;
}

/* Returns the number after `name` in a prompt. */
static int64_t prompt_number(const char *body, const char *name, int64_t otherwise) {
    const char *found = strstr(body, name);
    return found ? atoll(found + strlen(name)) : otherwise;
}

static int begin_stream(connection *c, const char *body) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-request-id: bench\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    if (stream_count == stream_capacity) {
        stream_capacity = stream_capacity ? 2 * stream_capacity : 1024;
        streams = realloc(streams, (size_t)stream_capacity * sizeof *streams);
        if (!streams) die("Out of memory.");
    }
    c->place = stream_count;
    streams[stream_count++] = c;
    c->events = (int)prompt_number(body, "events=", 50);
    c->interval_us = prompt_number(body, "interval_us=", 20000);
    c->sent = 0;
    c->unsent_length = 0;
    c->due_us = now_us(); /* The first event is due at once, so the gateway causes all of the time until it arrives. */
    return send_whole(c, head, sizeof head - 1);
}

/* Writes the stream's next piece as a chunk of the transfer coding; returns its length. */
static size_t next_piece(connection *c, char *out) {
    char event[LARGEST_EVENT];
    int length, left = c->events - c->sent;
    if (left > 0)
        length = snprintf(event, sizeof event,
                          CHUNK "{\"index\":0,\"delta\":{\"content\":\" #%d@%lld@\"},\"finish_reason\":null}]}\n\n",
                          c->sent, (long long)c->due_us);
    else if (left == 0)
        length = snprintf(event, sizeof event, CHUNK "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    else
        length = snprintf(event, sizeof event,
                          CHUNK "],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n"
                                "data: [DONE]\n\n",
                          c->events, c->events + 12);
    int size = sprintf(out, "%x\r\n", (unsigned)length);
    memcpy(out + size, event, (size_t)length);
    size += length;
    size += sprintf(out + size, left < 0 ? "\r\n0\r\n\r\n" : "\r\n");
    return (size_t)size;
}

/* Sends the events that are due; returns -1 if the peer disconnected. A full socket is tried again a tick later. */
static int advance(connection *c, int64_t now) {
    while (c->place >= 0 && (c->unsent_length || c->due_us <= now)) {
        if (!c->unsent_length) c->unsent_length = next_piece(c, c->unsent);
        ssize_t taken = send(c->fd, c->unsent, c->unsent_length, MSG_NOSIGNAL);
        if (taken < 0) return errno == EAGAIN ? 0 : -1;
        c->unsent_length -= (size_t)taken;
        memmove(c->unsent, c->unsent + taken, c->unsent_length);
        if (c->unsent_length) return 0;
        c->sent++;
        if (c->sent < c->events) c->due_us += c->interval_us; /* The last two pieces follow the last event at once. */
        if (c->sent == c->events + 2) end_stream(c);
    }
    return 0;
}

static int respond(connection *c) {
    const char *body = strstr(c->request, "\r\n\r\n") + 4;
    if (!strncmp(c->request, "GET", 3)) return send_whole(c, model_list, model_list_length);
    if (strstr(c->request, "/embeddings HTTP/")) {
        int asks = strstr(body, "\"base64\"") && !strstr(body, "numbers-only");
        c->large = asks ? packed : numbers;
        c->large_length = asks ? packed_length : numbers_length;
        return send_large(c);
    }
    if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true")) return begin_stream(c, body);
    return send_whole(c, completion, completion_length);
}

/* Returns the length of the request, including its body; 0 while the head is incomplete. */
static size_t request_length(connection *c) {
    char *end = strstr(c->request, "\r\n\r\n");
    if (!end) return 0;
    char *field = strcasestr(c->request, "\r\ncontent-length:");
    size_t body = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    return (size_t)(end + 4 - c->request) + body;
}

static int receive(connection *c) {
    if (c->length + 65536 > c->capacity) {
        c->capacity = c->length + 131072;
        if (c->capacity > LARGEST_REQUEST || !(c->request = realloc(c->request, c->capacity))) return -1;
    }
    ssize_t got = recv(c->fd, c->request + c->length, c->capacity - c->length - 1, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    c->length += (size_t)got;
    c->request[c->length] = 0;
    if (!c->wanted) c->wanted = request_length(c);
    if (!c->wanted || c->length < c->wanted) return 0;
    c->length = c->wanted = 0; /* These clients send one request and wait for its response. */
    return respond(c);
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        connection *c = calloc(1, sizeof *c);
        if (!c) die("Out of memory.");
        c->fd = fd;
        c->place = -1;
        send_at_once(fd);
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, c);
    }
}

static int start_listening(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 8192) < 0) die("listen: %s", strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static size_t make_answer(char *out, size_t size, const char *body) {
    int length = snprintf(out, size,
                          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                          "x-request-id: bench\r\n\r\n%s",
                          strlen(body), body);
    return (size_t)length;
}

/* Writes four bytes of each number, the lowest first, in base64; returns the end. */
static char *write_base64(char *out, const float *vector) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = (const unsigned char *)vector;
    size_t length = DIMENSIONS * sizeof *vector;
    for (size_t i = 0; i < length; i += 3) {
        unsigned triple = 0;
        for (size_t j = i; j < i + 3; j++) triple = triple << 8 | (j < length ? in[j] : 0);
        for (int shift = 18; shift >= 0; shift -= 6) *out++ = digits[triple >> shift & 63];
    }
    for (size_t i = length % 3 ? 3 - length % 3 : 0; i; i--) out[-(ssize_t)i] = '=';
    return out;
}

/* Makes a response with vectors; the same seed gives the same numbers in both forms. */
static char *make_vectors(int in_base64, size_t *length) {
    char *body = malloc((size_t)VECTORS * DIMENSIONS * 16), *out = body, *answer = malloc((size_t)VECTORS * DIMENSIONS * 16);
    if (!body || !answer) die("Out of memory.");
    srand(1);
    out += sprintf(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < VECTORS; i++) {
        float vector[DIMENSIONS];
        for (int j = 0; j < DIMENSIONS; j++) vector[j] = (float)(rand() % 20000001 - 10000000) / 1e8f;
        out += sprintf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":%s", i ? "," : "", i, in_base64 ? "\"" : "[");
        if (in_base64)
            out = write_base64(out, vector);
        else
            for (int j = 0; j < DIMENSIONS; j++) out += sprintf(out, j ? ",%.8g" : "%.8g", (double)vector[j]);
        out += sprintf(out, in_base64 ? "\"}" : "]}");
    }
    out += sprintf(out, "],\"model\":\"bench\",\"usage\":{\"prompt_tokens\":900,\"total_tokens\":900}}");
    *length = make_answer(answer, (size_t)VECTORS * DIMENSIONS * 16, body);
    free(body);
    return answer;
}

int main(void) {
    numbers = make_vectors(0, &numbers_length);
    packed = make_vectors(1, &packed_length);
    completion_length = make_answer(
        completion, sizeof completion,
        "{" ID ",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        "\"A gateway stands between programs and the models that they ask. It checks who is calling, passes the question "
        "on, and writes down what the answer cost.\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,"
        "\"completion_tokens\":38,\"total_tokens\":50}}");
    model_list_length = make_answer(
        model_list, sizeof model_list,
        "{\"object\":\"list\",\"data\":[" LISTED(MODEL) "," LISTED(SECOND_MODEL) "]}");
    epoll = epoll_create1(0);
    int listener = start_listening();
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event ready[BATCH];
        int count = epoll_wait(epoll, ready, BATCH, stream_count ? TICK_MS : -1);
        for (int i = 0; i < count; i++) {
            connection *c = ready[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (c->large_length ? send_large(c) < 0 : receive(c) < 0)
                drop(c);
        }
        int64_t now = now_us();
        for (int i = stream_count - 1; i >= 0; i--) /* Backwards: a stream that ends is replaced with the last. */
            if (advance(streams[i], now) < 0) drop(streams[i]);
    }
}
