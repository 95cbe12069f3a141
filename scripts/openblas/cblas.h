// Puts this folder's names between llama.cpp's BLAS backend and the OpenBLAS of PyPI's scipy-openblas32.
#pragma once
#include_next <cblas.h>

#ifdef __cplusplus
extern "C" {
#endif
void split_sgemm(
    enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE transpose_a, enum CBLAS_TRANSPOSE transpose_b,
    blasint m, blasint n, blasint k, float alpha, const float * a, blasint lda,
    const float * b, blasint ldb, float beta, float * c, blasint ldc);
void split_set_num_threads(int count);
int split_get_parallel(void);
#ifdef __cplusplus
}
#endif

#define cblas_sgemm split_sgemm
#define openblas_set_num_threads split_set_num_threads
#define openblas_get_parallel split_get_parallel
#define openblas_get_config scipy_openblas_get_config
