"""The code that gunicorn.conf.py names. gunicorn's main process must load nothing else of the application.

worker_class.py  the worker: one greenlet per connection
response.py      the response, and how it is sent
preflight.py     the checks before the start
lifecycle.py     what a worker starts and stops besides serving requests
"""
