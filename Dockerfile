# syntax=docker/dockerfile:1
#
# The container image of micro-sidecar: the binary, the shared libraries it needs and nothing else (no shell, no package
# manager). docs/container.md says how to build, pin and run it; deploy/image.py makes the same image without an engine.
#
#   docker build -t registry.example/micro-sidecar:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 -t registry.example/micro-sidecar:0.1.0 --push .
#
# Pin the base by what it is, not only by its name, with the digest your registry shows:
#   --build-arg SWIFT_IMAGE=swift:6.3.1-bookworm@sha256:…
ARG SWIFT_IMAGE=swift:6.3.1-bookworm

FROM ${SWIFT_IMAGE} AS build
ARG TARGETARCH
RUN case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
      amd64 | arm64) ;; \
      *) echo "micro-sidecar is built for amd64 and arm64, not for ${TARGETARCH}" >&2; exit 1 ;; \
    esac
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      binutils ca-certificates g++ libnghttp2-dev libssl-dev libssl3 libuv1-dev libyaml-dev pkg-config python3 zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Package.swift dev ./
COPY Sources Sources
COPY Tests Tests
COPY Benchmarks/Selectors Benchmarks/Selectors
COPY Benchmarks/MallocCount Benchmarks/MallocCount
COPY deploy/image.py deploy/image.py
RUN ./dev build
RUN python3 deploy/image.py --tree .build/release/micro-sidecar /image

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="micro-sidecar" \
      org.opencontainers.image.description="Makes any HTTP, gRPC or WebSocket app a member of a go-micro system" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /image/ /
USER 65532:65532
EXPOSE 8081 8082 8083
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/micro-sidecar", "ready"]
ENTRYPOINT ["/micro-sidecar"]
