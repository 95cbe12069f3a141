#!/bin/sh
# build.sh LLAMA_CPP PYTHON OUTPUT: compiles llama.cpp's BLAS backend for the llama-cpp-python and the
# scipy-openblas32 that PYTHON has. LLAMA_CPP is the source of the same llama.cpp.
set -eu
ggml=$1/ggml python=$2 output=$3
here=$(dirname "$0")
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
exec "${CXX:-g++}" -std=c++17 -O3 -fPIC -shared -fopenmp \
    -DGGML_USE_OPENMP -DGGML_BLAS_USE_OPENBLAS \
    -DGGML_BACKEND_DL -DGGML_BACKEND_SHARED -DGGML_BACKEND_BUILD -DGGML_SHARED \
    -I"$here" -I"$ggml/include" -I"$ggml/src" -I"$packages/scipy_openblas32/include" \
    "$ggml/src/ggml-blas/ggml-blas.cpp" "$here/split_sgemm.cpp" -o "$output" \
    -L"$packages/llama_cpp/lib" -l:libggml-base.so.0 -L"$packages/scipy_openblas32/lib" -lscipy_openblas
