/* Included before every C++ file of llama.cpp.
 *
 * gcc's own ldtilecfg names 8 bytes of its 64-byte operand as read (seen with gcc 12), so the optimiser drops
 * what llama.cpp wrote to the others, and the first prompt on a CPU with AMX ends in an illegal instruction. */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
