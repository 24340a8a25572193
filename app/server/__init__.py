"""The code that gunicorn.conf.py refers to. Of the application, gunicorn's main process loads only app.config,
app.speedups and the modules that they import, and of this package error_log.py, gunicorn_options.py,
life_log.py, metrics_directory.py, open_files.py, reload.py, restart.py, signals.py, stop.py and worker_starts.py.

worker_class.py  the worker: one greenlet per connection
request_head.py  the usual head of a request, read with one pattern
request_reading.py  how requests are read: in turns, within a time, and not at all once refused
response.py      the response, and how it is sent
life_log.py      one line each for start, reload, drain and stop, and the addresses of the gateway
error_log.py     gunicorn's own log, in the gateway's format and without secrets
preflight.py     runs these checks, which refuse the start or warn about it:
boot_checks.py   all checks before the start
database_addresses.py  the checks of PostgreSQL's addresses
problems.py      the finding of a check
gunicorn_options.py  options that are refused
open_files.py    the limit on open files, and room in the kernel's table of them
reload.py        SIGHUP: the main process replaces itself, once new code and settings are checked
restart.py       a restart without a gap, with a systemd socket
stop.py          the stop of the whole gateway
signals.py       a stop goes before a reload
worker_starts.py when the workers are ready, and those of before a reload may end
metrics_directory.py  where the workers share their metrics
garbage.py       garbage collection in small steps
lifecycle.py     the parts of a worker besides serving requests: their start and stop
"""
