// AVX-512 with VNNI (Ice Lake, Zen 4 and later): 16 rows are one register.
#include <cmath>
#include <cstring>

#include "level.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(HOSTELRY_LEFT_OUT)

#include "target.h"
HOSTELRY_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

#include <immintrin.h>

#include "product.h"

namespace hostelry {
namespace {

struct Avx512 {
    using F = __m512;
    using I = __m512i;
    using B = __m512i;
    static constexpr int kWideZero = 128;  // the instruction wants unsigned weights

    static B bytes(const uint8_t *p) { return _mm512_loadu_si512(p); }
    static B wide(const uint8_t *p) { return _mm512_xor_si512(bytes(p), _mm512_set1_epi8(-128)); }

    template <int shift, int mask>
    static B field(B b) {
        return _mm512_and_si512(_mm512_srli_epi16(b, shift), _mm512_set1_epi8(mask));
    }
    template <int value>
    static B add_bit(B b, const uint8_t *bits) {
        __mmask64 mask;
        std::memcpy(&mask, bits, 8);
        return _mm512_mask_add_epi8(b, mask, b, _mm512_set1_epi8(value));
    }
    template <int shift>
    static B add_pair(B b, B four) {
        if constexpr (shift < 4) {
            four = _mm512_slli_epi16(four, 4 - shift);
        } else {
            four = _mm512_srli_epi16(four, shift - 4);
        }
        return _mm512_or_si512(b, _mm512_and_si512(four, _mm512_set1_epi8(0x30)));
    }
    template <int bits>
    static I dot(I sum, B w, const int8_t *x) {
        int32_t four;
        std::memcpy(&four, x, 4);
        return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
    }
    static I whole(int32_t value) { return _mm512_set1_epi32(value); }
    static F to_float(I i) { return _mm512_cvtepi32_ps(i); }
    static F splat(float value) { return _mm512_set1_ps(value); }
    static F zero() { return _mm512_setzero_ps(); }
    static F load(const float *p) { return _mm512_loadu_ps(p); }
    static F halves(const uint8_t *p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    }
    static F levels(const uint8_t *p) {
        return levels(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    }
    template <int shift>
    static F half_levels(const uint8_t *p) {
        const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
        return levels(_mm_and_si128(_mm_srli_epi16(both, shift), _mm_set1_epi8(15)));
    }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static void store(float *p, F f) { _mm512_storeu_ps(p, f); }

  private:
    static F levels(__m128i all) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(all)); }
};

constexpr Level level{"avx512vnni", multiply<Avx512>, activate_rows, peak<Avx512>, place_tokens, attend<Avx512>,
                      shrink<Avx512>, expand<Avx512>};

}  // namespace

const Level *const avx512vnni_level = &level;

}  // namespace hostelry

HOSTELRY_TARGET_END

#else

namespace hostelry {
const Level *const avx512vnni_level = nullptr;
}

#endif
