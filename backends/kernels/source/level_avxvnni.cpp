// AVX-VNNI (Alder Lake and later): the dot product of bytes in registers of 256 bits.
#include <cmath>
#include <cstring>

#include "level.h"

#if defined(__x86_64__) && ((defined(__GNUC__) && __GNUC__ >= 11) || defined(__clang__)) && !defined(HOSTELRY_LEFT_OUT)

#include "target.h"
HOSTELRY_TARGET("avx2,fma,f16c,avxvnni")

#include "avx2.h"

namespace hostelry {
namespace {

struct Vnni : Avx2 {
    static constexpr int kWideZero = 128;  // the instruction wants unsigned weights

    static B wide(const uint8_t *p) {
        const B b = bytes(p);
        const __m256i top = _mm256_set1_epi8(-128);
        return {_mm256_xor_si256(b.low, top), _mm256_xor_si256(b.high, top)};
    }
    template <int bits>
    static I dot(I sum, B w, const int8_t *x) {
        int32_t four;
        std::memcpy(&four, x, 4);
        const __m256i splat = _mm256_set1_epi32(four);
        return {_mm256_dpbusd_avx_epi32(sum.low, w.low, splat), _mm256_dpbusd_avx_epi32(sum.high, w.high, splat)};
    }
};

constexpr Level level{"avxvnni", multiply<Vnni>, activate_rows, peak<Vnni>, place_tokens, attend<Vnni>,
                      shrink<Vnni>, expand<Vnni>};

}  // namespace

const Level *const avxvnni_level = &level;

}  // namespace hostelry

HOSTELRY_TARGET_END

#else

namespace hostelry {
const Level *const avxvnni_level = nullptr;
}

#endif
