// NEON with the dot product of bytes (ARMv8.2, Apple silicon). Compiled for arm64 only, and not run on it yet.
#include <cmath>
#include <cstring>

#include "level.h"

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(HOSTELRY_LEFT_OUT)

#include "target.h"
#if defined(__clang__)
HOSTELRY_TARGET("dotprod")
#else
HOSTELRY_TARGET("arch=armv8.2-a+dotprod")
#endif

#include <arm_neon.h>

#include "half.h"
#include "product.h"

namespace hostelry {
namespace {

struct Neon {
    struct F { float32x4_t v[4]; };
    struct I { int32x4_t v[4]; };
    struct B { uint8x16_t v[4]; };
    static constexpr int kWideZero = 0;

    static B bytes(const uint8_t *p) { return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}}; }
    static B wide(const uint8_t *p) { return bytes(p); }

    template <int shift, int mask>
    static B field(B b) {
        for (uint8x16_t &v : b.v) v = vandq_u8(vshlq_u8(v, vdupq_n_s8(-shift)), vdupq_n_u8(mask));
        return b;
    }
    template <int value>
    static B add_bit(B b, const uint8_t *bits) {
        const uint8x16_t bit = vcombine_u8(vcreate_u8(0x8040201008040201), vcreate_u8(0x8040201008040201));
        for (int i = 0; i < 4; i++) {
            const uint8x16_t spread = vcombine_u8(vdup_n_u8(bits[2 * i]), vdup_n_u8(bits[2 * i + 1]));
            b.v[i] = vorrq_u8(b.v[i], vandq_u8(vtstq_u8(spread, bit), vdupq_n_u8(value)));
        }
        return b;
    }
    template <int shift>
    static B add_pair(B b, B four) {
        for (int i = 0; i < 4; i++) {
            const uint8x16_t at_4 = vshlq_u8(four.v[i], vdupq_n_s8(4 - shift));
            b.v[i] = vorrq_u8(b.v[i], vandq_u8(at_4, vdupq_n_u8(0x30)));
        }
        return b;
    }
    template <int bits>
    static I dot(I sum, const B &w, const int8_t *x) {
        int32_t four;
        std::memcpy(&four, x, 4);
        const int8x16_t splat = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (int i = 0; i < 4; i++) sum.v[i] = vdotq_s32(sum.v[i], vreinterpretq_s8_u8(w.v[i]), splat);
        return sum;
    }
    static I whole(int32_t value) {
        const int32x4_t v = vdupq_n_s32(value);
        return {{v, v, v, v}};
    }
    static F to_float(I i) {
        return {{vcvtq_f32_s32(i.v[0]), vcvtq_f32_s32(i.v[1]), vcvtq_f32_s32(i.v[2]), vcvtq_f32_s32(i.v[3])}};
    }
    static F splat(float value) {
        const float32x4_t v = vdupq_n_f32(value);
        return {{v, v, v, v}};
    }
    static F zero() { return splat(0.0f); }
    static F load(const float *p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
    static F halves(const uint8_t *p) {
        float values[kRows];
        for (int r = 0; r < kRows; r++) values[r] = half_to_float(p + 2 * r);
        return load(values);
    }
    static F levels(const uint8_t *p) {
        float values[kRows];
        for (int r = 0; r < kRows; r++) values[r] = static_cast<float>(static_cast<int8_t>(p[r]));
        return load(values);
    }
    template <int shift>
    static F half_levels(const uint8_t *p) {
        float values[kRows];
        for (int r = 0; r < kRows; r++) values[r] = static_cast<float>(p[r] >> shift & 15);
        return load(values);
    }
    static F mul(F a, const F &b) {
        for (int i = 0; i < 4; i++) a.v[i] = vmulq_f32(a.v[i], b.v[i]);
        return a;
    }
    static F fma(const F &a, const F &b, F c) {
        for (int i = 0; i < 4; i++) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
        return c;
    }
    static void store(float *p, const F &f) {
        for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, f.v[i]);
    }
};

constexpr Level level{"neon", multiply<Neon>, activate_rows, peak<Neon>, place_tokens, attend<Neon>,
                      shrink<Neon>, expand<Neon>};

}  // namespace

const Level *const neon_level = &level;

}  // namespace hostelry

HOSTELRY_TARGET_END

#else

namespace hostelry {
const Level *const neon_level = nullptr;
}

#endif
