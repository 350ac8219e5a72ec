// 16 rows as two registers of eight: what AVX2 and AVX-VNNI share. To be included behind HOSTELRY_TARGET.
#pragma once

#include <immintrin.h>

#include "product.h"

namespace hostelry {
namespace {

struct Avx2 {
    struct F { __m256 low, high; };
    struct I { __m256i low, high; };
    using B = I;

    static B bytes(const uint8_t *p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 32))};
    }

    template <int shift, int mask>
    static B field(B b) {
        const __m256i kept = _mm256_set1_epi8(mask);
        return {_mm256_and_si256(_mm256_srli_epi16(b.low, shift), kept),
                _mm256_and_si256(_mm256_srli_epi16(b.high, shift), kept)};
    }
    template <int value>
    static B add_bit(B b, const uint8_t *bits) {
        return {_mm256_or_si256(b.low, spread<value>(bits)), _mm256_or_si256(b.high, spread<value>(bits + 4))};
    }
    template <int shift>
    static B add_pair(B b, B four) {
        if constexpr (shift < 4) {
            four = {_mm256_slli_epi16(four.low, 4 - shift), _mm256_slli_epi16(four.high, 4 - shift)};
        } else {
            four = {_mm256_srli_epi16(four.low, shift - 4), _mm256_srli_epi16(four.high, shift - 4)};
        }
        const __m256i kept = _mm256_set1_epi8(0x30);
        return {_mm256_or_si256(b.low, _mm256_and_si256(four.low, kept)),
                _mm256_or_si256(b.high, _mm256_and_si256(four.high, kept))};
    }
    static I whole(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
    static F to_float(I i) { return {_mm256_cvtepi32_ps(i.low), _mm256_cvtepi32_ps(i.high)}; }
    static F splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static F halves(const uint8_t *p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))),
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p + 16)))};
    }
    static F levels(const uint8_t *p) {
        return levels(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    }
    template <int shift>
    static F half_levels(const uint8_t *p) {
        const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
        return levels(_mm_and_si128(_mm_srli_epi16(both, shift), _mm_set1_epi8(15)));
    }
    static F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    static F fma(F a, F b, F c) {
        return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
    }
    static void store(float *p, F f) {
        _mm256_storeu_ps(p, f.low);
        _mm256_storeu_ps(p + 8, f.high);
    }

  private:
    static F levels(__m128i all) {
        return to_float({_mm256_cvtepi8_epi32(all), _mm256_cvtepi8_epi32(_mm_srli_si128(all, 8))});
    }
    template <int value>
    static __m256i spread(const uint8_t *bits) {  // 32 bits → 32 bytes of 0 or `value`
        int32_t word;
        std::memcpy(&word, bits, 4);
        const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                                 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
        const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
        const __m256i found = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), byte_of), bit);
        return _mm256_and_si256(_mm256_cmpeq_epi8(found, bit), _mm256_set1_epi8(value));
    }
};

}  // namespace
}  // namespace hostelry
