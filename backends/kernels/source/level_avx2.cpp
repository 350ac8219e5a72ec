// AVX2 (Haswell, Zen and later), without a dot product of bytes.
#include <cmath>
#include <cstring>

#include "level.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(HOSTELRY_LEFT_OUT)

#include "target.h"
HOSTELRY_TARGET("avx2,fma,f16c")

#include "avx2.h"

namespace hostelry {
namespace {

struct Plain : Avx2 {
    static constexpr int kWideZero = 0;

    static B wide(const uint8_t *p) { return bytes(p); }

    // Sums of two products stay below 2^15: codes of up to six bits are at most 63, and of 8-bit ones the size is at
    // most 128 with the sign moved to x, which is never -128.
    template <int bits>
    static __m256i products(__m256i w, __m256i x) {
        if constexpr (bits == 8) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        return _mm256_maddubs_epi16(w, x);
    }
    template <int bits>
    static I dot(I sum, B w, const int8_t *x) {
        int32_t four;
        std::memcpy(&four, x, 4);
        const __m256i splat = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
        return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(products<bits>(w.low, splat), ones)),
                _mm256_add_epi32(sum.high, _mm256_madd_epi16(products<bits>(w.high, splat), ones))};
    }
};

constexpr Level level{"avx2", multiply<Plain>, activate_rows, peak<Plain>, place_tokens, attend<Plain>,
                      shrink<Plain>, expand<Plain>};

}  // namespace

const Level *const avx2_level = &level;

}  // namespace hostelry

HOSTELRY_TARGET_END

#else

namespace hostelry {
const Level *const avx2_level = nullptr;
}

#endif
