# kserve-llamacpp for any x86-64 or arm64: llama.cpp's CPU backend is built once per instruction set, and the
# fastest one that the node's CPU understands is loaded at start.
#
#   docker build -t kserve-llamacpp:0.1.0 .
#   buildah bud --isolation chroot --network host -t kserve-llamacpp:0.1.0 .
#
# For NVIDIA GPUs, with the CUDA compiler in the build stage and CUDA's libraries in the last one:
#
#   docker build -t kserve-llamacpp-cuda:0.1.0 --build-arg GGML_CUDA=ON \
#     --build-arg BUILD_IMAGE=nvidia/cuda:12.9.1-devel-ubuntu24.04 \
#     --build-arg BASE_IMAGE=nvidia/cuda:12.9.1-runtime-ubuntu24.04 .
#
# Both images need the same Python, 3.11 or newer: their own, or the distribution's, which is then installed.
# Behind a private certificate authority: --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
# With another package index:             --build-arg PIP_INDEX_URL=...
# The base as it is today, and no other:  --build-arg BASE_DIGEST=sha256:...
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG BASE_DIGEST=
ARG BUILD_IMAGE=${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}

FROM ${BUILD_IMAGE} AS toolchain
RUN missing=""; \
    command -v g++ > /dev/null || missing="g++"; \
    python3 -m ensurepip --version > /dev/null 2>&1 || missing="$missing python3 python3-venv"; \
    if [ -n "$missing" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*; \
    fi
RUN python3 -m venv /build/pip
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build


# Only these pins shape the compiled code, so another package's new version doesn't compile llama.cpp again. The
# time is fixed since a builder may compare it.
FROM toolchain AS pins
COPY constraints.txt .
RUN grep -E '^(cmake|llama-cpp-python|ninja|packaging|pathspec|scikit-build-core)==' constraints.txt > pins.txt \
    && touch --date=@0 pins.txt


FROM toolchain AS wheel
ARG PIP_INDEX_URL
ARG GGML_CUDA=OFF
COPY --from=pins /build/pins.txt .
COPY scripts/amx_tiles.h scripts/llama_cpp.cmake ./
# Everything goes into the package's own folder, where the engine looks for the backends.
# Older versions of pip read the first variable for build tools, newer ones the second.
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem SSL_CERT_FILE=/run/secrets/ca.pem; fi; \
    export PIP_CONSTRAINT=/build/pins.txt PIP_BUILD_CONSTRAINT=/build/pins.txt; \
    CXXFLAGS="-include /build/amx_tiles.h" \
    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
        -DGGML_CUDA=${GGML_CUDA} -DCMAKE_INSTALL_BINDIR=llama_cpp/lib -DCMAKE_INSTALL_LIBDIR=llama_cpp/lib \
        -DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include \
        -DCMAKE_PROJECT_llama_cpp_INCLUDE=/build/llama_cpp.cmake" \
    /build/pip/bin/pip wheel --no-deps --no-binary llama-cpp-python --wheel-dir wheels llama-cpp-python


# The source that the wheel was compiled from.
FROM wheel AS source
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem SSL_CERT_FILE=/run/secrets/ca.pem; fi; \
    export PIP_CONSTRAINT=/build/pins.txt PIP_BUILD_CONSTRAINT=/build/pins.txt; \
    /build/pip/bin/pip download --no-deps --no-binary llama-cpp-python --dest sdist llama-cpp-python && \
    mkdir llama.cpp && \
    tar -xzf sdist/*.tar.gz -C llama.cpp --strip-components 3 --wildcards '*/vendor/llama.cpp/ggml/*'


FROM toolchain AS build
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
RUN python3 -m venv --without-pip /opt/kserve-llamacpp
COPY --from=wheel /build/wheels wheels
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY --from=source /build/llama.cpp llama.cpp
COPY scripts/openblas openblas
COPY scripts/licence_list.py .
COPY predictor predictor
COPY rollout rollout
COPY runtimes runtimes
# More of the package's extras in brackets, such as [ray].
ARG EXTRAS=
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem SSL_CERT_FILE=/run/secrets/ca.pem; fi; \
    export PIP_CONSTRAINT=/build/constraints.txt PIP_BUILD_CONSTRAINT=/build/constraints.txt; \
    pip="/build/pip/bin/pip --python /opt/kserve-llamacpp/bin/python" && \
    $pip install wheels/*.whl ".${EXTRAS}" && \
    # kserve asks for pandas, which serving never loads (predictor/serving/deferred_imports.py), and Kubernetes' client
    # comes twice, once for asyncio. Together that is a quarter of the packages' size.
    $pip uninstall --yes pandas && \
    packages=$(echo /opt/kserve-llamacpp/lib/python3*/site-packages) && \
    rm -r "$packages/kubernetes/aio" && \
    # Only the x86-64 package brings an OpenBLAS.
    if [ -d "$packages/scipy_openblas32" ]; then \
        mkdir "$packages/llama_cpp/lib/openblas" && \
        sh openblas/build.sh llama.cpp /opt/kserve-llamacpp/bin/python "$packages/llama_cpp/lib/openblas/libggml-blas.so"; \
    fi && \
    # A wheel has no symbolic links, so it holds each library three times; two names are loaded.
    find "$packages/llama_cpp/lib" -name 'lib*.so.*.*' -delete && \
    case "$(uname -m)" in x86_64) least=10;; *) least=5;; esac && \
    test "$(find "$packages/llama_cpp/lib" -name 'libggml-cpu-*.so' | wc -l)" -ge "$least" && \
    # What is inside: as a CycloneDX bill of materials, and the licences for people.
    /build/pip/bin/pip install cyclonedx-bom && \
    /build/pip/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
        --output-file /opt/kserve-llamacpp/sbom.cdx.json /opt/kserve-llamacpp/bin/python && \
    /opt/kserve-llamacpp/bin/python licence_list.py "$packages" > /opt/kserve-llamacpp/licences.txt && \
    cp LICENSE NOTICE /opt/kserve-llamacpp/


FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}
# What slim images lack: Python, the authorities of model hubs, OpenMP's run-time library.
RUN missing=""; \
    command -v python3 > /dev/null || missing="python3"; \
    [ -s /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"; \
    ldconfig -p | grep -q libgomp.so.1 || missing="$missing libgomp1"; \
    if [ -n "$missing" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $missing && \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    fi; \
    # Nothing but /tmp is everybody's to write.
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp \) -prune \
        -o ! -type l -perm -o+w -exec chmod o-w {} +
COPY --from=build /opt/kserve-llamacpp /opt/kserve-llamacpp
# /tmp is all that is written to, whoever the user is: OpenShift and KServe's modelcars choose their own.
ENV PATH=/opt/kserve-llamacpp/bin:$PATH \
    HOME=/tmp \
    LLAMACPP_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 8080 8081
# For Docker; Kubernetes has its probes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "-m", "predictor.doctor.alive"]
ENTRYPOINT ["kserve-llamacpp"]
CMD ["--help"]
# Last, so that a new revision changes no layer.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG BASE_IMAGE
ARG BASE_DIGEST
LABEL org.opencontainers.image.title="kserve-llamacpp" \
      org.opencontainers.image.description="Serves GGUF language models through KServe, with llama.cpp" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The kserve-llamacpp authors" \
      org.opencontainers.image.url="https://github.com/kserve-llamacpp/kserve-llamacpp" \
      org.opencontainers.image.source="https://github.com/kserve-llamacpp/kserve-llamacpp" \
      org.opencontainers.image.documentation="https://kserve-llamacpp.github.io/kserve-llamacpp/${VERSION}/" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
