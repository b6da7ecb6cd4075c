# The service, in two images:
#   docker build --target cuda -t grace:cuda .    on vLLM's own image, for NVIDIA GPUs
#   docker build --target cpu  -t grace:cpu  .    on Python's, without a GPU
# Both run as a user without rights, on a read-only root file system, and ask nothing of the network at start.
# What is in them besides vLLM is pinned in deploy/image/*.lock, which scripts/image_lock.py writes. The bases are pinned by
# version; by digest, once you have looked it up (docker buildx imagetools inspect vllm/vllm-openai:v0.32.0):
#   docker build --build-arg VLLM_IMAGE=vllm/vllm-openai@sha256:... --target cuda -t grace:cuda .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

# ---- our own wheel, with the bundled model in it
FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
RUN python -m pip install --no-cache-dir hatchling==1.33.0
COPY pyproject.toml README.md LICENSE ./
COPY core/ core/
COPY server/ server/
COPY training/ training/
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# ---- without a GPU
FROM ${PYTHON_IMAGE} AS cpu
# PyTorch keeps its builds without CUDA on an index of its own: give its address, unless pip's own one has them.
ARG PIP_EXTRA_INDEX_URL
# The compiled part of vLLM looks for libnuma.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1=2.0.16-1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin grace \
    && mkdir -p /data /models \
    && chown 10001:10001 /data /models
RUN python -m venv --without-pip /opt/grace
# Dependencies first: they change less often than we do, and weigh a hundred times as much.
RUN --mount=type=bind,source=deploy/image/cpu.lock,target=/tmp/cpu.lock \
    python -m pip --python /opt/grace install --no-cache-dir --no-deps -r /tmp/cpu.lock
RUN --mount=type=bind,from=wheel,source=/wheels,target=/tmp/wheels \
    python -m pip --python /opt/grace install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl
ENV PATH=/opt/grace/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    GRACE_HOST=0.0.0.0 \
    GRACE_PORT=8000 \
    GRACE_DATA_DIR=/data \
    HF_HOME=/models \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 \
    VLLM_CACHE_ROOT=/data/vllm
# It imports whatever a start imports: a package that is missing, or a torch that looks for CUDA, ends the build here.
RUN grace-serve --help > /dev/null && python -c "import torch"
USER 10001:10001
VOLUME ["/data", "/models"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['GRACE_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["grace-serve"]

# ---- with NVIDIA GPUs; the last stage is what a plain `docker build .` makes
FROM ${VLLM_IMAGE} AS cuda
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin grace \
    && mkdir -p /data /models \
    && chown 10001:10001 /data /models
# Only what vLLM's image does not bring: its torch, transformers and FastAPI stay as they were tested there.
RUN --mount=type=bind,source=deploy/image/cuda.lock,target=/tmp/cuda.lock \
    uv pip install --system --no-cache --no-deps -r /tmp/cuda.lock
RUN --mount=type=bind,from=wheel,source=/wheels,target=/tmp/wheels \
    uv pip install --system --no-cache --no-deps --no-index /tmp/wheels/*.whl
# Compiled kernels are mapped from where they were written, and Docker mounts `--tmpfs /tmp` noexec.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    GRACE_HOST=0.0.0.0 \
    GRACE_PORT=8000 \
    GRACE_DATA_DIR=/data \
    HF_HOME=/models \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 \
    VLLM_CACHE_ROOT=/data/vllm \
    TRITON_CACHE_DIR=/data/triton \
    TORCHINDUCTOR_CACHE_DIR=/data/inductor \
    FLASHINFER_WORKSPACE_BASE=/data/flashinfer
RUN grace-serve --help > /dev/null
USER 10001:10001
VOLUME ["/data", "/models"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['GRACE_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["grace-serve"]
