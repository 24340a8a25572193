"""The code that gunicorn.conf.py names. gunicorn's main process loads nothing else of the application, and of this
package only open_files.py.

worker_class.py  the worker: one greenlet per connection
request_reading.py  how requests are read: in turns, within a time, and not at all once refused
response.py      the response, and how it is sent
error_log.py     gunicorn's own log, without secrets
preflight.py     the start is refused, or warned about, because of:
boot_checks.py   the checks before the start
open_files.py    the limit on open files
lifecycle.py     what a worker starts and stops besides serving requests
"""
