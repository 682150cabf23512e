# The image: a virtual environment built from the hashed lock files, and nothing that built it.
#
# It runs as user 10001 on a read-only root file system; only /data is written to. Without arguments it serves on :4000
# with the providers whose keys are in the environment; a configuration is named, never guessed:
#
#     docker build -t penstock .
#     docker run -p 4000:4000 -e OPENAI_API_KEY penstock
#     docker run -p 4000:4000 --read-only -v ./config.yaml:/app/config.yaml:ro -v penstock:/data \
#         penstock --config /app/config.yaml --port 4000 --detailed_debug
#
# For a release, pin the base by digest: --build-arg PYTHON=python:3.13-slim@sha256:…
# `make image-check` carries these steps out where there is no container engine.

ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/build && python -m venv --without-pip /opt/penstock
COPY requirements.lock requirements-build.lock ./
RUN /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
RUN /opt/build/bin/pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY adapters ./adapters
COPY gateway ./gateway
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /build/dist
RUN /opt/build/bin/pip --python /opt/penstock/bin/python install --no-deps /build/dist/penstock-*.whl
# Deployments that name the program of LiteLLM's image find it: `command: ["litellm", "--config", …]`.
RUN ln -s penstock /opt/penstock/bin/litellm

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="An LLM gateway built for streams" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Penstock Authors"
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    PENSTOCK_DATA_DIR=/data
RUN install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=builder /opt/penstock /opt/penstock
WORKDIR /app
COPY config.yaml ./
USER 10001:10001
VOLUME ["/data"]
EXPOSE 4000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["penstock", "health"]
ENTRYPOINT ["penstock"]
CMD []
