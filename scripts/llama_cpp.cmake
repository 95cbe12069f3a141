# CMake includes this right after llama-cpp-python's project(): what nothing loads isn't built.

# llama.cpp's common library is for its programs. llama-cpp-python turns it on in the cache, over any -D, but an
# ordinary variable wins over the cache (policy CMP0126).
set(LLAMA_BUILD_COMMON OFF)
