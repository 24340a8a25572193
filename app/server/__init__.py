"""The code that gunicorn.conf.py names. gunicorn's main process loads nothing else of the application, and of this
package only error_log.py, life_log.py, metrics_directory.py, open_files.py, reload.py, restart.py, stop.py and
worker_starts.py.

worker_class.py  the worker: one greenlet per connection
request_head.py  the usual head of a request, read with one pattern
request_reading.py  how requests are read: in turns, within a time, and not at all once refused
response.py      the response, and how it is sent
life_log.py      one line each for start, reload, drain and stop, and where the gateway listens
error_log.py     gunicorn's own log, as lines of ours and without secrets
preflight.py     the start is refused, or warned about, because of:
boot_checks.py   the checks before the start
database_addresses.py  those of the addresses of PostgreSQL
problems.py      what a check found
open_files.py    the limit on open files, and room for them
reload.py        SIGHUP: the main process replaces itself, once new code and settings are checked
restart.py       a restart without a gap, with a socket of systemd
stop.py          the stop of the whole gateway
worker_starts.py when the workers are ready, and those of before a reload may end
metrics_directory.py  where the workers share their metrics
garbage.py       garbage collection in small steps
lifecycle.py     what a worker starts and stops besides serving requests
"""
