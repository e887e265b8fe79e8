# docker build --tag sidecar-worker .
# docker run --read-only --tmpfs /tmp --cap-drop ALL --volume worker-state:/var/lib/worker \
#     --env WORKER_DATA_API_URL=http://orders:8000 sidecar-worker

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /build
RUN python -m venv --without-pip /opt/worker
COPY constraints.txt pyproject.toml README.md ./
COPY worker ./worker
# Bytecode that is never checked against its source needs no source times that survive a copy.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir dist . \
    && pip --python /opt/worker/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt "$(echo dist/*.whl)[ops,otel,postgres,redis,sqs,yaml]" \
        opentelemetry-exporter-otlp-proto-http \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/worker/lib

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="sidecar-worker" \
    org.opencontainers.image.description="Runs periodic tasks and jobs beside an HTTP Data API"
COPY --from=build /opt/worker /opt/worker
ENV PATH=/opt/worker/bin:$PATH
# The base image has no bytecode of the standard library, and a read-only file system could not
# keep any: each start would compile it anew. Loading all tasks once leaves what the worker needs,
# and shows that the image works. After that nothing is installed any more.
RUN WORKER_DATA_API_URL=http://localhost worker list \
    && pip uninstall --yes --root-user-action ignore pip \
    && rm -r "$(/usr/local/bin/python -c 'import ensurepip; print(*ensurepip.__path__)')" \
    && mkdir -m 0700 /var/lib/worker \
    && chown 10001:10001 /var/lib/worker
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WORKER_STATE_DIR=/var/lib/worker \
    WORKER_HEARTBEAT_FILE=/tmp/worker-alive
# What became of each slot is kept here: mount something that outlives the container.
VOLUME /var/lib/worker
# Modules of WORKER_TASK_MODULES are found here.
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
# Asks the probe port where one is set, and else looks at the age of the file above.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["worker", "health"]
ENTRYPOINT ["worker"]
CMD ["start"]
