// Splits a matrix product among the threads that llama.cpp computes with, and has each compute its part with a
// single-threaded OpenBLAS. OpenBLAS's own threads would contend with llama.cpp's, which spin while they wait.
#include <cblas.h>

#include <atomic>
#include <cstddef>

static std::atomic<int> num_threads{1};

int split_get_parallel(void) {
    return OPENBLAS_OPENMP;
}

void split_set_num_threads(int count) {
    num_threads = count;
    scipy_openblas_set_num_threads(1);
}

// C = alpha A B^T + beta C, all row-major, as llama.cpp's backend asks for it: B's rows are split.
void split_sgemm(
    enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE transpose_a, enum CBLAS_TRANSPOSE transpose_b,
    blasint m, blasint n, blasint k, float alpha, const float * a, blasint lda,
    const float * b, blasint ldb, float beta, float * c, blasint ldc) {
    const bool splits = order == CblasRowMajor && transpose_b == CblasTrans;
    const int parts = splits ? num_threads.load() : 1;
    #pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; part++) {
        const blasint start = (blasint) ((ptrdiff_t) n * part / parts);
        const blasint end = (blasint) ((ptrdiff_t) n * (part + 1) / parts);
        if (start < end) {
            scipy_cblas_sgemm(
                order, transpose_a, transpose_b, m, end - start, k, alpha, a, lda,
                b + (size_t) start * ldb, ldb, beta, c + start, ldc);
        }
    }
}
