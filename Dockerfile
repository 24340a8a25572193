# The gateway in a container: docker build -t llm-gateway . (compose.yaml runs it with PostgreSQL and nginx)
#
# What is installed is the same each time, because the lists have digests, and every setting works with it. The base is
# the same as far as its tag is: for the same bytes each time, build with --build-arg PYTHON=python@sha256:….
ARG PYTHON=python:3.11-slim-bookworm

# The base with a compiler, for the compiled path of events. If its Python is of another version, the image does without.
ARG COMPILER=python:3.11-bookworm
FROM ${COMPILER} AS speedups
COPY speedups /speedups
RUN mkdir /built && python /speedups/build.py /built

# Packages are installed apart, so that the image has neither pip's cache nor a layer that changes with the code.
FROM ${PYTHON} AS packages
WORKDIR /srv/gateway
COPY requirements.txt requirements-idempotency.txt requirements-traces.txt ./
# The byte code is written with digests of its sources and not with their times, so it is the same each time too.
RUN python -m venv --without-pip .venv \
    && pip --python .venv/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements.txt \
        -r requirements-idempotency.txt -r requirements-traces.txt \
    && .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .venv/lib
COPY --from=speedups /built /built
RUN cp /built/*.so "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"

FROM ${PYTHON}
# What Docker stops and starts anew keeps its records in the volume until PostgreSQL has them.
ENV PATH=/srv/gateway/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    JOURNAL_DIR=/var/lib/gateway/journal \
    PROMETHEUS_MULTIPROC_DIR=/var/lib/gateway/metrics
WORKDIR /srv/gateway
# A user without a name or a shell, who can write to one directory. The code belongs to root.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/gateway
COPY --from=packages /srv/gateway/.venv .venv
# .dockerignore says what comes along.
COPY . .
USER 10001:10001
VOLUME /var/lib/gateway
EXPOSE 8000
# SIGTERM drains; give it GRACEFUL_TIMEOUT (25 s) and more: docker stop --time 30.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\") or 8000}/health', timeout=4)"]
CMD ["gunicorn", "wsgi:app"]
