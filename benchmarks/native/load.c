/*
 * The load generator: each connection sends a request, reads the response, and sends the next request.
 *
 *   load --port N --path /v1/chat/completions --header "Authorization: Bearer ..." --body FILE
 *        --connections N --warmup SECONDS --seconds SECONDS [--ramp SECONDS] [--events N]
 *
 * With --events, the responses are streams of that many events from native/upstream.c. The first stream of each
 * connection is shorter, each by a different amount, so that streams begin and end evenly over time, like those of
 * independent callers. Without --body, it sends GET requests.
 *
 * Connections open evenly over --ramp; only the --seconds after --warmup are measured. The result is one line of JSON;
 * times are in milliseconds.
 */
#include "common.h"

enum { BATCH = 512, LARGEST_HEAD = 16384, LONGEST_LINE = 8192, MOST_ERRORS = 10000 };

typedef struct samples {
    int32_t *values; /* Microseconds. */
    size_t count, capacity;
} samples;

/* The part of a response that a connection reads next. */
typedef enum { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, DONE } state;

typedef struct connection {
    int fd; /* -1 before it is opened. */
    int number, generation;
    size_t written; /* Bytes of the request. */
    int64_t started_us;
    state state;
    char head[LARGEST_HEAD];
    size_t head_length;
    size_t left; /* Bytes of the body, or of the chunk, still to come. */
    int closes;  /* The response has "Connection: close". */
    /* For streams only. */
    char *line;
    size_t line_length;
    int events, expected, said_done;
} connection;

static int port, connections = 1, events_per_stream;
static double warmup_s = 1, seconds = 5, ramp_s;
static const char *path = "/", *body_file;
static char headers[4096];

static char *request;
static size_t request_size;
static char *events_digits; /* The number after "events=" in the request. */

static int epoll;
static int64_t window_start_us, window_end_us;
static samples latencies, first_events, lags;
static int64_t answers, errors, events, missing, started, payload_bytes;
static char first_error[256];

static int counts(int64_t now) { return now >= window_start_us && now < window_end_us; }

static void add(samples *s, int64_t value) {
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 65536;
        if (!(s->values = realloc(s->values, s->capacity * sizeof *s->values))) die("Out of memory.");
    }
    s->values[s->count++] = (int32_t)value;
}

static void note_error(const char *what) {
    if (!first_error[0]) snprintf(first_error, sizeof first_error, "%s", what);
    if (++errors > MOST_ERRORS) die("More than %d requests failed; the first: %s", MOST_ERRORS, first_error);
}

/* Evaluates one line of an event stream. */
static void take_line(connection *c, int64_t now) {
    char *line = c->line;
    line[c->line_length] = 0;
    if (!strncmp(line, "data: [DONE]", 12) || !strncmp(line, "event: message_stop", 19) ||
        !strncmp(line, "event: response.completed", 25))
        c->said_done = 1;
    if (!strstr(line, "delta")) return;  /* The end of a translated text repeats all of it. */
    char *number = strstr(line, "\" #"), *time = number ? strchr(number, '@') : NULL;
    if (!time) return;
    if (atoi(number + 3) != c->events) missing++;
    if (c->events++ == 0 && counts(now)) add(&first_events, now - c->started_us);
    if (!counts(now)) return;
    events++;
    add(&lags, now - atoll(time + 1));
}

static void take_payload(connection *c, const char *data, size_t size, int64_t now) {
    payload_bytes += (int64_t)size;
    if (!events_per_stream) return;
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n') {
            take_line(c, now);
            c->line_length = 0;
        } else if (c->line_length < LONGEST_LINE - 1) {
            c->line[c->line_length++] = data[i];
        }
    }
}

static const char *find_field(connection *c, const char *name) {
    char *field = strcasestr(c->head, name);
    return field ? field + strlen(name) : NULL;
}

static void read_head(connection *c) {
    if (strncmp(c->head, "HTTP/1.1 200", 12)) {
        c->head[strcspn(c->head, "\r\n")] = 0; /* The status line is the error's text. */
        note_error(c->head);
        c->head[12] = 0; /* The headers do not matter: the connection is closed. */
        c->closes = 1;
        c->state = DONE;
        return;
    }
    const char *length = find_field(c, "\r\ncontent-length:");
    const char *coding = find_field(c, "\r\ntransfer-encoding: chunked");
    c->closes = find_field(c, "\r\nconnection: close") != NULL;
    c->left = length ? strtoul(length, NULL, 10) : 0;
    c->state = coding ? CHUNK_SIZE : c->left ? BODY : DONE;
}

/* Reads the lines of the head, of chunk sizes and of the trailer; returns how many bytes of `data` it used. */
static size_t take_line_of_frame(connection *c, const char *data, size_t size) {
    size_t used = 0;
    while (used < size && c->head_length < LARGEST_HEAD - 1) {
        char byte = c->head[c->head_length++] = data[used++];
        if (byte != '\n') continue;
        c->head[c->head_length] = 0;
        if (c->state == HEAD) {
            if (c->head_length < 4 || strcmp(c->head + c->head_length - 4, "\r\n\r\n")) continue;
            read_head(c);
        } else if (c->state == CHUNK_SIZE) {
            c->left = strtoul(c->head, NULL, 16);
            c->state = c->left ? CHUNK : TRAILER;
        } else if (c->state == CHUNK_END) {
            c->state = CHUNK_SIZE;
        } else if (c->head_length == 2) {
            c->state = DONE;
        }
        c->head_length = 0;
        break;
    }
    return used;
}

static void take(connection *c, const char *data, size_t size, int64_t now) {
    while (size && c->state != DONE) {
        size_t used;
        if (c->state == BODY || c->state == CHUNK) {
            used = size < c->left ? size : c->left;
            take_payload(c, data, used, now);
            c->left -= used;
            if (!c->left) c->state = c->state == BODY ? DONE : CHUNK_END;
        } else {
            used = take_line_of_frame(c, data, size);
            if (!used) die("A head of more than %d bytes.", LARGEST_HEAD);
        }
        data += used;
        size -= used;
    }
}

static void open_connection(connection *c) {
    struct sockaddr_in address = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    send_at_once(c->fd);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLOUT, c);
}

/* Prepares a connection for its next request. */
static void begin(connection *c) {
    c->written = c->head_length = c->line_length = 0;
    c->events = c->said_done = c->closes = 0;
    c->state = HEAD;
    c->started_us = now_us();
    c->expected = events_per_stream;
    if (events_per_stream && c->generation == 0)
        /* 7919 is a prime, so neighbouring connections get different lengths. */
        c->expected = 1 + (int)((int64_t)events_per_stream * (c->number * 7919L % connections) / connections);
    c->generation++;
    if (counts(c->started_us)) started++;
}

static void reopen(connection *c) {
    close(c->fd);
    begin(c);
    open_connection(c);
}

/* Writes the rest of the request; epoll reports when a full socket takes more. */
static void write_request(connection *c) {
    if (events_digits) {
        char digits[8];
        snprintf(digits, sizeof digits, "%06d", c->expected);
        memcpy(events_digits, digits, 6);
    }
    ssize_t taken = send(c->fd, request + c->written, request_size - c->written, MSG_NOSIGNAL);
    if (taken < 0 && errno == EAGAIN) taken = 0;
    if (taken < 0) {
        note_error(strerror(errno));
        reopen(c);
        return;
    }
    c->written += (size_t)taken;
    watch(epoll, EPOLL_CTL_MOD, c->fd, c->written < request_size ? EPOLLOUT : EPOLLIN, c);
}

static void finish(connection *c, int64_t now) {
    if (events_per_stream && c->events && (c->events != c->expected || !c->said_done)) missing += c->expected - c->events;
    if (counts(now)) {
        answers++;
        add(&latencies, now - c->started_us);
    }
    if (c->closes) {
        reopen(c);
        return;
    }
    begin(c);
    write_request(c);
}

static void read_answer(connection *c) {
    static char data[262144];
    ssize_t got = recv(c->fd, data, sizeof data, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        note_error(got < 0 ? strerror(errno) : "The connection ended before the answer was complete.");
        reopen(c);
        return;
    }
    int64_t now = now_us();
    take(c, data, (size_t)got, now);
    if (c->state == DONE) finish(c, now);
}

static int by_value(const void *a, const void *b) {
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
    return (left > right) - (left < right);
}

static void print_quantiles(const char *name, samples *s) {
    qsort(s->values, s->count, sizeof *s->values, by_value);
    const double quantiles[] = {0.5, 0.99, 1};
    const char *names[] = {"p50", "p99", "max"};
    for (int i = 0; i < 3; i++) {
        size_t index = (size_t)((double)s->count * quantiles[i]);
        if (index >= s->count) index = s->count - 1;
        if (s->count)
            printf("\"%s_%s_ms\": %.3f, ", name, names[i], s->values[index] / 1000.0);
        else
            printf("\"%s_%s_ms\": null, ", name, names[i]);
    }
}

static void print_result(void) {
    printf("{");
    print_quantiles("latency", &latencies);
    if (events_per_stream) {
        print_quantiles("first_event", &first_events);
        print_quantiles("lag", &lags);
        printf("\"events_per_s\": %.1f, \"missing_events\": %lld, ", (double)events / seconds, (long long)missing);
    }
    printf("\"answers_per_s\": %.1f, \"started\": %lld, \"errors\": %lld, \"first_error\": \"", (double)answers / seconds,
           (long long)started, (long long)errors);
    for (char *p = first_error; *p; p++)
        if (*p >= ' ' && *p != '"' && *p != '\\') putchar(*p);
    printf("\"}\n");
}

static char *read_file(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    if (!file) die("%s: %s", name, strerror(errno));
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *content = malloc(*size + 1);
    if (!content || fread(content, 1, *size, file) != *size) die("%s cannot be read.", name);
    content[*size] = 0;
    fclose(file);
    return content;
}

static void make_request(void) {
    size_t body_size = 0;
    char *body = body_file ? read_file(body_file, &body_size) : "";
    size_t capacity = sizeof headers + body_size + 4096;
    request = malloc(capacity);
    int size = snprintf(request, capacity, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s", body_file ? "POST" : "GET", path,
                        port, headers);
    if (body_file)
        size += sprintf(request + size, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body_size);
    size += sprintf(request + size, "\r\n");
    memcpy(request + size, body, body_size);
    request_size = (size_t)size + body_size;
    request[request_size] = 0;
    char *found = events_per_stream ? strstr(request + size, "events=") : NULL;
    if (events_per_stream && !found) die("The body does not say events=000000.");
    events_digits = found ? found + strlen("events=") : NULL;
}

static void read_options(int count, char **words) {
    for (int i = 1; i + 1 < count; i += 2) {
        const char *name = words[i], *value = words[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--body")) body_file = value;
        else if (!strcmp(name, "--connections")) connections = atoi(value);
        else if (!strcmp(name, "--events")) events_per_stream = atoi(value);
        else if (!strcmp(name, "--warmup")) warmup_s = atof(value);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else if (!strcmp(name, "--ramp")) ramp_s = atof(value);
        else if (!strcmp(name, "--header"))
            snprintf(headers + strlen(headers), sizeof headers - strlen(headers), "%s\r\n", value);
        else die("Unknown option %s.", name);
    }
}

int main(int count, char **words) {
    read_options(count, words);
    make_request();
    epoll = epoll_create1(0);
    connection *all = calloc((size_t)connections, sizeof *all);
    int64_t start = now_us();
    window_start_us = start + (int64_t)((ramp_s + warmup_s) * 1e6);
    window_end_us = window_start_us + (int64_t)(seconds * 1e6);
    for (int opened = 0;;) {
        int64_t now = now_us();
        if (now >= window_end_us) break;
        for (; opened < connections && now >= start + (int64_t)(ramp_s * 1e6 * opened / connections); opened++) {
            all[opened].number = opened;
            all[opened].line = malloc(LONGEST_LINE);
            begin(&all[opened]);
            open_connection(&all[opened]);
        }
        struct epoll_event ready[BATCH];
        int found = epoll_wait(epoll, ready, BATCH, opened < connections ? 1 : 50);
        for (int i = 0; i < found; i++) {
            connection *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT)
                write_request(c);
            else
                read_answer(c);
        }
    }
    print_result();
}
