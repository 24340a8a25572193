/* The compiled path for streamed events: a copy of app/services/streaming/passage.py, with the same names, and of the
   inner loop of app/upstream/ready_sockets.py.

   The usual event is one line in one chunk of the transfer coding. It is read from the provider's socket, decoded by
   msgspec, recorded, and written to the client's socket, without calling Python code. Everything else is handed to
   Python untouched, including errors and bytes that a socket did not accept. So every decision here is also made there,
   and a change there must be repeated here: tests/services/streaming/test_passage.py compares the two.

   Everything runs in one thread at a time, under the interpreter's lock. Nothing waits: sockets are used without
   waiting, whatever their mode is. Work is linear in the bytes, and nothing recurses. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

/* The version of the interface between this file and Python; app/speedups.py has the same number. */
#define FACE 1

/* The digest of this file, passed by speedups/build.py. It shows Python whether the file has changed since. */
#ifndef SOURCE_DIGEST
#define SOURCE_DIGEST ""
#endif

/* As in app/upstream/http1.py and in passage.py. */
#define RECEIVE_BYTES 16384
#define LONGEST 8000
#define FRAME_BYTES 8
#define AFTER_DATA_BYTES 4

#define START "\r\ndata: {"
#define END "}\n\n\r\n"


/* --- Attributes --- */

/* The names of the attributes that are used, as Python's strings. */
#define NAMES(X) \
    X(begun) X(bytes_received) X(bytes_sent) X(choices) X(content) X(delta) X(events) X(finish_reason) \
    X(first_output_s) X(function_call) X(index) X(is_between_chunks) X(is_between_events) X(last_arrival_s) \
    X(last_output_s) X(last_sent_s) X(longest_gap_s) X(model) X(on_readable) X(output_events) X(reasoning) \
    X(reasoning_content) X(show_usage) X(summary) X(take) X(tool_calls) X(usage)
#define DECLARE(word) static PyObject *name_##word;
NAMES(DECLARE)

/* Sets an attribute. Takes the reference to `value`, which is NULL if it could not be made. Returns 0, or -1 with an
   exception. */
static int
set(PyObject *object, PyObject *name, PyObject *value)
{
    if (value == NULL)
        return -1;
    int failed = PyObject_SetAttr(object, name, value);
    Py_DECREF(value);
    return failed;
}

/* Returns whether an attribute is true, or -1 with an exception. */
static int
is_true(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    int truth = PyObject_IsTrue(value);
    Py_DECREF(value);
    return truth;
}

/* Returns whether an attribute is None, or -1 with an exception. */
static int
is_none(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    Py_DECREF(value);
    return value == Py_None;
}

/* Adds to an attribute that is a whole number. Returns 0, or -1 with an exception. */
static int
add(PyObject *object, PyObject *name, Py_ssize_t amount)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    Py_ssize_t number = PyLong_AsSsize_t(value);
    Py_DECREF(value);
    if (number == -1 && PyErr_Occurred())
        return -1;
    return set(object, name, PyLong_FromSsize_t(number + amount));
}

static int
set_time(PyObject *object, PyObject *name, double seconds)
{
    return set(object, name, PyFloat_FromDouble(seconds));
}

/* Returns an attribute that is a time, or -1 with an exception. */
static double
get_time(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    double seconds = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return seconds;
}


/* --- One event --- */

typedef struct {
    PyObject_HEAD
    PyObject *body, *reader, *keep_unsent, *decode, *record, *usage_kind, *summary;
    PyObject *settle; /* see `bind` */
    int descriptor;   /* of the client's socket */
    int source;       /* of the provider's socket, once `bind` was called */
    int is_usual;     /* whether a new chunk and a new event begin with the next byte */
} Passage;

/* The outcome of an event. FAILED has set an exception. */
enum outcome { FAILED = -1, NO_MORE = 0, MORE = 1, SLOW_PATH = 2 };

/* The clock of time.monotonic(). */
static double
read_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Returns whether a choice adds output of the model, or -1 with an exception. */
static int
has_output(PyObject *choice)
{
    PyObject *names[] = {name_content, name_reasoning_content, name_reasoning, name_tool_calls, name_function_call};
    PyObject *delta = PyObject_GetAttr(choice, name_delta);
    int truth = delta == NULL ? -1 : 0;
    for (size_t i = 0; truth == 0 && i < sizeof names / sizeof *names; i++)
        truth = is_true(delta, names[i]);
    Py_XDECREF(delta);
    return truth;
}

/* Returns whether `record_usual` may record a choice: it has begun before and goes on. -1 with an exception. */
static int
goes_on(PyObject *summary, PyObject *choice)
{
    int answer = is_none(choice, name_finish_reason);
    if (answer != 1)
        return answer;
    PyObject *begun = PyObject_GetAttr(summary, name_begun), *index = PyObject_GetAttr(choice, name_index);
    answer = begun == NULL || index == NULL ? -1 : PySet_Contains(begun, index);
    Py_XDECREF(begun);
    Py_XDECREF(index);
    return answer;
}

/* Records a chunk of one choice that goes on, without usage, as nearly all chunks are. For these it does the same as
   `record_chunk` of app/services/endpoints/chunk_stream.py. Returns 1 if it did, 0 with nothing recorded for another
   chunk, -1 with an exception. */
static int
record_usual(PyObject *summary, PyObject *chunk, double now_s)
{
    int answer = is_none(chunk, name_usage);
    if (answer == 1)
        answer = is_true(summary, name_model);
    if (answer != 1)
        return answer;
    PyObject *choices = PyObject_GetAttr(chunk, name_choices);
    if (choices == NULL)
        return -1;
    answer = PyList_CheckExact(choices) && PyList_GET_SIZE(choices) == 1;
    PyObject *choice = answer ? PyList_GET_ITEM(choices, 0) : NULL; /* lives as long as `choices` */
    int output = 0;
    if (answer && (answer = goes_on(summary, choice)) == 1 && (output = has_output(choice)) < 0)
        answer = -1;
    Py_DECREF(choices);
    if (answer != 1)
        return answer;
    if (add(summary, name_events, 1) < 0)
        return -1;
    if (!output)
        return 1;
    if (add(summary, name_output_events, 1) < 0 || set_time(summary, name_last_output_s, now_s) < 0)
        return -1;
    answer = is_none(summary, name_first_output_s);
    return answer < 0 || (answer && set_time(summary, name_first_output_s, now_s) < 0) ? -1 : 1;
}

/* Records the data of an event: SLOW_PATH with nothing recorded, MORE, or NO_MORE if the client does not get it. */
static enum outcome
note(Passage *self, PyObject *event_data, double now_s)
{
    PyObject *chunk = PyObject_CallOneArg(self->decode, event_data);
    if (chunk == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return FAILED;
        PyErr_Clear(); /* The slow path decodes it again, and handles the exception. */
        return SLOW_PATH;
    }
    enum outcome outcome = FAILED;
    int recorded = record_usual(self->summary, chunk, now_s);
    if (recorded == 1)
        outcome = MORE;
    else if (recorded == 0) {
        PyObject *now = PyFloat_FromDouble(now_s), *kind = NULL;
        if (now != NULL)
            kind = PyObject_CallFunctionObjArgs(self->record, chunk, self->summary, now, NULL);
        if (kind == Py_None)
            outcome = SLOW_PATH;
        else if (kind == self->usage_kind) {
            int is_shown = is_true(self->reader, name_show_usage);
            outcome = is_shown < 0 ? FAILED : is_shown ? MORE : NO_MORE;
        }
        else if (kind != NULL)
            outcome = MORE;
        Py_XDECREF(now);
        Py_XDECREF(kind);
    }
    Py_DECREF(chunk);
    return outcome;
}

/* Writes a chunk to the client. Bytes that its socket does not accept are kept and sent later. After an error the later
   send fails too, which shows that the client is gone. */
static enum outcome
write_chunk(Passage *self, const char *bytes, Py_ssize_t size)
{
    Py_ssize_t accepted = send(self->descriptor, bytes, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (accepted == size)
        return MORE;
    if (accepted < 0)
        accepted = 0;
    PyObject *rest = PyBytes_FromStringAndSize(bytes + accepted, size - accepted);
    PyObject *more = rest == NULL ? NULL : PyObject_CallOneArg(self->keep_unsent, rest);
    Py_XDECREF(rest);
    if (more == NULL)
        return FAILED;
    int truth = PyObject_IsTrue(more);
    Py_DECREF(more);
    return truth < 0 ? FAILED : truth ? MORE : NO_MORE;
}

/* Notes when bytes arrived. Returns 0, or -1 with an exception. */
static int
note_arrival(PyObject *summary, double now_s)
{
    double last_s = get_time(summary, name_last_arrival_s), longest_s = get_time(summary, name_longest_gap_s);
    if ((last_s == -1 || longest_s == -1) && PyErr_Occurred())
        return -1;
    if (now_s - last_s > longest_s) {
        int has_begun = is_true(summary, name_events);
        if (has_begun < 0 || (has_begun && set_time(summary, name_longest_gap_s, now_s - last_s) < 0))
            return -1;
    }
    return set_time(summary, name_last_arrival_s, now_s);
}

/* Records an event, whose data is in a chunk from `begin` on, and sends it to the client. */
static enum outcome
pass_on(Passage *self, PyObject *chunk, Py_ssize_t begin)
{
    const char *bytes = PyBytes_AS_STRING(chunk);
    Py_ssize_t size = PyBytes_GET_SIZE(chunk), data_bytes = size - AFTER_DATA_BYTES - begin;
    double now_s = read_clock();
    PyObject *event_data = PyBytes_FromStringAndSize(bytes + begin, data_bytes);
    if (event_data == NULL)
        return FAILED;
    enum outcome outcome = note_arrival(self->summary, now_s) < 0 ? FAILED : note(self, event_data, now_s);
    Py_DECREF(event_data);
    if (outcome == FAILED || outcome == SLOW_PATH)
        return outcome;
    if (add(self->summary, name_bytes_received, data_bytes + FRAME_BYTES) < 0)
        return FAILED;
    if (outcome == NO_MORE)
        return MORE; /* of the stream; this event is done */
    if (add(self->summary, name_bytes_sent, data_bytes + FRAME_BYTES) < 0)
        return FAILED;
    if (set_time(self->summary, name_last_sent_s, now_s) < 0)
        return FAILED;
    return write_chunk(self, bytes, size);
}

static int
read_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Returns the offset of the event's data if `bytes` are one chunk with one event of one line, else 0. */
static Py_ssize_t
find_data(const char *bytes, Py_ssize_t size)
{
    const Py_ssize_t start_bytes = sizeof START - 1, end_bytes = sizeof END - 1;
    if (size >= LONGEST || size <= start_bytes + end_bytes || memcmp(bytes + size - end_bytes, END, end_bytes) != 0)
        return 0;
    size_t announced = 0;
    Py_ssize_t digits = 0;
    for (int digit; digits < 8 && (digit = read_digit(bytes[digits])) >= 0; digits++)
        announced = announced << 4 | (size_t)digit;
    if (digits == 0 || size < digits + start_bytes + end_bytes || memcmp(bytes + digits, START, start_bytes) != 0)
        return 0;
    Py_ssize_t begin = digits + start_bytes - 1, data_bytes = size - AFTER_DATA_BYTES - begin;
    if (announced != (size_t)(data_bytes + FRAME_BYTES) || memchr(bytes + begin, '\n', (size_t)data_bytes) != NULL
        || memchr(bytes + begin, '\r', (size_t)data_bytes) != NULL)
        return 0;
    return begin;
}

/* `on_data` of Passage: passes on what has arrived. */
static enum outcome
on_data(Passage *self, PyObject *data)
{
    Py_ssize_t begin = self->is_usual ? find_data(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) : 0;
    if (begin) {
        enum outcome outcome = pass_on(self, data, begin);
        if (outcome != SLOW_PATH)
            return outcome;
    }
    PyObject *taken = PyObject_CallMethodOneArg(self->body, name_take, data);
    if (taken == NULL)
        return FAILED;
    int more = PyObject_IsTrue(taken), is_usual = more;
    Py_DECREF(taken);
    if (is_usual == 1)
        is_usual = is_true(self->body, name_is_between_chunks);
    if (is_usual == 1)
        is_usual = is_true(self->reader, name_is_between_events);
    if (is_usual < 0)
        return FAILED;
    self->is_usual = is_usual;
    return more ? MORE : NO_MORE;
}


/* --- The sockets that are ready --- */

/* `_serve_some` of app/upstream/ready_sockets.py. */
static PyObject *
serve_some(PyObject *Py_UNUSED(module), PyObject *args)
{
    int epoll, most;
    PyObject *waiters, *remove;
    if (!PyArg_ParseTuple(args, "iiO!O:serve_some", &epoll, &most, &PyDict_Type, &waiters, &remove))
        return NULL;
    struct epoll_event ready[64];
    if (most > 64)
        most = 64;
    int count = epoll_wait(epoll, ready, most, 0);
    if (count < 0)
        return errno == EINTR ? PyLong_FromLong(0) : PyErr_SetFromErrno(PyExc_OSError);
    for (int i = 0; i < count; i++) {
        PyObject *descriptor = PyLong_FromLong(ready[i].data.fd);
        if (descriptor == NULL)
            return NULL;
        PyObject *waiter = PyDict_GetItemWithError(waiters, descriptor); /* borrowed */
        Py_DECREF(descriptor);
        if (waiter == NULL) {
            if (PyErr_Occurred())
                return NULL;
            continue;
        }
        Py_INCREF(waiter);
        PyObject *on_readable = PyObject_GetAttr(waiter, name_on_readable), *result = NULL;
        if (on_readable == Py_None)
            result = PyObject_CallOneArg(remove, waiter);
        else if (on_readable != NULL)
            result = PyObject_CallNoArgs(on_readable);
        Py_XDECREF(on_readable);
        Py_DECREF(waiter);
        if (result == NULL)
            return NULL;
        Py_DECREF(result);
    }
    return PyLong_FromLong(count);
}


/* --- The class --- */

static PyObject *
take_exception(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
#endif
}

/* Reads the provider's socket and passes on the bytes. */
static PyObject *
passage_on_readable(Passage *self, PyObject *Py_UNUSED(ignored))
{
    static char buffer[RECEIVE_BYTES]; /* copied before anything else can run */
    enum outcome outcome = FAILED;
    ssize_t size = recv(self->source, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size >= 0) {
        PyObject *data = PyBytes_FromStringAndSize(buffer, size);
        if (data != NULL)
            outcome = on_data(self, data);
        Py_XDECREF(data);
    }
    else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        Py_RETURN_NONE; /* The kernel may report bytes that then turn out to be damaged. */
    else
        PyErr_SetFromErrno(PyExc_OSError);
    if (outcome == MORE)
        Py_RETURN_NONE;
    PyObject *said = outcome == FAILED ? take_exception() : Py_NewRef(Py_False);
    PyObject *settle = Py_NewRef(self->settle); /* It runs greenlets, which may do anything to this object. */
    PyObject *result = PyObject_CallOneArg(settle, said);
    Py_DECREF(settle);
    Py_DECREF(said);
    return result;
}

static PyObject *
passage_bind(Passage *self, PyObject *args)
{
    int source;
    PyObject *settle;
    if (!PyArg_ParseTuple(args, "iO:bind", &source, &settle))
        return NULL;
    self->source = source;
    Py_XSETREF(self->settle, Py_NewRef(settle));
    return PyObject_GetAttrString((PyObject *)self, "_on_readable");
}

static PyObject *
passage_call(Passage *self, PyObject *args, PyObject *kwargs)
{
    PyObject *data;
    static char *keywords[] = {"data", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S", keywords, &data))
        return NULL;
    enum outcome outcome = on_data(self, data);
    return outcome == FAILED ? NULL : PyBool_FromLong(outcome == MORE);
}

static PyObject *
passage_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"body", "reader", "descriptor", "keep_unsent", "decode", "record", "usage_kind", NULL};
    PyObject *body, *reader, *keep_unsent, *decode, *record, *usage_kind;
    int descriptor;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOiOOOO:Passage", keywords, &body, &reader, &descriptor, &keep_unsent, &decode, &record,
            &usage_kind))
        return NULL;
    Passage *self = (Passage *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->body = Py_NewRef(body);
    self->reader = Py_NewRef(reader);
    self->keep_unsent = Py_NewRef(keep_unsent);
    self->decode = Py_NewRef(decode);
    self->record = Py_NewRef(record);
    self->usage_kind = Py_NewRef(usage_kind);
    self->descriptor = descriptor;
    self->source = -1;
    self->settle = Py_NewRef(Py_None);
    self->summary = PyObject_GetAttr(reader, name_summary);
    if (self->summary == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

#define MEMBERS(X) X(body) X(reader) X(keep_unsent) X(decode) X(record) X(usage_kind) X(summary) X(settle)

static int
passage_traverse(Passage *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
#define VISIT(member) Py_VISIT(self->member);
    MEMBERS(VISIT)
    return 0;
}

static int
passage_clear(Passage *self)
{
#define CLEAR(member) Py_CLEAR(self->member);
    MEMBERS(CLEAR)
    return 0;
}

static void
passage_dealloc(Passage *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    passage_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(
    passage_doc,
    "Takes the raw bytes of one stream, as `Passage` in app/services/streaming/passage.py does.\n\n"
    "Calling it is `on_data` there. Args: as there, then the two steps of the reader's `note`, and EventKind.USAGE.");
PyDoc_STRVAR(
    bind_doc,
    "bind(descriptor, settle)\n\n"
    "Returns what a loop calls, without arguments, when the provider's socket `descriptor` can be read. It reads the\n"
    "socket itself, and calls `settle` with False if no more is wanted, or with the exception that was raised.");

static PyMethodDef passage_methods[] = {
    {"bind", (PyCFunction)passage_bind, METH_VARARGS, bind_doc},
    {"_on_readable", (PyCFunction)passage_on_readable, METH_NOARGS, "What `bind` returns."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot passage_slots[] = {
    {Py_tp_doc, (void *)passage_doc},
    {Py_tp_new, passage_new},
    {Py_tp_call, passage_call},
    {Py_tp_traverse, passage_traverse},
    {Py_tp_clear, passage_clear},
    {Py_tp_dealloc, passage_dealloc},
    {Py_tp_methods, passage_methods},
    {0, NULL},
};

static PyType_Spec passage_spec = {
    .name = "gateway_speedups.Passage",
    .basicsize = sizeof(Passage),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = passage_slots,
};

PyDoc_STRVAR(
    serve_some_doc,
    "serve_some(epoll, most, waiters, remove)\n\n"
    "Calls those whose sockets are ready, `most` and 64 of them at most, and returns how many there were.\n\n"
    "Args: the descriptor of an epoll, the number, descriptor -> `Waiter`, and what removes one that waits no more.");

static PyMethodDef functions[] = {
    {"serve_some", serve_some, METH_VARARGS, serve_some_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gateway_speedups",
    .m_doc = "The compiled path for streamed events; app/speedups.py finds it.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit_gateway_speedups(void)
{
#define INTERN(word) \
    if ((name_##word = PyUnicode_InternFromString(#word)) == NULL) \
        return NULL;
    NAMES(INTERN)
    PyObject *module = PyModule_Create(&module_def), *passage = PyType_FromSpec(&passage_spec);
    if (module == NULL || passage == NULL || PyModule_AddObjectRef(module, "Passage", passage) < 0
        || PyModule_AddIntMacro(module, FACE) < 0 || PyModule_AddIntMacro(module, RECEIVE_BYTES) < 0
        || PyModule_AddIntMacro(module, LONGEST) < 0 || PyModule_AddStringMacro(module, SOURCE_DIGEST) < 0)
        Py_CLEAR(module);
    Py_XDECREF(passage);
    return module;
}
