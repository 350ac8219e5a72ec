// The reference: plain C++, on every processor. `std::fma` rounds once, as the vector instructions do.
#include <cmath>

#include "half.h"
#include "product.h"

namespace hostelry {
namespace {

struct Scalar {
    struct F { float v[kRows]; };
    struct I { int32_t v[kRows]; };
    struct B { uint8_t v[64]; };
    static constexpr int kWideZero = 0;

    static B bytes(const uint8_t *p) {
        B b;
        std::memcpy(b.v, p, 64);
        return b;
    }
    static B wide(const uint8_t *p) { return bytes(p); }

    template <int shift, int mask>
    static B field(B b) {
        for (uint8_t &v : b.v) v = v >> shift & mask;
        return b;
    }
    template <int value>
    static B add_bit(B b, const uint8_t *bits) {
        for (int i = 0; i < 64; i++) b.v[i] |= (bits[i / 8] >> (i % 8) & 1) * value;
        return b;
    }
    template <int shift>
    static B add_pair(B b, const B &four) {
        for (int i = 0; i < 64; i++) b.v[i] |= (four.v[i] >> shift & 3) << 4;
        return b;
    }
    template <int bits>
    static I dot(I sum, const B &w, const int8_t *x) {
        for (int i = 0; i < 64; i++) sum.v[i / 4] += (bits == 8 ? static_cast<int8_t>(w.v[i]) : w.v[i]) * x[i % 4];
        return sum;
    }
    static I whole(int32_t value) {
        I i;
        for (int32_t &v : i.v) v = value;
        return i;
    }
    static F to_float(const I &i) {
        F f;
        for (int r = 0; r < kRows; r++) f.v[r] = static_cast<float>(i.v[r]);
        return f;
    }
    static F splat(float value) {
        F f;
        for (float &v : f.v) v = value;
        return f;
    }
    static F zero() { return splat(0.0f); }
    static F load(const float *p) {
        F f;
        std::memcpy(f.v, p, sizeof f.v);
        return f;
    }
    static F halves(const uint8_t *p) {
        F f;
        for (int r = 0; r < kRows; r++) f.v[r] = half_to_float(p + 2 * r);
        return f;
    }
    static F levels(const uint8_t *p) {
        F f;
        for (int r = 0; r < kRows; r++) f.v[r] = static_cast<float>(static_cast<int8_t>(p[r]));
        return f;
    }
    template <int shift>
    static F half_levels(const uint8_t *p) {
        F f;
        for (int r = 0; r < kRows; r++) f.v[r] = static_cast<float>(p[r] >> shift & 15);
        return f;
    }
    static F mul(F a, const F &b) {
        for (int r = 0; r < kRows; r++) a.v[r] *= b.v[r];
        return a;
    }
    static F fma(const F &a, const F &b, F c) {
        for (int r = 0; r < kRows; r++) c.v[r] = std::fma(a.v[r], b.v[r], c.v[r]);
        return c;
    }
    static void store(float *p, const F &f) { std::memcpy(p, f.v, sizeof f.v); }
};

constexpr Level level{"scalar", multiply<Scalar>, activate_rows, peak<Scalar>, place_tokens, attend<Scalar>,
                      shrink<Scalar>, expand<Scalar>};

}  // namespace

const Level *const scalar_level = &level;

}  // namespace hostelry
