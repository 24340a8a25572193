"""What gunicorn calls, by the names in gunicorn.conf.py; its main process must load nothing else of the application.

worker_class.py  the worker: one greenlet per connection
response.py      the response as it is sent
preflight.py     the checks before the start
lifecycle.py     what runs beside the requests, from a worker's start to its end
"""
