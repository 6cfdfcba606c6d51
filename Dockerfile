# Three targets: `listener` (no TensorFlow), `worker` (CPU) and `worker-gpu`.
#   docker build --target listener --tag cxr-listener .
#   docker build --target worker   --tag cxr-worker .
# The wheel is installed, not the source; the process is not root; data and keys are volumes.

FROM python:3.13-slim-bookworm AS wheel
WORKDIR /src
COPY locks/build.txt locks/build.txt
RUN pip install --no-cache-dir --require-hashes --requirement locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY config config
COPY configs configs
COPY cxr cxr
COPY db db
COPY docs/example/frontal.dcm docs/example/frontal.dcm
COPY docs/orthanc/autoroute.lua docs/orthanc/autoroute.lua
COPY docs/systemd docs/systemd
COPY inference inference
COPY listener listener
COPY models models
COPY training training
RUN python -m build --wheel --no-isolation --outdir /wheel

FROM python:3.13-slim-bookworm AS base
# Flat package names could be shadowed by a file in the working folder: it is never on the path.
ENV PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
    CXR_DATA_DIR=/var/lib/cxr CXR_AUDIT__KEY_FILE=/var/lib/cxr-keys/audit.key CXR_LOG__FORMAT=json
RUN groupadd --gid 10001 cxr \
 && useradd --uid 10001 --gid cxr --home-dir /var/lib/cxr --no-create-home --shell /usr/sbin/nologin cxr \
 && install --directory --owner=cxr --group=cxr --mode=0700 /var/lib/cxr /var/lib/cxr-keys
WORKDIR /var/lib/cxr
VOLUME ["/var/lib/cxr", "/var/lib/cxr-keys"]
ENTRYPOINT ["cxr"]

FROM base AS listener
COPY locks/listener.txt /tmp/lock.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/lock.txt
COPY --from=wheel /wheel/*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/*.whl
USER 10001:10001
EXPOSE 11112
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s CMD ["cxr", "health", "listen"]
CMD ["listen"]

FROM base AS worker
COPY locks/worker.txt /tmp/lock.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/lock.txt
COPY --from=wheel /wheel/*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/*.whl
USER 10001:10001
HEALTHCHECK --interval=60s --timeout=30s --start-period=300s CMD ["cxr", "health", "work"]
CMD ["work"]

FROM base AS worker-gpu
COPY locks/gpu.txt /tmp/lock.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/lock.txt
COPY --from=wheel /wheel/*.whl /tmp/
RUN pip install --no-cache-dir --no-deps /tmp/*.whl
USER 10001:10001
HEALTHCHECK --interval=60s --timeout=30s --start-period=300s CMD ["cxr", "health", "work"]
CMD ["work"]
