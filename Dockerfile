# kserve-llamacpp for any x86-64: llama.cpp's CPU backend is built once per instruction set, and the fastest one
# that the node's CPU understands is loaded at start.
#
#   docker build -t kserve-llamacpp:0.1.0 .
#   buildah bud --isolation chroot --network host -t kserve-llamacpp:0.1.0 .
#
# Behind a private certificate authority: --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
# With another package index:             --build-arg PIP_INDEX_URL=...
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG GGML_CUDA=OFF
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

RUN missing=""; \
    command -v g++ > /dev/null || missing="g++"; \
    python3 -m ensurepip --version > /dev/null 2>&1 || missing="$missing python3 python3-venv"; \
    if [ -n "$missing" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*; \
    fi

RUN python3 -m venv /build/pip && python3 -m venv --without-pip /opt/kserve-llamacpp
WORKDIR /build
COPY constraints.txt .
# Older versions of pip read the first variable for build tools, newer ones the second.
ENV PIP_CONSTRAINT=/build/constraints.txt \
    PIP_BUILD_CONSTRAINT=/build/constraints.txt

# Everything goes into the package's own folder, where the engine looks for the CPU backends.
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem SSL_CERT_FILE=/run/secrets/ca.pem; fi; \
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
        -DGGML_CUDA=${GGML_CUDA} -DCMAKE_INSTALL_BINDIR=llama_cpp/lib -DCMAKE_INSTALL_LIBDIR=llama_cpp/lib \
        -DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include" \
    /build/pip/bin/pip wheel --no-deps --no-binary llama-cpp-python --wheel-dir /build/wheels llama-cpp-python

COPY pyproject.toml README.md ./
COPY predictor predictor
COPY runtimes runtimes
# More of the package's extras in brackets, such as [ray].
ARG EXTRAS=
# A wheel has no symbolic links, so it holds each library three times; two names are loaded.
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem SSL_CERT_FILE=/run/secrets/ca.pem; fi; \
    /build/pip/bin/pip --python /opt/kserve-llamacpp/bin/python install /build/wheels/*.whl ".${EXTRAS}" && \
    libraries=$(echo /opt/kserve-llamacpp/lib/python3*/site-packages/llama_cpp/lib) && \
    find "$libraries" \( -name 'lib*.so.*.*' -o -name 'libllama-common.*' \) -delete && \
    test "$(find "$libraries" -name 'libggml-cpu-*.so' | wc -l)" -ge 10


FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kserve-llamacpp" \
      org.opencontainers.image.description="Serves GGUF language models through KServe, with llama.cpp" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# OpenMP's run-time library, which slim images lack.
RUN if ! ldconfig -p | grep -q libgomp.so.1; then \
        apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; \
    fi

COPY --from=build /opt/kserve-llamacpp /opt/kserve-llamacpp
# /tmp is all that is written to, whoever the user is: OpenShift and KServe's modelcars choose their own.
ENV PATH=/opt/kserve-llamacpp/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 8080 8081
# Kubernetes' probes do this.
HEALTHCHECK NONE
ENTRYPOINT ["kserve-llamacpp"]
CMD ["--help"]
